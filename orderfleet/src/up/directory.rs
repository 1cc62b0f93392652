//! DIR: what one `up` keeps between starts. Only one at a time may use it, and only its owner may read its secrets.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use domain::keyring;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

/// A directory that this process has to itself.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    // Held while this process lives, and let go by the kernel however it ends.
    _lock: File,
}

/// What must be the same at every start: keys and ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The API key of the owner, once there is a database that knows it.
    pub(super) api_key: Option<String>,
    /// The key that our payment client shows the gateway simulator.
    pub(super) gateway_key: String,
    /// What the gateway simulator signs its events with.
    #[serde(default)]
    pub(super) gateway_webhook_secret: String,
    /// What the demo webhooks are signed with, once the API has said it.
    pub(super) receiver_secret: Option<String>,
    /// The port of the gateway simulator.
    pub(super) gateway_port: u16,
    /// The port of the webhook receiver.
    pub(super) receiver_port: u16,
    /// The port of the private cluster, when there is one.
    pub(super) postgres_port: Option<u16>,
    /// The private cluster's URL: sourcing DIR/env must not turn it into somebody else's server.
    pub(super) private_database_url: Option<String>,
}

impl Directory {
    /// Makes the directory where it is missing, and takes it.
    pub(super) fn take(path: &Path) -> anyhow::Result<Directory> {
        std::fs::create_dir_all(path.join("logs")).with_context(|| {
            format!(
                "creating {}: choose a directory you may write to with --data-dir",
                path.display()
            )
        })?;
        let path = path
            .canonicalize()
            .with_context(|| format!("finding {}", path.display()))?;
        let lock_path = path.join("up.lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("opening {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Directory { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by another `orderfleet up`: stop that one (its pid is in pids.json), or choose another --data-dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", lock_path.display())),
        }
    }

    /// A file of that name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What an earlier start kept, or new keys and free ports.
    pub(super) fn kept(&self) -> anyhow::Result<Kept> {
        let path = self.file("kept.json");
        let mut kept = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged: delete it to start with new keys", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept {
                api_key: None,
                gateway_key: format!("sk_test_{}", random_word()),
                gateway_webhook_secret: String::new(),
                receiver_secret: None,
                gateway_port: 0,
                receiver_port: 0,
                postgres_port: None,
                private_database_url: None,
            },
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        if kept.gateway_webhook_secret.is_empty() {
            kept.gateway_webhook_secret = format!("whsec_{}", random_word());
        }
        kept.gateway_port = usable_port(kept.gateway_port)?;
        kept.receiver_port = usable_port(kept.receiver_port)?;
        self.keep(&kept)?;
        Ok(kept)
    }

    /// Keeps it for the next start.
    pub(super) fn keep(&self, kept: &Kept) -> anyhow::Result<()> {
        write_secret(&self.file("kept.json"), &serde_json::to_vec_pretty(kept)?)
    }

    /// DIR/master.key, with a new master key in it where there is none.
    pub(super) fn master_key(&self) -> anyhow::Result<PathBuf> {
        let path = self.file("master.key");
        if !path.exists() {
            write_secret(&path, keyring::new_key().expose_secret().as_bytes())?;
        }
        Ok(path)
    }

    /// Writes DIR/env, to be sourced by a shell.
    pub(super) fn write_env(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        write_secret(&self.file("env"), env_text(settings).as_bytes())
    }
}

/// `export NAME='value'` for each, with the value quoted for any POSIX shell.
fn env_text(settings: &[(&str, &str)]) -> String {
    let quoted = |value: &str| value.replace('\'', r"'\''");
    settings
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", quoted(value)))
        .collect()
}

/// Writes a file that only its owner can read, whole or not at all.
fn write_secret(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

/// That port when it is free, else one that is. Zero means any.
fn usable_port(wanted: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", wanted))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .context("finding a free port on 127.0.0.1")?;
    Ok(listener.local_addr().context("reading a port")?.port())
}

/// 160 random bits in letters and digits.
fn random_word() -> String {
    rand::random::<[u8; 20]>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused_until_it_is_let_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let taken = Directory::take(dir.path()).expect("a free directory");
        let error = Directory::take(dir.path()).expect_err("a taken directory").to_string();
        assert!(error.contains("in use by another `orderfleet up`"), "{error}");
        drop(taken);
        Directory::take(dir.path()).expect("free again");
    }

    #[test]
    fn keys_and_ports_stay_the_same() {
        let dir = tempfile::tempdir().expect("a directory");
        let directory = Directory::take(dir.path()).expect("a free directory");
        let first = directory.kept().expect("new keys");
        let second = directory.kept().expect("kept keys");
        assert_eq!(first.gateway_key, second.gateway_key);
        assert_eq!(
            (first.gateway_port, first.receiver_port),
            (second.gateway_port, second.receiver_port)
        );
    }

    #[test]
    fn the_master_key_stays_the_same_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().expect("a directory");
        let directory = Directory::take(dir.path()).expect("a free directory");
        let path = directory.master_key().expect("a new key");
        let key = std::fs::read_to_string(&path).expect("a file");
        assert!(keyring::Keyring::new(&[key.clone().into()]).is_ok());
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        directory.master_key().expect("the same key");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), key);
    }

    #[test]
    fn env_survives_any_quote() {
        assert_eq!(env_text(&[("A", "it's $HOME")]), "export A='it'\\''s $HOME'\n");
    }
}

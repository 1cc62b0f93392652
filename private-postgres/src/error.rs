//! Why there is no PostgreSQL, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// What kept the cluster from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the setting nor the system nor the cache nor the download had a usable PostgreSQL.
    #[error(
        "found no PostgreSQL {wanted}; looked at: {}; install it (Debian: apt-get install postgresql, Homebrew: brew \
         install postgresql), or set ORDERFLEET_POSTGRES_BIN to the directory of its binaries",
        tried.join("; ")
    )]
    NoBinaries {
        /// Which versions would do.
        wanted: String,
        /// Each place, and what was wrong with it.
        tried: Vec<String>,
    },
    /// Another program listens there.
    #[error("port {port} is in use by another program; choose another one, or none to get a free one")]
    PortInUse {
        /// The port that was asked for.
        port: u16,
    },
    /// The disk is full.
    #[error("no space is left for {}: free some, or choose a data directory on another disk", dir.display())]
    NoSpace {
        /// The data directory.
        dir: PathBuf,
    },
    /// A file or directory belongs to someone else, or may not be entered or written.
    #[error("cannot use {}: {reason}", path.display())]
    Permissions {
        /// What cannot be used.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The data was written by another major version.
    #[error(
        "{} was made by PostgreSQL {found}, and the binaries at hand are of {at_hand}; set ORDERFLEET_POSTGRES_BIN to \
         a PostgreSQL {found}, upgrade the data with pg_upgrade, or choose another data directory", dir.display()
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// The version that made it.
        found: String,
        /// The versions there are.
        at_hand: String,
    },
    /// A server that is not ours runs on this data.
    #[error(
        "another PostgreSQL (process {pid}) is running on {}: stop it (pg_ctl stop -D {}), or choose another data \
         directory", dir.display(), dir.display()
    )]
    OtherServer {
        /// The directory with the data.
        dir: PathBuf,
        /// The process that runs on it.
        pid: u32,
    },
    /// Another process of ours has this data directory.
    #[error("another process already uses the data directory {}; stop it, or choose another one", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// PostgreSQL refuses to be root, and there is nobody else to run it as.
    #[error("PostgreSQL does not run as root, and no other way was possible here: {why}")]
    AsRoot {
        /// What was tried.
        why: String,
    },
    /// It did not get ready in time.
    #[error("PostgreSQL was not ready within {seconds} s; the end of its log {}:\n{tail}", log.display())]
    NotReady {
        /// How long it had.
        seconds: u64,
        /// The log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// One of PostgreSQL's programs failed in a way that none of the above explains.
    #[error("{what} failed:\n{output}")]
    Failed {
        /// Which one.
        what: String,
        /// What it said.
        output: String,
    },
    /// The operating system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done to what.
        doing: String,
        /// The refusal.
        source: io::Error,
    },
}

impl Error {
    /// Wraps an error of the operating system, with the ones people can act on told apart.
    pub(crate) fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { dir: path.to_owned() },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permissions {
                path: path.to_owned(),
                reason: format!("{doing}: {source}; give this user the directory, or choose another one"),
            },
            _ => Self::Io {
                doing: format!("{doing} {}", path.display()),
                source,
            },
        }
    }
}

/// What the end of a log means, as far as it means something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Symptom {
    PortInUse,
    NoSpace,
    Permissions,
    OtherVersion,
    OtherServer,
    /// Processes of a killed server are still on their way out: try again.
    NotGoneYet,
}

/// Reads PostgreSQL's messages, which are English since we run it so.
pub(crate) fn diagnose(output: &str) -> Option<Symptom> {
    const SYMPTOMS: [(&str, Symptom); 11] = [
        ("No space left on device", Symptom::NoSpace),
        ("Disk quota exceeded", Symptom::NoSpace),
        ("Address already in use", Symptom::PortInUse),
        ("pre-existing shared memory block", Symptom::NotGoneYet),
        ("is still in use", Symptom::NotGoneYet),
        ("database files are incompatible with server", Symptom::OtherVersion),
        ("lock file \"postmaster.pid\" already exists", Symptom::OtherServer),
        ("has wrong ownership", Symptom::Permissions),
        ("has invalid permissions", Symptom::Permissions),
        ("Permission denied", Symptom::Permissions),
        ("Read-only file system", Symptom::Permissions),
    ];
    SYMPTOMS
        .iter()
        .find(|(words, _)| output.contains(words))
        .map(|(_, symptom)| *symptom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_own_words_are_understood() {
        let says = |line: &str| diagnose(line);
        assert_eq!(
            says("LOG:  could not bind IPv4 address \"127.0.0.1\": Address already in use"),
            Some(Symptom::PortInUse)
        );
        assert_eq!(
            says("FATAL:  could not write lock file \"postmaster.pid\": No space left on device"),
            Some(Symptom::NoSpace)
        );
        assert_eq!(
            says("FATAL:  pre-existing shared memory block (key 1925, ID 4) is still in use\nHINT:  Terminate any old"),
            Some(Symptom::NotGoneYet)
        );
        assert_eq!(
            says("FATAL:  database files are incompatible with server"),
            Some(Symptom::OtherVersion)
        );
        assert_eq!(
            says("FATAL:  data directory \"/x\" has invalid permissions"),
            Some(Symptom::Permissions)
        );
        assert_eq!(says("LOG:  database system is ready to accept connections"), None);
    }
}

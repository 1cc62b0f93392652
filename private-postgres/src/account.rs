//! Who PostgreSQL runs as.
//!
//! It refuses to be root. When we are not, it runs as us. When we are, there are two ways, and not every machine has
//! both: as `nobody`, which cannot reach data below a private directory such as `/root`; or in a user namespace, where
//! it is still us but believes otherwise, which hardened containers forbid. Existing data decides by its owner.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

const ROOT: u32 = 0;

/// Who runs the programs of PostgreSQL and owns its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// Whoever we are.
    Ourselves,
    /// Another user, whom root becomes.
    Other { uid: u32, gid: u32 },
    /// Root, seen as that user from inside a user namespace.
    Namespace { uid: u32, gid: u32 },
}

impl Account {
    /// Decides for data in `pgdata`, which need not exist yet, and binaries in `bin_dir`.
    pub(crate) fn choose(pgdata: &Path, bin_dir: &Path) -> Result<Self, Error> {
        let us = rustix::process::geteuid().as_raw();
        let owner = fs::metadata(pgdata).ok().map(|meta| (meta.uid(), meta.gid()));
        if us != ROOT {
            return match owner {
                Some((uid, _)) if uid != us => Err(Error::Permissions {
                    path: pgdata.to_owned(),
                    reason: format!(
                        "it belongs to user {uid} and we are user {us}; run as its owner, or choose another directory"
                    ),
                }),
                _ => Ok(Self::Ourselves),
            };
        }
        match owner {
            Some((ROOT, _)) => Self::namespace().map_err(|why| Error::AsRoot {
                why: format!("{} belongs to root, and {why}", pgdata.display()),
            }),
            Some((uid, gid)) => Self::other(uid, gid, pgdata, bin_dir).map_err(|why| Error::AsRoot { why }),
            None => {
                let (uid, gid) = nobody();
                Self::other(uid, gid, pgdata, bin_dir).or_else(|first| {
                    Self::namespace().map_err(|second| Error::AsRoot {
                        why: format!("{first}; {second}"),
                    })
                })
            }
        }
    }

    fn other(uid: u32, gid: u32, pgdata: &Path, bin_dir: &Path) -> Result<Self, String> {
        for path in [pgdata, bin_dir] {
            if let Some(closed) = path.ancestors().skip(1).find(|dir| !may_enter(dir, uid)) {
                return Err(format!(
                    "user {uid} may not enter {} (chmod o+x it, or choose a data directory elsewhere)",
                    closed.display()
                ));
            }
        }
        let account = Self::Other { uid, gid };
        account
            .probe()
            .map_err(|source| format!("becoming user {uid}: {source}"))?;
        Ok(account)
    }

    fn namespace() -> Result<Self, String> {
        let (uid, gid) = nobody();
        let account = Self::Namespace { uid, gid };
        account
            .probe()
            .map_err(|source| format!("entering a user namespace: {source}"))?;
        Ok(account)
    }

    fn probe(self) -> io::Result<()> {
        let status = self
            .command(Path::new("/bin/sh"))
            .args(["-c", ":"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("refused ({status})")))
        }
    }

    /// A command that runs as this account, speaks English, and takes nothing of PostgreSQL's from our environment.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Ourselves => Command::new(program),
            Self::Other { uid, gid } => {
                // From root this drops the supplementary groups too.
                let mut command = Command::new(program);
                command.uid(uid).gid(gid);
                command
            }
            Self::Namespace { uid, gid } => {
                let mut command = Command::new("unshare");
                command
                    .arg("--user")
                    .arg(format!("--map-user={uid}"))
                    .arg(format!("--map-group={gid}"));
                command.arg("--").arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/");
        command
    }

    /// Gives a path to this account.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Other { uid, gid } => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
            Self::Ourselves | Self::Namespace { .. } => Ok(()),
        }
    }
}

/// Whether a user that is in none of our groups may pass through a directory. One that does not exist will be ours to make.
fn may_enter(dir: &Path, uid: u32) -> bool {
    let Ok(meta) = fs::metadata(if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    }) else {
        return true;
    };
    meta.permissions().mode() & 0o001 != 0 || (meta.uid() == uid && meta.permissions().mode() & 0o100 != 0)
}

/// The user for what nobody should own. PostgreSQL wants a user with a name, so the number alone would not do.
fn nobody() -> (u32, u32) {
    const USUAL: (u32, u32) = (65534, 65534);
    let Ok(users) = fs::read_to_string("/etc/passwd") else {
        return USUAL;
    };
    users
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == "nobody").then_some(())?;
            Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .unwrap_or(USUAL)
}

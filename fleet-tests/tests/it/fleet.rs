//! `orderfleet up` as a child process, with a directory of its own.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Where `cargo xtask test` says the executable is, which it has built already.
const EXECUTABLE: &str = "ORDERFLEET_EXECUTABLE";

/// A machine that builds and tests at once is slow.
const READY_MAX: Duration = Duration::from_secs(120);

/// Longer than the grace of the workers inside.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A running `orderfleet up`. Dropping it ends it and everything it started.
pub(crate) struct Fleet {
    up: Child,
    dir: TempDir,
}

impl Fleet {
    /// Starts it with a private PostgreSQL and waits for its `ready` line.
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As root, PostgreSQL runs as `nobody`, who has to get in.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = orderfleet();
        command
            .args(["up", "--api-port", &free_port().to_string(), "--data-dir"])
            .arg(dir.path())
            .args(args);
        let mut up = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();

        let (tell, ready) = mpsc::channel();
        let stdout = up.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("ready ") {
                    let _ = tell.send(());
                }
            }
        });
        // Kept for the message when it does not get ready; read to the end, so that the fleet never waits for us.
        let stderr = up.stderr.take().unwrap();
        let said = std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect::<Vec<_>>());
        let Ok(()) = ready.recv_timeout(READY_MAX) else {
            let _ = up.kill();
            let status = up.wait().unwrap();
            panic!(
                "the fleet did not get ready ({status}); it said:\n{}",
                said.join().unwrap_or_default().join("\n")
            );
        };
        Self { up, dir }
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Another command of the executable, told about this fleet as a person would tell it: by sourcing DIR/env.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#". "$0" && exec "$@""#])
            .arg(self.file("env"))
            .arg(executable())
            .args(args);
        command
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end; anything but success fails the test with what it said.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(args);
        let output = command.output().unwrap();
        assert_success(&command, &output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The processes it looks after, by role.
    pub(crate) fn pids(&self) -> BTreeMap<String, u32> {
        let text = std::fs::read(self.file("pids.json")).unwrap_or_default();
        // It may be being written.
        let roles: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).unwrap_or_default();
        roles
            .into_iter()
            .filter_map(|(role, pid)| Some((role, u32::try_from(pid.as_u64()?).ok()?)))
            .collect()
    }

    /// SIGTERM, and the end that follows.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.end()
    }

    fn end(&mut self) -> ExitStatus {
        if let Ok(Some(status)) = self.up.try_wait() {
            return status;
        }
        signal(self.up.id(), Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.up.try_wait() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.up.kill();
        self.up.wait().unwrap()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.end();
    }
}

#[track_caller]
pub(crate) fn assert_success(command: &Command, output: &Output) {
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Signals a process that may be gone by now.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The executable under test, with no setting of ours in its environment.
pub(crate) fn orderfleet() -> Command {
    let mut command = Command::new(executable());
    for (name, _) in std::env::vars_os() {
        let is_setting = name.to_string_lossy().starts_with("ORDERFLEET_") && name != "ORDERFLEET_POSTGRES_BIN";
        if is_setting || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command
}

/// Built already by `cargo xtask test`, else by one call of cargo for all tests here.
fn executable() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(path) = std::env::var_os(EXECUTABLE) {
            return path.into();
        }
        // This test lies in <target>/<profile>/deps.
        let profile = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bin", "orderfleet", "--target-dir"])
            .arg(profile.parent().unwrap())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
            .status();
        assert!(status.unwrap().success(), "building orderfleet");
        profile.join("orderfleet")
    })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

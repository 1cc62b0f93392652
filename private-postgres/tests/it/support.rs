//! What these tests share.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use private_postgres::{Cluster, Options};

/// A directory that `nobody` can reach, as most are.
pub(crate) fn a_directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    dir
}

pub(crate) fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Options for a cluster that is quick to make.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        fsync: false,
        ..Options::new(dir.join("cluster"))
    }
}

/// Runs one statement as a client would, over TCP.
pub(crate) fn query(cluster: &Cluster, sql: &str) -> String {
    let output = Command::new(cluster.binaries().program("psql"))
        .args(["-X", "-w", "-q", "-A", "-t", "-d"])
        .arg(cluster.url("postgres"))
        .args(["-c", sql])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{sql}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie is dead: whoever adopted it has not looked yet.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

pub(crate) fn kill_9(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

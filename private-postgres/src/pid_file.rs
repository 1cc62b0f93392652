//! Whether `postmaster.pid` speaks of a server that runs.
//!
//! The file outlives a server that was killed, and process ids are used again: a file whose process is another program
//! would keep PostgreSQL from starting for ever, since it trusts any living process of its own user. One whose process
//! is a server on this data must never be touched: two servers on the same data destroy it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// What the pid file of a data directory says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PidFile {
    /// There is none, or its process is gone: PostgreSQL deals with that by itself.
    Free,
    /// Its process lives, and is another program.
    Reused,
    /// A server runs on this data.
    Live { pid: u32 },
}

/// Reads the file and looks at the process it names.
pub(crate) fn judge(pgdata: &Path) -> io::Result<PidFile> {
    let text = match fs::read_to_string(pgdata.join("postmaster.pid")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(PidFile::Free),
        Err(error) => return Err(error),
    };
    let Some(pid) = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<i32>().ok())
        .and_then(rustix::process::Pid::from_raw)
    else {
        return Ok(PidFile::Free);
    };
    if rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
        return Ok(PidFile::Free);
    }
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    Ok(if is_server_on(pid, pgdata) {
        PidFile::Live { pid }
    } else {
        PidFile::Reused
    })
}

/// A server's working directory is its data directory. Where that cannot be seen, the name of the program decides, and
/// every doubt is decided for "it runs".
fn is_server_on(pid: u32, pgdata: &Path) -> bool {
    if let Ok(cwd) = fs::read_link(format!("/proc/{pid}/cwd")) {
        return cwd == fs::canonicalize(pgdata).unwrap_or_else(|_| pgdata.to_owned());
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok().or_else(|| {
        let output = Command::new("ps")
            .args(["-o", "comm=", "-p", &pid.to_string()])
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    });
    name.is_none_or(|name| name.trim().is_empty() || name.contains("postgres"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> PidFile {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("postmaster.pid"), text).expect("a pid file");
        judge(dir.path()).expect("a judgement")
    }

    #[test]
    fn no_file_is_free() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(judge(dir.path()).expect("a judgement"), PidFile::Free);
    }

    #[test]
    fn a_dead_process_and_an_empty_file_are_free() {
        let mut child = Command::new("true").spawn().expect("a process");
        let dead = child.id();
        child.wait().expect("its end");
        assert_eq!(judged(&format!("{dead}\n/somewhere\n")), PidFile::Free);
        assert_eq!(judged(""), PidFile::Free);
    }

    #[test]
    fn a_process_that_is_another_program_is_a_reused_id() {
        assert_eq!(
            judged(&format!("{}\n/somewhere\n", std::process::id())),
            PidFile::Reused
        );
    }

    #[test]
    fn a_process_that_works_in_the_data_directory_is_alive() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new("sleep")
            .arg("30")
            .current_dir(dir.path())
            .spawn()
            .expect("a process");
        fs::write(dir.path().join("postmaster.pid"), format!("{}\n", child.id())).expect("a pid file");
        assert_eq!(
            judge(dir.path()).expect("a judgement"),
            PidFile::Live { pid: child.id() }
        );
        child.kill().expect("its end");
        child.wait().expect("its end");
    }
}

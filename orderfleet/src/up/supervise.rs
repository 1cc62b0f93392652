//! Keeps child processes running: each is this executable in another role, started again whenever it ends.
//!
//! A child that lived a second or longer is started again at once, however often that happens: a fleet under `kill -9`
//! should come back faster than it is killed. Only one that keeps dying young, because it cannot start, is made to wait.
//!
//! Children end with their parent: their standard input is a pipe that only the parent holds open (see
//! [`crate::signals`]). They are in process groups of their own, so that a Ctrl-C at the terminal reaches `up` alone and
//! `up` decides the order in which they stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::signals::PARENT_PIPE;

/// A child that lived this long did start: it is started again without waiting.
const YOUNG: Duration = Duration::from_secs(1);
/// The wait after the first young death; doubled by each further one.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a child may take to end after SIGTERM, before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// What a child is: its name, its arguments, its environment.
#[derive(Debug, Clone)]
pub(super) struct Role {
    /// Its name in pids.json and of its log.
    pub(super) name: String,
    /// The arguments of this executable.
    pub(super) args: Vec<String>,
    /// What is added to the environment; secrets go here, never into the arguments, which everybody can read.
    pub(super) env: Vec<(String, String)>,
}

/// The children of one `up`.
#[derive(Debug)]
pub(super) struct Fleet {
    logs: PathBuf,
    pids: Pids,
    children: Vec<Supervised>,
}

#[derive(Debug)]
struct Supervised {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Fleet {
    /// A fleet without children, whose logs go to that folder.
    pub(super) fn new(logs: PathBuf, pids: Pids) -> Fleet {
        Fleet {
            logs,
            pids,
            children: Vec::new(),
        }
    }

    /// Starts a child, and again whenever it ends.
    pub(super) fn start(&mut self, role: Role) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let log = self.logs.join(format!("{}.log", role.name));
        let first = spawn(&role, &log)?;
        self.pids.set(&role.name, first.process.id());
        let name = role.name.clone();
        let task = tokio::spawn(keep_running(role, log, first, self.pids.clone(), stop.clone()));
        self.children.push(Supervised { name, stop, task });
        Ok(())
    }

    /// Stops the children whose names start with one of these, all at once, and waits for them.
    pub(super) async fn stop(&mut self, prefixes: &[&str]) {
        let is_meant = |child: &Supervised| prefixes.iter().any(|prefix| child.name.starts_with(prefix));
        let (meant, others) = std::mem::take(&mut self.children).into_iter().partition(is_meant);
        self.children = others;
        let meant: Vec<Supervised> = meant;
        for child in &meant {
            child.stop.cancel();
        }
        for child in meant {
            if let Err(error) = child.task.await {
                tracing::error!(role = child.name, %error, "a supervisor failed");
            }
        }
    }
}

/// A child and the pipe whose closing would tell it that its parent is gone. Waiting for a process closes the pipe it
/// holds itself, so this one is kept apart.
#[derive(Debug)]
struct Running {
    process: Child,
    _pipe: Option<ChildStdin>,
}

async fn keep_running(role: Role, log: PathBuf, first: Running, pids: Pids, stop: CancellationToken) {
    let mut child = first;
    let mut young_deaths = 0;
    loop {
        let started = Instant::now();
        tokio::select! {
            ended = child.process.wait() => {
                young_deaths = if started.elapsed() < YOUNG { young_deaths + 1 } else { 0 };
                let wait = wait_before_restart(young_deaths);
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::warn!(role = role.name, how, wait_ms = wait.as_millis() as u64, log = %log.display(),
                    "a process ended; starting it again");
                pids.set(&role.name, None);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stop.cancelled() => return,
                }
            }
            () = stop.cancelled() => {
                end(&role.name, &mut child.process).await;
                pids.set(&role.name, None);
                return;
            }
        }
        child = match respawn(&role, &log, &stop).await {
            Some(child) => child,
            None => return,
        };
        pids.set(&role.name, child.process.id());
    }
}

/// Spawns until it works: out of memory or processes passes.
async fn respawn(role: &Role, log: &Path, stop: &CancellationToken) -> Option<Running> {
    loop {
        match spawn(role, log) {
            Ok(child) => return Some(child),
            Err(error) => tracing::error!(
                role = role.name,
                error = format!("{error:#}"),
                "a process cannot be started"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(WAIT_MAX) => {}
            () = stop.cancelled() => return None,
        }
    }
}

fn spawn(role: &Role, log: &Path) -> anyhow::Result<Running> {
    let executable = std::env::current_exe().context("finding this executable")?;
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening {}", log.display()))?;
    let mut command = std::process::Command::new(executable);
    command
        .args(&role.args)
        .envs(role.env.iter().map(|(name, value)| (name, value)))
        .env(PARENT_PIPE, "1")
        .stdin(Stdio::piped())
        .stdout(log_file.try_clone().context("sharing a log between outputs")?)
        .stderr(log_file)
        .process_group(0);
    let mut process = Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", role.name))?;
    let pipe = process.stdin.take();
    Ok(Running { process, _pipe: pipe })
}

/// SIGTERM, and SIGKILL when the grace is over.
async fn end(name: &str, child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // Refused only when it is gone already.
        let _gone = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        tracing::warn!(role = name, "did not end in time; killing it");
        if let Err(error) = child.kill().await {
            tracing::error!(role = name, %error, "cannot be killed");
        }
    }
}

/// How long to wait after so many young deaths in a row.
fn wait_before_restart(young_deaths: u32) -> Duration {
    match young_deaths {
        0 => Duration::ZERO,
        n => WAIT_MIN.saturating_mul(1 << (n - 1).min(10)).min(WAIT_MAX),
    }
}

/// DIR/pids.json: which process has which role, kept current so that a script can pick one to kill.
#[derive(Debug, Clone)]
pub(super) struct Pids {
    path: PathBuf,
    by_role: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Pids {
    /// An empty list, at that path.
    pub(super) fn new(path: PathBuf) -> Pids {
        Pids {
            path,
            by_role: Arc::default(),
        }
    }

    /// Says that a role has that process, or none.
    pub(super) fn set(&self, role: &str, pid: Option<u32>) {
        let mut by_role = self.by_role.lock().unwrap_or_else(PoisonError::into_inner);
        match pid {
            Some(pid) => by_role.insert(role.to_owned(), pid),
            None => by_role.remove(role),
        };
        // Written under the lock, so that the file never goes back to an older list.
        if let Err(error) = write_whole(&self.path, &by_role) {
            tracing::error!(error = format!("{error:#}"), "the list of processes cannot be written");
        }
    }
}

/// Writes beside and renames, so that a reader sees the old list or the new one.
fn write_whole(path: &Path, pids: &BTreeMap<String, u32>) -> anyhow::Result<()> {
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, serde_json::to_vec_pretty(pids)?)
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_children_that_die_young_again_and_again_are_made_to_wait() {
        assert_eq!(wait_before_restart(0), Duration::ZERO);
        assert_eq!(wait_before_restart(1), Duration::from_millis(100));
        assert_eq!(wait_before_restart(3), Duration::from_millis(400));
        assert_eq!(wait_before_restart(1000), WAIT_MAX);
    }
}

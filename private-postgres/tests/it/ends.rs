//! Nothing is left running, however its parent ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use private_postgres::{Cluster, Lifetime, Options};

use crate::support::{a_directory, eventually, is_alive, kill_9, options, query};

/// Set for the child that [`a_cluster_ends_with_its_parent_even_when_that_one_is_killed_with_9`] starts.
const CHILD_DIR: &str = "PRIVATE_POSTGRES_TEST_CHILD_DIR";

#[test]
fn dropping_ends_it_and_cleans_up() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let (pid, sockets) = (cluster.pid(), cluster.socket_dir().to_owned());
    drop(cluster);
    assert!(!is_alive(pid));
    assert!(!sockets.exists());
}

#[test]
fn a_cluster_ends_with_its_parent_even_when_that_one_is_killed_with_9() {
    let dir = a_directory();
    // This very executable, as a process that has a cluster and can be killed.
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ends::the_child_of_the_test_above", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find_map(|line| line.split("started ").nth(1).map(str::to_owned))
        .unwrap();
    let (pid, sockets) = said.split_once(' ').unwrap();
    let (pid, sockets): (u32, PathBuf) = (pid.parse().unwrap(), sockets.into());
    assert!(is_alive(pid));

    kill_9(parent.id());
    parent.wait().unwrap();
    eventually("the end of the orphaned server", || !is_alive(pid));
    eventually("its sockets to be gone", || !sockets.exists());

    // And its data is fit for the next one, at once.
    let next = Cluster::start(options(dir.path())).unwrap();
    assert_eq!(query(&next, "select 1"), "1");
}

/// Does nothing unless the test above starts it.
#[test]
fn the_child_of_the_test_above() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let cluster = Cluster::start(options(Path::new(&dir))).unwrap();
    println!("started {} {}", cluster.pid(), cluster.socket_dir().display());
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
fn a_shared_cluster_outlives_who_started_it_and_ends_when_nobody_uses_it() {
    let dir = a_directory();
    let idle = Lifetime::Idle(Duration::from_secs(4));
    let cluster = Cluster::start(Options {
        lifetime: idle,
        ..options(dir.path())
    })
    .unwrap();
    let (pid, url, psql) = (
        cluster.pid(),
        cluster.url("postgres"),
        cluster.binaries().program("psql"),
    );
    drop(cluster);
    assert!(is_alive(pid));

    // A client keeps it up past its time.
    let status = Command::new(psql)
        .args(["-X", "-w", "-q", "-d", &url, "-c", "select pg_sleep(8)"])
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    assert!(is_alive(pid));
    eventually("the end of the unused server", || !is_alive(pid));
    assert!(fs::metadata(dir.path().join("cluster/pgdata/postmaster.pid")).is_err());
}

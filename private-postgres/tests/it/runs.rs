//! It starts, restarts and recovers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use private_postgres::{Binaries, Cluster, Options, Shutdown};

use crate::support::{a_directory, eventually, is_alive, kill_9, options, query};

#[test]
fn a_new_cluster_answers_and_keeps_its_data_and_its_password() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    query(&cluster, "create table kept as select 42 as answer");
    let (url, port, pid) = (cluster.url("postgres"), cluster.port(), cluster.pid());
    cluster.stop(Shutdown::Fast);
    assert!(!is_alive(pid));

    let again = Cluster::start(Options {
        port: Some(port),
        ..options(dir.path())
    })
    .unwrap();
    assert_eq!(again.url("postgres"), url);
    assert_eq!(query(&again, "select answer from kept"), "42");
}

#[test]
fn it_is_what_was_promised() {
    let dir = a_directory();
    let cluster = Cluster::start(Options {
        fsync: true,
        settings: vec![("max_connections".to_owned(), "17".to_owned())],
        ..Options::new(dir.path().join("cluster"))
    })
    .unwrap();
    let shown = |name: &str| query(&cluster, &format!("show {name}"));
    assert_eq!(shown("fsync"), "on");
    assert_eq!(shown("listen_addresses"), "127.0.0.1");
    assert_eq!(shown("server_encoding"), "UTF8");
    assert_eq!(shown("lc_messages"), "C");
    assert_eq!(shown("max_connections"), "17");
    assert_eq!(
        query(
            &cluster,
            "select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'"
        ),
        "0"
    );

    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cluster.pgdata().with_file_name("password")), 0o600);
    assert_eq!(mode(cluster.socket_dir()), 0o700);
    let socket = cluster.socket_dir().join(format!(".s.PGSQL.{}", cluster.port()));
    assert!(socket.as_os_str().len() <= 107, "{}", socket.display());
}

#[test]
fn a_deep_data_directory_does_not_make_the_socket_path_too_long() {
    let dir = a_directory();
    let deep = dir
        .path()
        .join("a-rather-long-name-of-a-directory".repeat(4))
        .join("and-one-below");
    let cluster = Cluster::start(Options {
        fsync: false,
        ..Options::new(deep)
    })
    .unwrap();
    assert_eq!(query(&cluster, "select 1"), "1");
}

#[test]
fn an_immediate_restart_recovers_on_the_same_port() {
    let dir = a_directory();
    let mut cluster = Cluster::start(options(dir.path())).unwrap();
    query(&cluster, "create table kept as select 42 as answer");
    let (url, pid) = (cluster.url("postgres"), cluster.pid());
    cluster.restart(Shutdown::Immediate).unwrap();
    assert_eq!(cluster.url("postgres"), url);
    assert_ne!(cluster.pid(), pid);
    assert_eq!(query(&cluster, "select answer from kept"), "42");
}

#[test]
fn a_killed_postmaster_is_followed_by_a_new_one_once_its_backends_are_gone() {
    let dir = a_directory();
    let mut cluster = Cluster::start(options(dir.path())).unwrap();
    query(&cluster, "create table kept as select 42 as answer");
    // A backend that is busy does not notice the end of its postmaster at once.
    let mut busy = Command::new(cluster.binaries().program("psql"))
        .args(["-X", "-w", "-q", "-d"])
        .arg(cluster.url("postgres"))
        .args(["-c", "select sum(sqrt(n)) from generate_series(1, 4000000) n"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the busy backend", || {
        query(
            &cluster,
            "select count(*) from pg_stat_activity where query like 'select sum(sqrt%'",
        ) == "1"
    });
    kill_9(cluster.pid());
    eventually("the end being noticed", || !cluster.is_running());
    cluster.restart(Shutdown::Fast).unwrap();
    assert_eq!(query(&cluster, "select answer from kept"), "42");
    busy.wait().unwrap();
}

#[test]
fn a_pid_file_of_a_dead_process_does_not_matter() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let (file, pid) = (cluster.pgdata().join("postmaster.pid"), cluster.pid());
    let text = fs::read_to_string(&file).unwrap();
    cluster.stop(Shutdown::Immediate);
    fs::write(&file, &text).unwrap();
    assert!(!is_alive(pid));
    let again = Cluster::start(options(dir.path())).unwrap();
    assert_eq!(query(&again, "select 1"), "1");
}

#[test]
fn a_pid_file_whose_process_is_another_program_by_now_does_not_matter() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let (file, pid) = (cluster.pgdata().join("postmaster.pid"), cluster.pid());
    let text = fs::read_to_string(&file).unwrap();
    cluster.stop(Shutdown::Fast);
    // A program of the same user: PostgreSQL alone would take it for the last server, and refuse for ever.
    let mut other = Command::new("sleep").arg("60").spawn().unwrap();
    fs::write(&file, text.replacen(&pid.to_string(), &other.id().to_string(), 1)).unwrap();
    let again = Cluster::start(options(dir.path()));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(query(&again.unwrap(), "select 1"), "1");
}

#[test]
fn the_system_is_searched_when_no_setting_names_a_directory() {
    let found = Binaries::find(None, None).unwrap();
    assert!(found.major >= 15);
    assert!(found.program("initdb").is_file());
}

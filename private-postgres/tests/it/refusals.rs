//! When it cannot start, it says why and what to do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use private_postgres::{Cluster, Error, Options, Shutdown};

use crate::support::{a_directory, eventually, is_alive, options, query};

#[test]
fn no_binaries_where_the_setting_says() {
    let dir = a_directory();
    let refusal = Cluster::start(Options {
        bin_dir: Some(dir.path().to_owned()),
        ..options(dir.path())
    })
    .unwrap_err();
    assert!(matches!(refusal, Error::NoBinaries { .. }), "{refusal}");
    let said = refusal.to_string();
    assert!(
        said.contains("no postgres") && said.contains("ORDERFLEET_POSTGRES_BIN"),
        "{said}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let dir = a_directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refusal = Cluster::start(Options {
        port: Some(port),
        ..options(dir.path())
    })
    .unwrap_err();
    assert!(
        matches!(refusal, Error::PortInUse { port: named } if named == port),
        "{refusal}"
    );
}

#[test]
fn data_of_another_major_version() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let file = cluster.pgdata().join("PG_VERSION");
    cluster.stop(Shutdown::Fast);
    fs::write(file, "9\n").unwrap();
    let bin_dir = Some(private_postgres::Binaries::find(None, None).unwrap().dir);
    let refusal = Cluster::start(Options {
        bin_dir,
        ..options(dir.path())
    })
    .unwrap_err();
    assert!(
        matches!(&refusal, Error::OtherVersion { found, .. } if found == "9"),
        "{refusal}"
    );
}

#[test]
fn a_data_directory_that_another_process_has() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let refusal = Cluster::start(options(dir.path())).unwrap_err();
    assert!(matches!(refusal, Error::InUse { .. }), "{refusal}");
    assert_eq!(query(&cluster, "select 1"), "1");
}

#[test]
fn a_server_that_someone_else_runs_on_the_data_is_left_alone() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let pgdata = cluster.pgdata().to_owned();
    cluster.stop(Shutdown::Fast);

    // What stands for the other server works in the data directory, as a server does.
    let mut other = Command::new("sleep")
        .arg("60")
        .current_dir(&pgdata)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let file = pgdata.join("postmaster.pid");
    fs::write(&file, format!("{}\n{}\n", other.id(), pgdata.display())).unwrap();
    let started = Instant::now();
    let refusal = Cluster::start(Options {
        ready_max: Duration::from_secs(1),
        ..options(dir.path())
    })
    .unwrap_err();
    assert!(
        matches!(refusal, Error::OtherServer { pid, .. } if pid == other.id()),
        "{refusal}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(file.exists() && is_alive(other.id()));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_password_file_of_another_cluster() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let (password, pid) = (cluster.pgdata().with_file_name("password"), cluster.pid());
    cluster.stop(Shutdown::Fast);
    fs::write(&password, "not it").unwrap();
    let refusal = Cluster::start(options(dir.path())).unwrap_err();
    assert!(
        matches!(&refusal, Error::Permissions { path, .. } if *path == password),
        "{refusal}"
    );
    eventually("nothing being left running", || !is_alive(pid));
}

#[test]
fn a_directory_that_is_postgres_own_or_not_ours_to_write() {
    let dir = a_directory();
    fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
    let refusal = Cluster::start(Options::new(dir.path())).unwrap_err();
    assert!(matches!(refusal, Error::Permissions { .. }), "{refusal}");

    let refusal = Cluster::start(Options::new("/proc/no-such-directory")).unwrap_err();
    assert!(refusal.to_string().contains("/proc/no-such-directory"), "{refusal}");
}

#[test]
fn data_with_loose_permissions() {
    let dir = a_directory();
    let cluster = Cluster::start(options(dir.path())).unwrap();
    let pgdata = cluster.pgdata().to_owned();
    cluster.stop(Shutdown::Fast);
    fs::set_permissions(&pgdata, fs::Permissions::from_mode(0o777)).unwrap();
    let refusal = Cluster::start(options(dir.path())).unwrap_err();
    assert!(matches!(refusal, Error::Permissions { .. }), "{refusal}");
}

#[test]
fn a_full_disk() {
    // Only root may mount, and not everywhere: elsewhere the words alone are tested, beside the code.
    let dir = a_directory();
    let disk = dir.path().join("small");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs"])
        .arg(&disk)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        return;
    }
    let refusal = Cluster::start(options(&disk)).map(drop);
    assert!(Command::new("umount").arg("-l").arg(&disk).status().unwrap().success());
    let refusal = refusal.unwrap_err();
    assert!(matches!(refusal, Error::NoSpace { .. }), "{refusal}");
}

//! Workers behind a proxy that pools transactions: a real PgBouncer, where there is one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use testkit::{Database, eventually};

use crate::fleet::*;
use crate::kinds::*;

const LEASE: Duration = Duration::from_secs(2);

/// A running PgBouncer before a test's database, in transaction mode with three sessions.
struct Pooler {
    child: Child,
    url: String,
    dir: PathBuf,
}

impl Pooler {
    /// None, and the reason on stderr, where no PgBouncer is installed that keeps prepared statements.
    async fn start(db: &Database) -> Option<Pooler> {
        let program = installed()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = std::env::temp_dir().join(format!("orderfleet-pooler-{port}"));
        fs::create_dir_all(&dir).unwrap();
        // It drops root's rights before it reads its file.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let server: PgConnectOptions = db.url.parse().unwrap();
        let host = server
            .get_socket()
            .map_or_else(|| server.get_host().to_owned(), |socket| socket.display().to_string());
        let authority = db.url.split("://").nth(1).unwrap().split('@').next().unwrap();
        let password = authority
            .split_once(':')
            .map_or_else(String::new, |(_, password)| format!(" password={password}"));
        let config = format!(
            "[databases]\n* = host={host} port={} user={}{password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 3\nmax_prepared_statements = 100\n",
            server.get_port(),
            server.get_username(),
        );
        fs::write(dir.join("pgbouncer.ini"), config).unwrap();
        let mut command = Command::new(program);
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        let child = command
            .arg("-q")
            .arg(dir.join("pgbouncer.ini"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!(
            "postgres://{}@127.0.0.1:{port}/{}",
            server.get_username(),
            server.get_database().unwrap()
        );
        let pooler = Pooler { child, url, dir };
        eventually("the pooler to answer", async || pooler.connect().await.ok()).await;
        Some(pooler)
    }

    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options: PgConnectOptions = self.url.parse()?;
        PgConnection::connect_with(&options.extra_float_digits(None)).await
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        _ = fs::remove_dir_all(&self.dir);
    }
}

/// The program, if it is new enough.
fn installed() -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join("pgbouncer"))
        .find(|program| program.is_file());
    let Some(program) = found else {
        eprintln!("skipped: no pgbouncer is installed (Debian: apt-get install pgbouncer)");
        return None;
    };
    let said = Command::new(&program).arg("--version").output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version: Vec<u32> = said
        .split_whitespace()
        .nth(1)
        .into_iter()
        .flat_map(|version| version.split('.'))
        .filter_map(|part| part.parse().ok())
        .collect();
    if version < vec![1, 21] {
        eprintln!(
            "skipped: {} is older than 1.21 and keeps no prepared statements",
            said.lines().next()?
        );
        return None;
    }
    Some(program)
}

fn is_root() -> bool {
    let said = Command::new("id").arg("-u").output().unwrap();
    said.stdout.trim_ascii() == b"0"
}

fn pooled(pools: &[&str], slots: usize) -> workers::Config {
    workers::Config {
        name: "pooled".to_owned(),
        lease: LEASE,
        poll_only: true,
        ..config(pools, slots)
    }
}

async fn count(db: &Database, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_behind_a_pooler_drains_and_outlives_its_lease() {
    let db = Database::new().await;
    let Some(pooler) = Pooler::start(&db).await else { return };
    let world = Arc::new(World::default());
    enqueue(&db.pool, Quick { n: 0 }, 300).await;
    enqueue(&db.pool, Slow {}, 3).await;
    let worker = start_at(&pooler.url, pooled(&["quick", "slow"], 8), &world);
    // A neighbour that looks for sessions that are gone.
    let neighbour = start(
        &db,
        workers::Config {
            lease: LEASE,
            ..config(&["quick"], 1)
        },
        &world,
    );
    eventually("the slow ones to run and the quick ones to be done", async || {
        (world.running() == 3 && world.done() == 300).then_some(())
    })
    .await;
    eventually("two leases to go by", async || {
        let beaten = "select count(*) from queue.workers
                      where name = 'pooled' and backend_pid is null and beat_at > started_at + interval '5 s'";
        (count(&db, beaten).await == 1).then_some(())
    })
    .await;
    world.gate.add_permits(3);
    eventually("all to be done", async || (world.done() == 303).then_some(())).await;
    // What is enqueued now is found without a hint.
    enqueue(&db.pool, Slow {}, 1).await;
    world.gate.add_permits(1);
    eventually("one more to be done", async || (world.done() == 304).then_some(())).await;
    assert_eq!(count(&db, "select count(*) from queue.losses").await, 0);
    assert_eq!(
        count(&db, "select max(attempt)::bigint from queue.finished_jobs").await,
        1
    );
    let mut conn = pooler.connect().await.unwrap();
    let left: String = sqlx::query_scalar("select current_setting('synchronous_commit') || current_setting('jit')")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    let fresh: String = sqlx::query_scalar("select current_setting('synchronous_commit') || current_setting('jit')")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(left, fresh, "a setting was left in a pooled session");
    conn.close().await.unwrap();
    worker.stop().await;
    neighbour.stop().await;
    assert_eq!(workers(&db.pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_worker_behind_a_frozen_pooler_holds_is_rescued_by_its_lease() {
    let db = Database::new().await;
    let Some(pooler) = Pooler::start(&db).await else { return };
    let world = Arc::new(World::default());
    enqueue(&db.pool, Slow {}, 2).await;
    let worker = start_at(&pooler.url, pooled(&["slow"], 2), &world);
    eventually("the slots to be full", async || (world.running() == 2).then_some(())).await;
    pooler.signal("-STOP");
    let other = start(
        &db,
        workers::Config {
            lease: LEASE,
            ..config(&["slow"], 2)
        },
        &world,
    );
    let how: String = eventually("the frozen worker to be lost", async || {
        sqlx::query_scalar("select how from queue.losses")
            .fetch_optional(&db.pool)
            .await
            .unwrap()
    })
    .await;
    assert_eq!(how, "silent");
    pooler.signal("-CONT");
    world.gate.add_permits(10);
    eventually("both jobs to be done once more", async || {
        let fences: Vec<i64> = sqlx::query_scalar("select fence from queue.finished_jobs")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        (fences.len() == 2).then(|| assert!(fences.iter().all(|fence| *fence >= 2), "{fences:?}"))
    })
    .await;
    worker.stop().await;
    other.stop().await;
}

//! One database per test, cloned from a template.
//!
//! The migrations run once per server and set of migrations, into a template; a test clones it in tens of milliseconds.
//! The template's name holds the hash of the migrations, so an edited migration makes a new template by itself.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use crate::server;

/// A test that needs more connections at once than this opens its own pool on [`Database::url`].
const CONNECTIONS_MAX: u32 = 5;

/// A test database that is older than this and has no clients was left by a killed test.
const STALE_AFTER: Duration = Duration::from_secs(3600);

/// Setting this keeps every test's database and prints where it is.
const KEEP: &str = "ORDERFLEET_KEEP_TEST_DATABASES";

/// How long dropping a [`Database`] holds up the thread it is dropped on.
const DROP_MAX: Duration = Duration::from_secs(2);

/// A fresh database with the whole schema, dropped with this value.
pub struct Database {
    /// A small pool on it.
    pub pool: PgPool,
    /// Where it is, for clients of their own.
    pub url: String,
    name: String,
    admin: PgConnectOptions,
    /// Dropped, or kept on purpose.
    is_gone: bool,
}

impl Database {
    /// Clones the template; panics when there is no server to be had, since no test can go on without.
    pub async fn new() -> Self {
        Self::create(true).await.expect("a database for this test")
    }

    /// A database without any schema, for tests of the migrations themselves.
    pub async fn empty() -> Self {
        Self::create(false).await.expect("an empty database for this test")
    }

    /// Ends its life as a database that is worked with: what it holds now is what each of its copies begins with.
    pub async fn into_template(self) -> Template {
        self.pool.close().await;
        Template(self)
    }

    async fn create(migrated: bool) -> anyhow::Result<Self> {
        let server = tokio::task::spawn_blocking(server::url).await??;
        let admin: PgConnectOptions = server.parse().context("reading the URL of the test server")?;
        let mut conn = connect_admin(&admin).await?;

        let name = fresh_name();
        if migrated {
            let template = ensure_template(&mut conn, &admin).await?;
            execute(&mut conn, format!(r#"create database "{name}" template "{template}""#)).await?;
        } else {
            execute(&mut conn, format!(r#"create database "{name}" template template0"#)).await?;
        }
        conn.close().await?;
        Self::open(&server, admin, name).await
    }

    async fn open(server: &str, admin: PgConnectOptions, name: String) -> anyhow::Result<Self> {
        let options = admin.clone().database(&name);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await
            .context("connecting to the test's database")?;
        let url = server::with_database(server, &name);
        Ok(Self {
            pool,
            url,
            name,
            admin,
            is_gone: false,
        })
    }

    /// Drops it while its runtime goes on, which others who work there need: a server that asks for passwords drops a
    /// database only when whoever is logging in has answered.
    pub async fn close(mut self) {
        self.pool.close().await;
        if self.is_to_go() {
            drop_database(&self.admin, &self.name).await;
        }
    }

    /// Whether it has to be dropped, the first time somebody asks.
    fn is_to_go(&mut self) -> bool {
        if std::mem::replace(&mut self.is_gone, true) {
            return false;
        }
        let is_kept = std::env::var_os(KEEP).is_some();
        if is_kept {
            eprintln!("kept the test's database: {}", self.url);
        }
        !is_kept
    }

    /// A connection outside the pool.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.admin.clone().database(&self.name))
            .await
            .expect("a connection to the test's database")
    }

    /// Moves everything with a time in this database that much into the past, as if so much time had gone by.
    pub async fn fast_forward(&self, by: Duration) {
        crate::fast_forward(&self.pool, by).await;
    }
}

/// A database as it was at one moment, for tests that begin there many times. Nobody may be connected to it.
pub struct Template(Database);

impl Template {
    /// A database of its own that holds the same.
    pub async fn copy(&self) -> Database {
        self.try_copy().await.expect("a copy of this test's database")
    }

    /// Drops it as [`Database::close`] does.
    pub async fn close(self) {
        self.0.close().await;
    }

    async fn try_copy(&self) -> anyhow::Result<Database> {
        let (admin, name) = (self.0.admin.clone(), fresh_name());
        let mut conn = connect_admin(&admin).await?;
        execute(
            &mut conn,
            format!(r#"create database "{name}" template "{}""#, self.0.name),
        )
        .await?;
        conn.close().await?;
        let server = tokio::task::spawn_blocking(server::url).await??;
        Database::open(&server, admin, name).await
    }
}

/// Dropping cannot wait for the runtime it may be called on, so a thread of its own does it, and is waited for: a
/// database should not outlive its test. But not for ever: when a task of this thread's runtime is logging in, the server
/// waits for it ([`Database::close`]), and it for us.
impl Drop for Database {
    fn drop(&mut self) {
        if !self.is_to_go() {
            return;
        }
        let (admin, name) = (self.admin.clone(), self.name.clone());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                runtime.block_on(drop_database(&admin, &name));
            }
            _ = tell.send(());
        });
        _ = told.recv_timeout(DROP_MAX);
    }
}

/// What fails here is swept by a later run.
async fn drop_database(admin: &PgConnectOptions, name: &str) {
    if let Ok(mut conn) = connect_admin(admin).await {
        _ = execute(&mut conn, format!(r#"drop database if exists "{name}" with (force)"#)).await;
    }
}

/// The database of the migrations, from the tree and not from the binary: editing one needs no rebuild of this crate.
fn migrations_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations")
}

/// Makes the template if this server has none for these migrations; returns its name.
async fn ensure_template(conn: &mut PgConnection, admin: &PgConnectOptions) -> anyhow::Result<String> {
    let migrator = Migrator::new(migrations_dir())
        .await
        .context("reading the migrations")?;
    let template = format!("orderfleet_template_{:016x}", fingerprint(&migrator));
    if exists(conn, &template).await? {
        return Ok(template);
    }

    // Every test of every process comes by here; the first builds, the others wait for it.
    sqlx::query("select pg_advisory_lock(hashtextextended($1, 0))")
        .bind(&template)
        .execute(&mut *conn)
        .await?;
    if !exists(conn, &template).await? {
        build_template(conn, admin, &migrator, &template).await?;
        sweep(conn).await?;
    }
    sqlx::query("select pg_advisory_unlock(hashtextextended($1, 0))")
        .bind(&template)
        .execute(&mut *conn)
        .await?;
    Ok(template)
}

/// The template gets its name last: one that exists is whole.
async fn build_template(
    conn: &mut PgConnection,
    admin: &PgConnectOptions,
    migrator: &Migrator,
    template: &str,
) -> anyhow::Result<()> {
    let unfinished = format!("{template}_unfinished");
    execute(conn, format!(r#"drop database if exists "{unfinished}" with (force)"#)).await?;
    execute(conn, format!(r#"create database "{unfinished}" template template0"#)).await?;
    let mut inside = PgConnection::connect_with(&admin.clone().database(&unfinished)).await?;
    migrator.run(&mut inside).await.context("running the migrations")?;
    inside.close().await?;
    execute(conn, format!(r#"alter database "{unfinished}" rename to "{template}""#)).await?;
    Ok(())
}

/// Drops what killed tests left behind.
async fn sweep(conn: &mut PgConnection) -> anyhow::Result<()> {
    let old = (now_seconds().saturating_sub(STALE_AFTER.as_secs())).cast_signed();
    let stale: Vec<String> = sqlx::query_scalar(
        r"select datname from pg_database
          where datname ~ '^orderfleet_test_\d+_'
            and split_part(datname, '_', 3)::bigint < $1
            and not exists (select from pg_stat_activity a where a.datname = pg_database.datname)",
    )
    .bind(old)
    .fetch_all(&mut *conn)
    .await?;
    for name in stale {
        execute(conn, format!(r#"drop database if exists "{name}""#)).await?;
    }
    Ok(())
}

async fn connect_admin(admin: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    PgConnection::connect_with(admin)
        .await
        .context("connecting to the test server")
}

async fn exists(conn: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    Ok(
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(conn)
            .await?,
    )
}

/// Names of databases cannot be parameters; every name here is our own letters and digits.
async fn execute(conn: &mut PgConnection, sql: String) -> anyhow::Result<()> {
    conn.execute(sqlx::raw_sql(AssertSqlSafe(sql.clone())))
        .await
        .with_context(|| sql)?;
    Ok(())
}

/// `orderfleet_test_{seconds}_{process}_{count}`: unique, and its age can be read.
fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = uuid::Uuid::new_v4().simple().to_string();
    format!(
        "orderfleet_test_{}_{}_{count}_{}",
        now_seconds(),
        std::process::id(),
        &id[..6]
    )
}

fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// FNV-1a over versions and checksums: names a template, guards nothing.
fn fingerprint(migrator: &Migrator) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for migration in migrator.iter() {
        let version = migration.version.to_be_bytes();
        for byte in version.iter().chain(migration.checksum.iter()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

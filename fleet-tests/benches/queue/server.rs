//! The PostgreSQL of a bench: its own, with every setting that durability rests on left on.

use private_postgres::{Cluster, Options};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) pool: PgPool,
    cluster: Cluster,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // As root, PostgreSQL runs as another user, who has to get in.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let cluster = Cluster::start(Options::new(dir.path().join("postgres"))).unwrap();
        let url = cluster.url("postgres");
        domain::schema::MIGRATOR
            .run(&mut PgConnection::connect(&url).await.unwrap())
            .await
            .unwrap();
        let pool = PgPoolOptions::new().max_connections(16).connect(&url).await.unwrap();
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = sqlx::query_scalar("select current_setting($1)")
                .bind(setting)
                .fetch_one(&pool)
                .await
                .unwrap();
            assert_eq!(value, "on", "{setting}");
        }
        Self {
            url,
            pool,
            cluster,
            _dir: dir,
        }
    }

    /// The address of another of its databases.
    pub(crate) fn url_of(&self, database: &str) -> String {
        self.cluster.url(database)
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.expect(sql);
    }

    /// Everything as before the first job, and nothing left for the checkpointer to do.
    pub(crate) async fn clean(&self) {
        self.execute("truncate queue.finished_jobs").await;
        self.clean_line().await;
    }

    /// The same, but the history stays.
    pub(crate) async fn clean_line(&self) {
        self.execute(
            "truncate queue.jobs, queue.claims, queue.ended, queue.turns, queue.unique_keys, queue.limit_keys, queue.limit_holds",
        )
        .await;
        self.execute("checkpoint").await;
    }

    /// How many rows of a table are deleted and not yet vacuumed, counted now.
    pub(crate) async fn dead_rows(&self, table: &'static str) -> f64 {
        self.execute("create extension if not exists pgstattuple").await;
        sqlx::query_scalar("select dead_tuple_count::float8 from pgstattuple($1::regclass)")
            .bind(table)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The end of the write-ahead log, in bytes.
    pub(crate) async fn wal_bytes(&self) -> f64 {
        sqlx::query_scalar("select (pg_current_wal_insert_lsn() - '0/0')::float8")
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

//! What a crash of the server forgets: claims do not wait for the disk.

use std::os::unix::fs::PermissionsExt as _;

use private_postgres::{Cluster, Options, Shutdown};
use sqlx::{Connection as _, PgConnection};

const WORKER: i64 = 7;

async fn claim(conn: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select distinct claim_id from queue.claim('stage', '{act}', '{1}', $1, 1)")
        .bind(WORKER)
        .fetch_one(conn)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_claim_that_a_crash_forgot_does_not_come_again_under_its_number() {
    let dir = tempfile::tempdir().unwrap();
    // As root, PostgreSQL runs as another user, who has to get in.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut cluster = Cluster::start(Options::new(dir.path().join("postgres"))).unwrap();
    let mut conn = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    domain::schema::MIGRATOR.run(&mut conn).await.unwrap();
    sqlx::raw_sql(
        "insert into queue.workers (id, name, pools, build, host, pid, lease_until) overriding system value
         values (7, 'w', '{stage}', 'x', 'x', 1, now() + interval '1 hour');
         select queue.enqueue('stage', 'act', '{}') from generate_series(1, 100)",
    )
    .execute(&mut conn)
    .await
    .unwrap();

    // The server writes its log every 200 ms anyway, so a claim is not always forgotten.
    for _ in 0..50 {
        // After a checkpoint even a sequence says in the log at once what it gave out.
        sqlx::raw_sql("checkpoint; set synchronous_commit = off")
            .execute(&mut conn)
            .await
            .unwrap();
        let forgotten = claim(&mut conn).await;
        cluster.restart(Shutdown::Immediate).unwrap();
        conn = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
        let is_known: bool = sqlx::query_scalar("select exists (select from queue.claims where id = $1)")
            .bind(forgotten)
            .fetch_one(&mut conn)
            .await
            .unwrap();
        if is_known {
            continue;
        }
        let next = claim(&mut conn).await;
        assert_ne!(
            next, forgotten,
            "whoever still works under the forgotten claim would pass"
        );
        return;
    }
    panic!("50 crashes forgot no claim");
}

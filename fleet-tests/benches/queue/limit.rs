//! The raw limit: a bare table, one connection, five hundred jobs claimed by an update and finished by a delete.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};

use crate::server::Server;
use crate::table::Row;

const CLAIM: i64 = 500;

/// Jobs a second of the smallest loop, which promises nothing.
pub(crate) async fn drain(server: &Server, jobs: i64) -> f64 {
    bare_table(server).await;
    sqlx::query(
        "insert into bench.bare (queue, kind, args)
         select 'bare', 'bare', jsonb_build_object('n', n) from generate_series(1, $1) n",
    )
    .bind(jobs)
    .execute(&server.pool)
    .await
    .unwrap();
    server.execute("vacuum analyze bench.bare").await;
    server.execute("checkpoint").await;

    let mut conn = PgConnection::connect(&server.url).await.unwrap();
    let started = Instant::now();
    loop {
        let claimed: Vec<(i64, String, String)> = sqlx::query_as(
            "update bench.bare set state = 'running'
             where id = any(array(select id from bench.bare
                                  where queue = $1 and state = 'available' and run_at <= (select clock_timestamp())
                                  order by run_at, id limit $2 for update skip locked))
             returning id, kind, args::text",
        )
        .bind("bare")
        .bind(CLAIM)
        .fetch_all(&mut conn)
        .await
        .unwrap();
        if claimed.is_empty() {
            break;
        }
        let ids: Vec<i64> = claimed.iter().map(|(id, _, _)| *id).collect();
        sqlx::query("delete from bench.bare where id = any($1)")
            .bind(ids)
            .execute(&mut conn)
            .await
            .unwrap();
    }
    jobs as f64 / started.elapsed().as_secs_f64()
}

/// What the table says of it.
pub(crate) fn row(case: &str, rate: f64) -> Row {
    Row {
        case: case.to_owned(),
        subject: "limit".to_owned(),
        processes: 1,
        jobs_per_s: Some(rate),
        ratio_to_limit: Some(1.0),
        ..Row::default()
    }
}

/// A new table with as little as a queue can have.
pub(crate) async fn bare_table(server: &Server) {
    server
        .execute(
            "create schema if not exists bench;
             drop table if exists bench.bare;
             create table bench.bare (
                 id bigint generated always as identity primary key,
                 queue text not null,
                 kind text not null,
                 args jsonb not null,
                 state text not null default 'available',
                 run_at timestamptz not null default clock_timestamp()
             );
             create index bare_in_line on bench.bare (queue, run_at, id) where state = 'available'",
        )
        .await;
}

/// Durable transactions of one row a second, from that many connections for that long: what a commit costs.
pub(crate) async fn commits(server: &Server, connections: usize, time: Duration) -> f64 {
    server
        .execute(
            "create schema if not exists bench;
             drop table if exists bench.one_row;
             create table bench.one_row (id bigint generated always as identity primary key, text text not null)",
        )
        .await;
    server.execute("checkpoint").await;
    let mut senders = Vec::new();
    for _ in 0..connections {
        senders.push(PgConnection::connect(&server.url).await.unwrap());
    }
    let began = Instant::now();
    let senders: Vec<_> = senders
        .into_iter()
        .map(|mut conn| {
            tokio::spawn(async move {
                let mut count = 0_u64;
                while began.elapsed() < time {
                    let mut tx = conn.begin().await.unwrap();
                    sqlx::query("insert into bench.one_row (text) values ($1)")
                        .bind("a row of some length, such as an order might have")
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                    tx.commit().await.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0;
    for sender in senders {
        count += sender.await.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

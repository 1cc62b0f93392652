//! Whether the tables stay small, and who keeps them from it.
//!
//! Rows of the queue come and go by the thousand a second, and PostgreSQL can clear away what is gone only when no snapshot could
//! still see it. One forgotten transaction, a prepared transaction nobody finishes or a replication slot nobody reads holds that
//! *horizon* back for the whole database, and every claim reads through what piles up behind it. So the report names who holds it,
//! and what ends it. The history does not pile up: its days are dropped whole.

use chrono::NaiveDate;
use serde::Serialize;
use sqlx::PgConnection;

/// A snapshot older than this does harm to a busy queue.
pub const HORIZON_SECONDS_MAX: f64 = 60.0;

/// As many transactions as a slot or a prepared transaction may lag behind before it does harm.
pub const HORIZON_TRANSACTIONS_MAX: i64 = 100_000;

/// As many dead rows, if they are also twice as many as the live ones, do harm.
pub const DEAD_ROWS_MAX: i64 = 100_000;

/// The report.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// The hot tables, the one with most dead rows first.
    pub tables: Vec<Table>,
    /// Who holds the horizon back, the oldest first; at most twenty.
    pub holders: Vec<Holder>,
    /// Whether this role may see what other roles' sessions hold (`grant pg_read_all_stats to …`).
    pub sees_all: bool,
    /// How far back the history goes.
    pub history: History,
}

impl Health {
    /// For how long the horizon has been held, in seconds; 0 when nobody holds it.
    pub fn horizon_seconds(&self) -> f64 {
        self.holders
            .iter()
            .filter_map(|holder| holder.seconds)
            .fold(0.0, f64::max)
    }
}

/// A table whose rows come and go.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Rows that are there, by the server's estimate.
    pub live_rows: i64,
    /// Rows that are gone but not cleared away, by the server's estimate.
    pub dead_rows: i64,
    /// With its indexes.
    pub bytes: i64,
    /// How long ago it was last cleared; none if never.
    pub vacuumed_seconds_ago: Option<f64>,
}

impl Table {
    /// Whether what is gone slows down what is there.
    pub fn is_bloated(&self) -> bool {
        self.dead_rows > DEAD_ROWS_MAX && self.dead_rows > 2 * self.live_rows
    }
}

/// Somebody because of whom rows that are gone cannot be cleared away.
#[derive(Clone, Debug, Serialize)]
pub struct Holder {
    /// session, prepared transaction or replication slot.
    pub what: String,
    /// The process of a session, or the name of the others.
    pub name: String,
    /// The program and the role.
    pub who: String,
    /// What it is doing: the state of a session and the beginning of its statement.
    pub doing: String,
    /// For how long, where that is known.
    pub seconds: Option<f64>,
    /// How many transactions have begun since.
    pub transactions: i64,
    /// The statement that ends it.
    pub remedy: String,
}

impl Holder {
    /// Whether it has held on for long enough to do harm.
    pub fn is_harmful(&self) -> bool {
        self.seconds.is_some_and(|seconds| seconds > HORIZON_SECONDS_MAX)
            || (self.what != "session" && self.transactions > HORIZON_TRANSACTIONS_MAX)
    }
}

/// How far back the history of jobs goes.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Its first day, in UTC.
    pub since: Option<NaiveDate>,
    /// How many days of it there are, those ahead included: each is dropped whole.
    pub days: i64,
    /// With its indexes.
    pub bytes: i64,
}

/// Looks at the hot tables, the horizon and the history; reads only what the server keeps about them.
pub async fn health(conn: &mut PgConnection) -> sqlx::Result<Health> {
    let sees_all =
        sqlx::query_scalar!(r#"select pg_has_role(current_user, 'pg_read_all_stats', 'usage') as "sees_all!""#)
            .fetch_one(&mut *conn)
            .await?;
    Ok(Health {
        tables: tables(&mut *conn).await?,
        holders: holders(&mut *conn).await?,
        history: history(conn).await?,
        sees_all,
    })
}

async fn tables(conn: &mut PgConnection) -> sqlx::Result<Vec<Table>> {
    sqlx::query_as!(
        Table,
        r#"select t.relname as "name!", t.n_live_tup as "live_rows!",
                  t.n_dead_tup + coalesce(o.n_dead_tup, 0) as "dead_rows!",
                  pg_total_relation_size(t.relid) as "bytes!",
                  extract(epoch from clock_timestamp() - greatest(t.last_autovacuum, t.last_vacuum))::float8
                      as vacuumed_seconds_ago
           from pg_stat_user_tables t
           join pg_class c on c.oid = t.relid
           -- What a claim holds lies outside its row.
           left join pg_stat_all_tables o on o.relid = c.reltoastrelid
           where t.schemaname = 'queue' and t.relname <> 'audit' and t.relname not like 'finished\_jobs%'
           order by 3 desc, t.relname"#
    )
    .fetch_all(conn)
    .await
}

async fn holders(conn: &mut PgConnection) -> sqlx::Result<Vec<Holder>> {
    sqlx::query_as!(
        Holder,
        r#"select * from (
               select 'session' as "what!", a.pid::text as "name!",
                      coalesce(nullif(a.application_name, ''), a.backend_type) || ' of ' || coalesce(a.usename, '?') as "who!",
                      coalesce(a.state, '?') || ': ' || left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 200)
                          as "doing!",
                      extract(epoch from clock_timestamp() - coalesce(a.xact_start, a.backend_start))::float8 as seconds,
                      greatest(age(a.backend_xmin), age(a.backend_xid))::bigint as "transactions!",
                      'select pg_terminate_backend(' || a.pid || ')' as "remedy!"
               from pg_stat_activity a
               where coalesce(a.backend_xmin, a.backend_xid) is not null and a.pid <> pg_backend_pid()
                 and (a.datname = current_database() or a.backend_type = 'walsender')
                 and a.backend_type <> 'autovacuum worker'
               union all
               select 'prepared transaction', p.gid, p.owner::text, 'prepared, and neither committed nor rolled back',
                      extract(epoch from clock_timestamp() - p.prepared)::float8, age(p.transaction)::bigint,
                      'rollback prepared ' || quote_literal(p.gid)
               from pg_prepared_xacts p
               where p.database = current_database()
               union all
               select 'replication slot', s.slot_name::text, coalesce(s.plugin::text, s.slot_type),
                      case when s.active then 'read by process ' || s.active_pid else 'read by nobody' end,
                      null, greatest(age(s.xmin), age(s.catalog_xmin))::bigint,
                      'select pg_drop_replication_slot(' || quote_literal(s.slot_name) || ')'
               from pg_replication_slots s
               where coalesce(s.xmin, s.catalog_xmin) is not null
           ) held
           order by "seconds" desc nulls last, "transactions!" desc
           limit 20"#
    )
    .fetch_all(conn)
    .await
}

async fn history(conn: &mut PgConnection) -> sqlx::Result<History> {
    sqlx::query_as!(
        History,
        r#"select min(to_date(right(c.relname, 8), 'YYYYMMDD')) filter (where c.relname ~ '\d{8}$') as since,
                  count(*) filter (where c.relname ~ '\d{8}$') as "days!",
                  coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint as "bytes!"
           from pg_inherits i
           join pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'queue.finished_jobs'::regclass"#
    )
    .fetch_one(conn)
    .await
}

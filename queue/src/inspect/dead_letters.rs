//! Dead letters and what they died of.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::page;
use crate::job::JobId;

/// Which dead letters to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only of this class.
    pub error_class: Option<String>,
    /// Only with this code.
    pub error_code: Option<String>,
    /// Only older than this one.
    pub before: Option<JobId>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetterView {
    /// The job.
    pub id: JobId,
    /// The line it waited in.
    pub queue: String,
    /// Its kind.
    pub kind: String,
    /// The version of its payload.
    pub args_version: i16,
    /// Its payload, as it is redriven.
    pub args: Value,
    /// How often it was claimed.
    pub fence: i64,
    /// Tries used.
    pub attempt: i32,
    /// Tries it had.
    pub attempts_max: i32,
    /// The key only it may have.
    pub unique_key: Option<String>,
    /// The group it takes its turn in.
    pub group_key: Option<String>,
    /// exhausted, permanent, poison, deadline or cancelled_parent.
    pub reason: String,
    /// The class of the last failure.
    pub error_class: String,
    /// The code of the last failure.
    pub error_code: String,
    /// The last failure in words.
    pub message: String,
    /// The whole story.
    pub report: Value,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When it was given up.
    pub dead_at: DateTime<Utc>,
}

/// The dead letters that match, newest first.
pub async fn dead_letters(conn: &mut PgConnection, filter: &DeadFilter) -> sqlx::Result<Vec<DeadLetterView>> {
    sqlx::query_as!(
        DeadLetterView,
        r#"select id as "id: JobId", queue, kind, args_version, args, fence, attempt, attempts_max, unique_key, group_key,
                  reason, error_class, error_code, message, report, created_at, dead_at
           from queue.dead_letters
           where ($1::text is null or queue = $1)
             and ($2::text is null or kind = $2)
             and ($3::text is null or error_class = $3)
             and ($4::text is null or error_code = $4)
             and ($5::bigint is null or id < $5)
           order by id desc
           limit $6"#,
        filter.queue,
        filter.kind,
        filter.error_class,
        filter.error_code,
        filter.before.map(|before| before.0),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// One dead letter.
pub async fn dead_letter(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Option<DeadLetterView>> {
    sqlx::query_as!(
        DeadLetterView,
        r#"select id as "id: JobId", queue, kind, args_version, args, fence, attempt, attempts_max, unique_key, group_key,
                  reason, error_class, error_code, message, report, created_at, dead_at
           from queue.dead_letters
           where id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

/// Which causes of dead letters to list.
#[derive(Clone, Debug, Default)]
pub struct CauseFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only smaller ones: letters and cause of the last of the page before.
    pub before: Option<(i64, String)>,
    /// At most so many; 0 means 100.
    pub limit: i64,
}

/// Dead letters of one cause: kind, class, code and message are the same, but for ids, numbers and quoted texts.
#[derive(Clone, Debug, Serialize)]
pub struct CauseView {
    /// Its name, the same wherever it is met.
    pub cause: String,
    /// The line that the youngest waited in.
    pub queue: String,
    /// The kind of the jobs.
    pub kind: String,
    /// The class of their last failure.
    pub error_class: String,
    /// Its code.
    pub error_code: String,
    /// What the messages have in common.
    pub pattern: String,
    /// The message of the youngest.
    pub message: String,
    /// How many there are.
    pub letters: i64,
    /// When the first died.
    pub first_at: DateTime<Utc>,
    /// When the last died.
    pub last_at: DateTime<Utc>,
    /// The youngest of them.
    pub sample: Vec<i64>,
}

/// The causes of dead letters, the largest first.
pub async fn causes(conn: &mut PgConnection, filter: &CauseFilter) -> sqlx::Result<Vec<CauseView>> {
    sqlx::query_as!(
        CauseView,
        r#"with causes as (
               select cause, count(*) as letters, min(dead_at) as first_at, max(dead_at) as last_at, max(id) as youngest
               from queue.dead_letters
               group by cause
           )
           select c.cause as "cause!", l.queue, l.kind, l.error_class, l.error_code, l.pattern as "pattern!", l.message,
                  c.letters as "letters!", c.first_at as "first_at!", c.last_at as "last_at!",
                  array(select s.id from queue.dead_letters s where s.cause = c.cause order by s.id desc limit 5) as "sample!"
           from causes c
           join queue.dead_letters l on l.id = c.youngest
           where ($1::text is null or l.kind = $1)
             and ($2::bigint is null or (c.letters, c.cause) < ($2, $3))
           order by c.letters desc, c.cause desc
           limit $4"#,
        filter.kind,
        filter.before.as_ref().map(|(letters, _)| *letters),
        filter.before.as_ref().map(|(_, cause)| cause.as_str()),
        page(filter.limit),
    )
    .fetch_all(conn)
    .await
}

/// The dead letter that keeps a group's turn, if one does: nothing of the group runs until it is redriven or discarded.
pub async fn blocked_by(conn: &mut PgConnection, group_key: &str) -> sqlx::Result<Option<JobId>> {
    sqlx::query_scalar!(
        r#"select l.id as "id: JobId" from queue.turns t join queue.dead_letters l on l.id = t.holder where t.group_key = $1"#,
        group_key,
    )
    .fetch_optional(conn)
    .await
}

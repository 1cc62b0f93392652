//! The log of a job: a few lines about its work, for people. It stays as long as the job is known.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::attempt::Attempt;
use crate::job::JobId;

/// How many lines a job keeps; of more, the oldest go.
pub const LINES_MAX: i32 = 100;

/// How long a line may be; of a longer one the rest is cut off.
pub const LINE_BYTES_MAX: usize = 1024;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    pub at: DateTime<Utc>,
    /// The number of the attempt that said it.
    pub attempt: i32,
    /// What it said.
    pub line: String,
}

/// What is left of a job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Log {
    /// How many lines came before these and are gone.
    pub dropped: i32,
    /// The last lines, oldest first.
    pub lines: Vec<Line>,
}

impl Attempt {
    /// Adds a line to the log of the job: at once, whatever becomes of the attempt. A stale worker's is refused.
    pub async fn log(&self, line: &str) -> anyhow::Result<()> {
        let written = sqlx::query!(
            "insert into queue.logs as l (job_id, lines)
             select $2, jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'attempt', $4::int, 'line', $5::text))
             where queue.hold($1, $2, $3)
             on conflict (job_id) do update
             set lines = case when jsonb_array_length(l.lines) >= $6 then l.lines - 0 else l.lines end || excluded.lines,
                 dropped = l.dropped + (jsonb_array_length(l.lines) >= $6)::int,
                 at = clock_timestamp()",
            self.held.claim_id,
            self.job_id.0,
            self.worker_id,
            self.number,
            cut(line),
            LINES_MAX,
        )
        .execute(&self.pool)
        .await?;
        if written.rows_affected() == 0 {
            return Err(self.fence_lost().into());
        }
        Ok(())
    }
}

/// What is left of a job's log; empty when it logged nothing.
pub async fn read(conn: &mut PgConnection, id: JobId) -> sqlx::Result<Log> {
    let row = sqlx::query!(
        r#"select dropped, lines as "lines: Json<Vec<Line>>" from queue.logs where job_id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map_or_else(Log::default, |row| Log {
        dropped: row.dropped,
        lines: row.lines.0,
    }))
}

/// At most [`LINE_BYTES_MAX`], with a mark where the rest is missing.
fn cut(line: &str) -> String {
    const MARK: &str = "…";
    // PostgreSQL stores no NUL in text or jsonb.
    let line = line.trim_end().replace('\0', "\u{fffd}");
    if line.len() <= LINE_BYTES_MAX {
        return line;
    }
    let end = line.floor_char_boundary(LINE_BYTES_MAX - MARK.len());
    format!("{}{MARK}", &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        assert_eq!(cut("short\n"), "short");
        assert_eq!(cut("a\0b"), "a\u{fffd}b");
        let whole = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(cut(&whole), whole);
        let long = cut(&"é".repeat(LINE_BYTES_MAX));
        assert!(long.len() <= LINE_BYTES_MAX && long.ends_with("é…"));
    }
}

//! What of all that is stored this build could not run: the gate of a deploy.
//!
//! A new build meets payloads that old builds wrote: in line, scheduled for next week, in flight, dead, on the timetable. A
//! worker never claims what it does not know, so such a job harms nobody, but it would wait for ever once the last old worker
//! is gone. [`check`] reads every payload through the catalogue, upcasts included, and lists what would be stranded. It reads
//! pages in read-only transactions of their own: it holds neither a lock nor a snapshot for longer than one page takes.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use serde::Serialize;
use sqlx::types::{Json, JsonRawValue};
use sqlx::{Connection, PgConnection};

use crate::catalogue::Catalogue;
use crate::failure::excerpt;

/// How many payloads are in memory at once: a page of the largest ones is 16 MiB.
const PAGE: i64 = 250;

/// How many examples of one fault are named.
const SAMPLES_MAX: usize = 5;

/// How many different faults are told apart; the rest is counted by kind.
const STRANDED_MAX: usize = 1000;

/// Where a payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In line.
    Due,
    /// Due later: scheduled, to be retried, or waiting for other jobs.
    Scheduled,
    /// In a worker's hands; it may come back.
    Running,
    /// Among the dead letters, from where it may be redriven.
    Dead,
    /// In a saga, not enqueued yet.
    Saga,
    /// On the timetable.
    Timetable,
}

/// Why this build cannot run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It does not know the kind.
    UnknownKind,
    /// The payload was written by a newer build.
    NewerVersion,
    /// It serves that kind from another queue.
    OtherQueue,
    /// It cannot read the payload.
    Undecodable,
}

/// Payloads that would be stranded for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stranded {
    /// Where they lie.
    pub place: Place,
    /// The queue they are for.
    pub queue: String,
    /// Their kind.
    pub kind: String,
    /// The version of their payload.
    pub version: i16,
    /// Why.
    pub fault: Fault,
    /// Where in the payload, if it cannot be read: `lines[].qty`.
    pub path: Option<String>,
    /// The first of them in words.
    pub error: String,
    /// How many.
    pub count: u64,
    /// The first five: job ids, steps of sagas, or names of the timetable.
    pub samples: Vec<String>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// How many payloads were read.
    pub read: BTreeMap<Place, u64>,
    /// What would be stranded, by place, queue and kind; nothing when the build may take over.
    pub stranded: Vec<Stranded>,
}

impl Backlog {
    /// How many payloads would be stranded, with or without the dead ones.
    pub fn stranded_count(&self, with_dead: bool) -> u64 {
        let counted = self.stranded.iter().filter(|one| with_dead || one.place != Place::Dead);
        counted.map(|one| one.count).sum()
    }
}

/// One stored payload.
struct Stored {
    id: i64,
    name: Option<String>,
    queue: String,
    kind: String,
    version: i16,
    args: Json<Box<JsonRawValue>>,
    is_later: bool,
}

/// Reads everything that is stored with this catalogue; `progress` hears how many payloads have been read after each page.
///
/// Jobs that arrive meanwhile are not looked at, and one that changes places between two pages may be missed: check again when
/// the old build has stopped enqueueing what the new one does not know.
pub async fn check<S: Send + Sync + 'static>(
    conn: &mut PgConnection,
    catalogue: &Catalogue<S>,
    mut progress: impl FnMut(u64),
) -> sqlx::Result<Backlog> {
    let mut found = Found::default();
    let last = sqlx::query_scalar!(r#"select last_value as "last!" from queue.jobs_id_seq"#)
        .fetch_one(&mut *conn)
        .await?;
    for source in Source::ALL {
        let mut after = Cursor::default();
        loop {
            let mut tx = conn.begin_with("begin read only").await?;
            let page = source.page(&mut tx, &after, last).await?;
            tx.commit().await?;
            let Some(end) = page.last() else { break };
            after = Cursor {
                id: end.id,
                name: end.name.clone().unwrap_or_default(),
            };
            for stored in &page {
                found.look_at(catalogue, source.place(stored), stored);
            }
            progress(found.read.values().sum());
        }
    }
    Ok(Backlog {
        read: found.read,
        stranded: found.stranded.into_values().collect(),
    })
}

/// The end of the page before.
#[derive(Default)]
struct Cursor {
    id: i64,
    name: String,
}

#[derive(Clone, Copy)]
enum Source {
    Line,
    Flight,
    DeadLetters,
    Sagas,
    Timetable,
}

impl Source {
    const ALL: [Source; 5] = [
        Self::Line,
        Self::Flight,
        Self::DeadLetters,
        Self::Sagas,
        Self::Timetable,
    ];

    fn place(self, stored: &Stored) -> Place {
        match self {
            Self::Line if stored.is_later => Place::Scheduled,
            Self::Line => Place::Due,
            Self::Flight => Place::Running,
            Self::DeadLetters => Place::Dead,
            Self::Sagas => Place::Saga,
            Self::Timetable => Place::Timetable,
        }
    }

    async fn page(self, conn: &mut PgConnection, after: &Cursor, last: i64) -> sqlx::Result<Vec<Stored>> {
        match self {
            Self::Line => {
                sqlx::query_as!(
                    Stored,
                    r#"select id, null as name, queue, kind, args_version as version, args as "args: Json<Box<JsonRawValue>>",
                              run_at > clock_timestamp() as "is_later!"
                       from queue.jobs
                       where id > $1 and id <= $2
                       order by id
                       limit $3"#,
                    after.id,
                    last,
                    PAGE,
                )
                .fetch_all(conn)
                .await
            }
            // A claim is read whole for each page of it: they are small and few.
            Self::Flight => {
                sqlx::query_as!(
                    Stored,
                    r#"select id as "id!", null as name, queue as "queue!", kind as "kind!", args_version as "version!",
                              args as "args!: Json<Box<JsonRawValue>>", false as "is_later!"
                       from queue.running_jobs
                       where id > $1 and id <= $2
                       order by id
                       limit $3"#,
                    after.id,
                    last,
                    PAGE,
                )
                .fetch_all(conn)
                .await
            }
            Self::DeadLetters => {
                sqlx::query_as!(
                    Stored,
                    r#"select id, null as name, queue, kind, args_version as version, args as "args: Json<Box<JsonRawValue>>",
                              false as "is_later!"
                       from queue.dead_letters
                       where id > $1
                       order by id
                       limit $2"#,
                    after.id,
                    PAGE,
                )
                .fetch_all(conn)
                .await
            }
            Self::Sagas => {
                sqlx::query_as!(
                    Stored,
                    r#"select j.id as "id!", 'step ' || j.step || ' of saga ' || j.saga_id as name, j.queue, j.kind,
                              j.args_version as version, j.args as "args: Json<Box<JsonRawValue>>", false as "is_later!"
                       from queue.saga_jobs j
                       join queue.sagas s on s.id = j.saga_id
                       -- Sagas stop at a dead compensation, and go on when it is redriven.
                       where j.id > $1 and j.job_id is null and s.state in ('running', 'compensating', 'compensation_failed')
                       order by j.id
                       limit $2"#,
                    after.id,
                    PAGE,
                )
                .fetch_all(conn)
                .await
            }
            Self::Timetable => {
                sqlx::query_as!(
                    Stored,
                    r#"select 0::bigint as "id!", name as "name?", queue, kind, args_version as version,
                              args as "args: Json<Box<JsonRawValue>>", false as "is_later!"
                       from queue.schedules
                       where name > $1
                       order by name
                       limit $2"#,
                    after.name,
                    PAGE,
                )
                .fetch_all(conn)
                .await
            }
        }
    }
}

/// One cause: place, queue, kind, version, fault, path.
type Cause = (Place, String, String, i16, Fault, Option<String>);

#[derive(Default)]
struct Found {
    read: BTreeMap<Place, u64>,
    stranded: BTreeMap<Cause, Stranded>,
}

impl Found {
    fn look_at<S: Send + Sync + 'static>(&mut self, catalogue: &Catalogue<S>, place: Place, stored: &Stored) {
        *self.read.entry(place).or_default() += 1;
        let Some((fault, mut path, error)) = fault(catalogue, stored) else {
            return;
        };
        if self.stranded.len() >= STRANDED_MAX {
            path = None;
        }
        let cause = (
            place,
            stored.queue.clone(),
            stored.kind.clone(),
            stored.version,
            fault,
            path.clone(),
        );
        let stranded = self.stranded.entry(cause).or_insert_with(|| Stranded {
            place,
            queue: stored.queue.clone(),
            kind: stored.kind.clone(),
            version: stored.version,
            fault,
            path,
            error,
            count: 0,
            samples: Vec::new(),
        });
        stranded.count += 1;
        if stranded.samples.len() < SAMPLES_MAX {
            let name = stored.name.clone().unwrap_or_else(|| stored.id.to_string());
            stranded.samples.push(name);
        }
    }
}

/// Why this build cannot run it, where, and in words; none when it can.
fn fault<S: Send + Sync + 'static>(
    catalogue: &Catalogue<S>,
    stored: &Stored,
) -> Option<(Fault, Option<String>, String)> {
    let Some(kind) = catalogue.kind(&stored.kind) else {
        return Some((Fault::UnknownKind, None, "this build does not know the kind".to_owned()));
    };
    let info = kind.info();
    if stored.version > info.version {
        let error = format!("this build reads up to version {}", info.version);
        return Some((Fault::NewerVersion, None, error));
    }
    if stored.queue != info.queue {
        let error = format!("this build runs the kind from the queue {}", info.queue);
        return Some((Fault::OtherQueue, None, error));
    }
    // A payload's own code may panic as well.
    match std::panic::catch_unwind(AssertUnwindSafe(|| kind.decode(stored.version, &stored.args))) {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => {
            let path = error.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>();
            let path = path.map(|error| without_places(&error.path().to_string()));
            Some((Fault::Undecodable, path, excerpt(&format!("{error:#}"))))
        }
        Err(_) => Some((Fault::Undecodable, None, "reading it panics".to_owned())),
    }
}

/// The path without the places in lists, so that a thousand payloads with one fault are one line: `lines[3].qty` is `lines[].qty`.
fn without_places(path: &str) -> String {
    let mut is_place = false;
    let kept = path.chars().filter(|&c| {
        is_place = c == '[' || (is_place && c.is_ascii_digit());
        !(is_place && c.is_ascii_digit())
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart_by_their_names_only() {
        assert_eq!(without_places("lines[13].qty2"), "lines[].qty2");
        assert_eq!(without_places("a[0][1].b"), "a[][].b");
    }
}

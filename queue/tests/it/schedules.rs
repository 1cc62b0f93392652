use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use queue::Job;
use queue::inspect::{self, ScheduleView, TickView};
use queue::schedule::{self, Entry, Error, Missed, Overlap};
use queue::timetable::{self, Change};
use serde_json::json;
use sqlx::PgPool;
use testkit::Database;

use crate::kinds::*;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn install(db: &Database, entry: Entry) -> bool {
    schedule::install(&mut db.pool.acquire().await.unwrap(), &[entry])
        .await
        .unwrap()
}

fn rehearse() -> Entry {
    Entry::new("rehearse", "* * * * *", &act(Fate::Done))
}

/// Lets that much time go by.
async fn pass(db: &Database, time: Duration) {
    queue::testing::fast_forward(&db.pool, time).await.unwrap();
}

/// One more tick of every entry that ticks each minute, exactly, however late it is in this one.
async fn pass_one_minute(db: &Database) {
    // Or the next minute begins before anybody looks, and there are two.
    testkit::eventually("the minute to have seconds left", async || {
        let second: f64 = sqlx::query_scalar("select extract(second from clock_timestamp())::float8")
            .fetch_one(&db.pool)
            .await
            .unwrap();
        (second < 55.0).then_some(())
    })
    .await;
    sqlx::query("update queue.schedules set settled_at = date_trunc('minute', clock_timestamp()) - interval '1 s', next_at = null")
        .execute(&db.pool)
        .await
        .unwrap();
    sqlx::query("update queue.ticks set tick_at = tick_at - interval '2 min'")
        .execute(&db.pool)
        .await
        .unwrap();
}

async fn tick(db: &Database) -> u64 {
    schedule::tick(&db.pool).await.unwrap()
}

async fn views(db: &Database) -> Vec<ScheduleView> {
    inspect::schedules(&mut db.pool.acquire().await.unwrap()).await.unwrap()
}

async fn view(db: &Database, name: &str) -> ScheduleView {
    inspect::schedule(&mut db.pool.acquire().await.unwrap(), name)
        .await
        .unwrap()
        .unwrap()
}

/// What became of the ticks, the earliest first.
async fn ticks(db: &Database, name: &str) -> Vec<TickView> {
    let mut ticks = inspect::ticks(&mut db.pool.acquire().await.unwrap(), name, None, 100_000)
        .await
        .unwrap();
    ticks.reverse();
    ticks
}

fn outcomes(ticks: &[TickView]) -> Vec<(&str, i32)> {
    ticks.iter().map(|tick| (tick.outcome.as_str(), tick.ticks)).collect()
}

async fn change(db: &Database, name: &str, change: &Change) -> Result<(), Error> {
    let conn = &mut *db.pool.acquire().await.unwrap();
    timetable::change(conn, name, change, "ann", "the summer season").await
}

fn refused(error: Error) -> String {
    match error {
        Error::Refused { .. } => error.to_string(),
        other => panic!("not refused but: {other:?}"),
    }
}

#[tokio::test]
async fn two_tickers_fire_a_tick_once() {
    let db = Database::new().await;
    install(&db, rehearse()).await;
    pass(&db, Duration::from_secs(61)).await;
    let (one, other) = tokio::join!(schedule::tick(&db.pool), schedule::tick(&db.pool));
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    let view = view(&db, "rehearse").await;
    assert_eq!(view.next.len(), 3);
    assert!(view.last_job_id.is_some());
    assert_eq!(view.last_outcome.as_deref(), Some("fired"));
}

#[tokio::test]
async fn ten_tickers_fire_every_tick_exactly_once() {
    let db = Arc::new(Database::new().await);
    let entries: Vec<Entry> = (0..5)
        .map(|n| Entry::new(&format!("act-{n}"), "* * * * *", &act(Fate::Done)).missed(Missed::All))
        .collect();
    schedule::install(&mut db.pool.acquire().await.unwrap(), &entries)
        .await
        .unwrap();
    let since: DateTime<Utc> =
        sqlx::query_scalar("with since as (select clock_timestamp() as at) update queue.schedules set settled_at = since.at from since returning settled_at")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    // Each with its own connections, as ten workers have.
    let mut pools = Vec::new();
    for _ in 0..10 {
        pools.push(PgPool::connect(&db.url).await.unwrap());
    }
    let mut fired = 0;
    // After the first of these, ticks are due again that were decided already: as after a step back of the database's clock.
    for minutes in [42, 7, 7, 7, 7, 7] {
        pass(&db, minutes * MINUTE).await;
        let rounds = pools.iter().map(|pool| async move {
            let mut fired = 0;
            for _ in 0..5 {
                fired += schedule::tick(pool).await.unwrap();
            }
            fired
        });
        fired += futures::future::join_all(rounds).await.into_iter().sum::<u64>();
    }
    let start = since - TimeDelta::minutes(42);
    for entry in &entries {
        let ticks = ticks(&db, &entry.name).await;
        assert!(
            ticks
                .iter()
                .all(|tick| tick.outcome == "fired" && tick.job_id.is_some())
        );
        let at: Vec<DateTime<Utc>> = ticks.iter().map(|tick| tick.tick_at).collect();
        assert!(
            at[0] > start && at[0] <= start + TimeDelta::minutes(1),
            "from the first one on"
        );
        assert!(at.len() >= 42, "{}", at.len());
        for (earlier, later) in at.iter().zip(&at[1..]) {
            assert_eq!(*later - *earlier, TimeDelta::minutes(1), "without a gap");
        }
    }
    let (ticks, jobs, distinct): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from queue.ticks), (select count(*) from queue.jobs), (select count(distinct job_id) from queue.ticks)",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!((jobs, distinct, fired.cast_signed()), (ticks, ticks, ticks));
}

#[tokio::test]
async fn a_round_with_nothing_due_takes_no_lock_and_writes_nothing() {
    let db = Database::new().await;
    install(&db, Entry::new("season", "0 0 1 1 *", &act(Fate::Done))).await;
    tick(&db).await;
    let before: String = sqlx::query_scalar("select xmin::text || ' ' || next_at from queue.schedules")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    // Whoever wanted the row would wait here for ever.
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("lock table queue.schedules in share row exclusive mode")
        .execute(&mut *other)
        .await
        .unwrap();
    assert_eq!(tick(&db).await, 0);
    other.rollback().await.unwrap();
    let after: String = sqlx::query_scalar("select xmin::text || ' ' || next_at from queue.schedules")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn missed_ticks_collapse_are_skipped_or_are_all_made_up_for() {
    for (missed, fired, expected) in [
        (Missed::Once, 1, vec![("missed", 2), ("fired", 1)]),
        (Missed::Skip, 0, vec![("missed", 3)]),
        (Missed::All, 3, vec![("fired", 1), ("fired", 1), ("fired", 1)]),
    ] {
        let db = Database::new().await;
        install(&db, Entry::new("season", "0 0 1 1 *", &act(Fate::Done)).missed(missed)).await;
        pass(&db, 3 * 366 * DAY - DAY).await;
        assert_eq!(tick(&db).await, fired, "{missed:?}");
        assert_eq!(outcomes(&ticks(&db, "season").await), expected, "{missed:?}");
        assert_eq!(tick(&db).await, 0, "{missed:?}");
    }
}

#[tokio::test]
async fn no_more_than_a_thousand_missed_ticks_are_made_up_for_and_the_rest_is_counted() {
    let db = Database::new().await;
    install(&db, rehearse().missed(Missed::All)).await;
    pass(&db, DAY).await;
    assert_eq!(tick(&db).await, schedule::MADE_UP_MAX as u64);
    let ticks = ticks(&db, "rehearse").await;
    assert_eq!(ticks.len(), 1 + schedule::MADE_UP_MAX);
    assert_eq!(ticks[0].outcome, "missed");
    // A day has 1440 minutes, and this test may have taken one.
    assert!((440..=445).contains(&ticks[0].ticks), "{}", ticks[0].ticks);
    assert_eq!(ticks[0].reason.as_deref(), Some("nobody was there; the policy is all"));
    assert_eq!(ticks[1].tick_at - ticks[0].tick_at, TimeDelta::minutes(1));
}

#[tokio::test]
async fn a_tick_fires_nothing_while_the_kinds_live_key_is_taken_and_says_so() {
    let db = Database::new().await;
    let job = Act {
        key: Some("rehearsal".to_owned()),
        ..act(Fate::Done)
    };
    install(&db, Entry::new("rehearse", "* * * * *", &job)).await;
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1);
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 0);
    let ticks = ticks(&db, "rehearse").await;
    assert_eq!(outcomes(&ticks), [("fired", 1), ("skipped", 1)]);
    let reason = format!(
        "job {} has its unique key rehearsal and has not ended",
        ticks[0].job_id.unwrap()
    );
    assert_eq!(ticks[1].reason, Some(reason));
}

#[tokio::test]
async fn runs_overlap_or_are_skipped_as_the_entry_says() {
    for (overlap, expected) in [
        (Overlap::Allow, [("fired", 1), ("fired", 1), ("fired", 1)]),
        (Overlap::Skip, [("fired", 1), ("skipped", 1), ("skipped", 1)]),
    ] {
        let db = Database::new().await;
        install(&db, rehearse().overlap(overlap)).await;
        let worker = worker(&db.pool).await;
        pass_one_minute(&db).await;
        tick(&db).await;
        // It waits, and then it runs: neither has ended.
        pass_one_minute(&db).await;
        tick(&db).await;
        let claimed = worker.claim(Act::QUEUE, 10).await.unwrap();
        assert_eq!(claimed.len(), if overlap == Overlap::Allow { 2 } else { 1 });
        pass_one_minute(&db).await;
        tick(&db).await;
        let so_far = ticks(&db, "rehearse").await;
        assert_eq!(outcomes(&so_far), expected, "{overlap:?}");
        if overlap == Overlap::Skip {
            let reason = format!("job {} of an earlier tick has not ended", so_far[0].job_id.unwrap());
            assert_eq!(so_far[2].reason, Some(reason));
            // When it has ended, the next one fires.
            worker.hand_back_all().await.unwrap();
            assert_eq!(run(&db.pool, &Arc::new(World::default())).await.completed, 1);
            pass_one_minute(&db).await;
            assert_eq!(tick(&db).await, 1);
        }
    }
}

#[tokio::test]
async fn queue_one_lets_one_wait_its_turn_behind_the_run_and_no_more() {
    let db = Database::new().await;
    install(&db, rehearse().overlap(Overlap::QueueOne)).await;
    let worker = worker(&db.pool).await;
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1);
    assert_eq!(worker.claim(Act::QUEUE, 10).await.unwrap().len(), 1);
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1, "one may wait");
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 0, "a second may not");
    assert_eq!(
        worker.claim(Act::QUEUE, 10).await.unwrap().len(),
        0,
        "it waits until the run has ended"
    );
    let so_far = ticks(&db, "rehearse").await;
    assert_eq!(outcomes(&so_far), [("fired", 1), ("fired", 1), ("skipped", 1)]);
    let reason = format!("job {} of an earlier tick still waits", so_far[1].job_id.unwrap());
    assert_eq!(so_far[2].reason, Some(reason));
    worker.hand_back_all().await.unwrap();
    assert_eq!(run(&db.pool, &Arc::new(World::default())).await.completed, 2);
}

#[tokio::test]
async fn a_job_starts_within_the_jitter_of_its_entry() {
    let db = Database::new().await;
    install(&db, rehearse().jitter_seconds(3600)).await;
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1);
    let is_within: bool = sqlx::query_scalar(
        "select run_at between t.fired_at and t.fired_at + interval '3601 s'
         from queue.jobs j join queue.ticks t on t.job_id = j.id",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert!(is_within);
}

#[tokio::test]
async fn a_line_taken_off_the_timetable_fires_no_more_and_comes_back_as_it_was() {
    let db = Database::new().await;
    let names = async || -> Vec<String> { views(&db).await.into_iter().map(|view| view.name).collect() };
    install(&db, rehearse()).await;
    let weekly = Change {
        cron: Some("0 9 * * MON".to_owned()),
        ..Change::default()
    };
    change(&db, "rehearse", &weekly).await.unwrap();
    let perform = Entry::new("perform", "0 20 * * *", &act(Fate::Done)).time_zone(chrono_tz::Europe::Vienna);
    assert!(install(&db, perform.clone()).await);
    assert_eq!(names().await, ["perform"]);
    assert!(matches!(
        change(&db, "rehearse", &weekly).await,
        Err(Error::NotFound(_))
    ));
    pass(&db, 8 * DAY).await;
    tick(&db).await;
    assert_eq!(ticks(&db, "rehearse").await.len(), 0);

    schedule::install(&mut db.pool.acquire().await.unwrap(), &[perform, rehearse()])
        .await
        .unwrap();
    let back = view(&db, "rehearse").await;
    assert_eq!(
        (back.cron.as_str(), back.overridden.unwrap().actor.as_str()),
        ("0 9 * * MON", "ann")
    );
    assert_eq!(tick(&db).await, 0, "what ticked while it was off was not missed");
}

#[tokio::test]
async fn the_newest_list_is_in_force_until_nobody_lists_it_any_more() {
    let db = Database::new().await;
    let old = Entry::new("rehearse", "0 9 * * *", &act(Fate::Done));
    let new = Entry::new("rehearse", "0 10 * * *", &act(Fate::Done));
    assert!(install(&db, old.clone()).await);
    assert!(install(&db, new.clone()).await, "a deploy");
    for _ in 0..3 {
        assert!(!install(&db, old.clone()).await, "an old worker starts again");
        assert_eq!(view(&db, "rehearse").await.cron, "0 10 * * *");
        assert!(install(&db, new.clone()).await);
    }
    // The new build is rolled back: its workers are gone, and those of the old one go on listing theirs.
    sqlx::query(
        "update queue.timetables set listed_at = listed_at - interval '301 s'
         where first_listed_at = (select max(first_listed_at) from queue.timetables)",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    assert!(install(&db, old).await);
    assert_eq!(view(&db, "rehearse").await.cron, "0 9 * * *");
    assert!(install(&db, new).await, "and is deployed again");
    assert_eq!(view(&db, "rehearse").await.cron, "0 10 * * *");
}

#[tokio::test]
async fn builds_that_list_at_once_agree_on_one_list() {
    let db = Arc::new(Database::new().await);
    let installs = (0..10).map(|n| {
        let db = Arc::clone(&db);
        async move {
            let entries = [
                Entry::new("shared", &format!("{} * * * *", n % 2), &act(Fate::Done)),
                Entry::new(&format!("only-{}", n % 2), "0 0 * * *", &act(Fate::Done)),
            ];
            schedule::install(&mut db.connect().await, &entries).await.unwrap();
        }
    });
    futures::future::join_all(installs).await;
    let found: Vec<(String, String)> = views(&db)
        .await
        .into_iter()
        .map(|view| (view.name, view.cron))
        .collect();
    let of_build = |n: usize| {
        vec![
            (format!("only-{n}"), "0 0 * * *".to_owned()),
            ("shared".to_owned(), format!("{n} * * * *")),
        ]
    };
    assert!(found == of_build(0) || found == of_build(1), "{found:?}");
}

#[tokio::test]
async fn an_override_survives_restarts_and_deploys_until_it_is_reset() {
    let db = Database::new().await;
    install(&db, rehearse()).await;
    let evening = Change {
        cron: Some("0 20 * * *".to_owned()),
        time_zone: Some("Europe/Vienna".to_owned()),
        overlap: Some(Overlap::Skip),
        ..Change::default()
    };
    change(&db, "rehearse", &evening).await.unwrap();
    install(&db, rehearse()).await;
    install(
        &db,
        Entry::new("rehearse", "30 4 * * *", &act(Fate::Done)).missed(Missed::All),
    )
    .await;

    let found = view(&db, "rehearse").await;
    assert_eq!(
        (
            found.cron.as_str(),
            found.time_zone.as_str(),
            found.overlap.as_str(),
            found.missed.as_str()
        ),
        ("0 20 * * *", "Europe/Vienna", "skip", "all"),
        "what is not overridden follows the build"
    );
    let overridden = found.overridden.unwrap();
    assert_eq!(overridden.fields, ["cron", "overlap", "time_zone"]);
    assert_eq!(
        overridden.listed,
        json!({"cron": "30 4 * * *", "overlap": "allow", "time_zone": "UTC"})
    );
    assert_eq!(
        (overridden.actor.as_str(), overridden.reason.as_str()),
        ("ann", "the summer season")
    );

    let conn = &mut *db.pool.acquire().await.unwrap();
    assert!(timetable::reset(conn, "rehearse", "bob", "it is autumn").await.unwrap());
    assert!(!timetable::reset(conn, "rehearse", "bob", "again").await.unwrap());
    let found = view(&db, "rehearse").await;
    assert_eq!((found.cron.as_str(), found.overlap.as_str()), ("30 4 * * *", "allow"));
    assert!(found.overridden.is_none());
    let audit: Vec<(String, String, String)> = sqlx::query_as(
        "select actor, action, detail ->> 'reason' from queue.audit where subject = 'schedule rehearse' order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let line = |actor: &str, action: &str, reason: &str| (actor.to_owned(), action.to_owned(), reason.to_owned());
    assert_eq!(
        audit,
        [
            line("ann", "change", "the summer season"),
            line("bob", "reset", "it is autumn")
        ]
    );
}

#[tokio::test]
async fn new_times_count_from_the_change_on() {
    let db = Database::new().await;
    install(&db, Entry::new("season", "0 0 1 1 *", &act(Fate::Done))).await;
    pass(&db, 3 * 366 * DAY).await;
    let minutely = Change {
        cron: Some("* * * * *".to_owned()),
        ..Change::default()
    };
    change(&db, "season", &minutely).await.unwrap();
    assert_eq!(tick(&db).await, 0);
    assert_eq!(ticks(&db, "season").await.len(), 0);
}

#[tokio::test]
async fn the_next_ticks_are_shown_in_the_zone_of_the_entry_and_none_during_a_pause() {
    let db = Database::new().await;
    let noon = Entry::new("noon", "0 12 * * *", &act(Fate::Done)).time_zone(chrono_tz::Asia::Tokyo);
    install(&db, noon).await;
    let next = view(&db, "noon").await.next;
    assert_eq!(next.len(), 3);
    // Noon in Tokyo, where the clocks never change.
    let times: Vec<_> = next.iter().map(|tick| tick.format("%H:%M:%S").to_string()).collect();
    assert_eq!(times, ["03:00:00"; 3]);
    assert!(next.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::days(1)));
    change(&db, "noon", &Change::paused(true)).await.unwrap();
    assert!(view(&db, "noon").await.next.is_empty());
}

#[tokio::test]
async fn a_pause_holds_the_ticks_back_and_notes_how_many() {
    let db = Database::new().await;
    install(&db, rehearse().missed(Missed::All)).await;
    change(&db, "rehearse", &Change::paused(true)).await.unwrap();
    pass(&db, 10 * MINUTE).await;
    install(&db, rehearse().missed(Missed::All)).await;
    assert_eq!(tick(&db).await, 0);
    let paused = view(&db, "rehearse").await;
    assert!(paused.next.is_empty());
    assert_eq!(paused.paused.unwrap().actor, "ann");

    change(&db, "rehearse", &Change::paused(false)).await.unwrap();
    assert!(view(&db, "rehearse").await.paused.is_none());
    let ticks = ticks(&db, "rehearse").await;
    assert_eq!(ticks.len(), 1);
    assert_eq!(ticks[0].reason.as_deref(), Some("paused by ann: the summer season"));
    assert!((10..=11).contains(&ticks[0].ticks));
    change(&db, "rehearse", &Change::paused(false)).await.unwrap();
}

#[tokio::test]
async fn an_added_entry_fires_and_no_list_takes_it_away() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    install(&db, rehearse()).await;
    let args = serde_json::to_value(act(Fate::Done)).unwrap();
    let added = catalogue().entry("matinee", "* * * * *", "act", &args).unwrap();
    timetable::add(conn, &added, "ann", "a holiday").await.unwrap();
    install(&db, Entry::new("matinee", "0 0 * * *", &act(Fate::Fail))).await;
    let found = view(&db, "matinee").await;
    assert_eq!((found.origin.as_str(), found.cron.as_str()), ("operator", "* * * * *"));
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1);

    let again = timetable::add(conn, &added, "ann", "twice").await;
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    let hourly = Change {
        cron: Some("0 * * * *".to_owned()),
        ..Change::default()
    };
    change(&db, "matinee", &hourly).await.unwrap();
    let found = view(&db, "matinee").await;
    assert_eq!(found.cron, "0 * * * *");
    assert!(found.overridden.is_none(), "it is the operator's own");
    timetable::remove(conn, "matinee", "ann", "it is over").await.unwrap();
    assert!(matches!(
        timetable::remove(conn, "matinee", "ann", "it is over").await,
        Err(Error::NotFound(_))
    ));
    assert_eq!(
        ticks(&db, "matinee").await.len(),
        1,
        "what became of its ticks is still known"
    );
    install(&db, rehearse()).await;
    sqlx::query("delete from queue.timetables")
        .execute(&db.pool)
        .await
        .unwrap();
    install(&db, rehearse()).await;
    let listed = timetable::remove(conn, "rehearse", "ann", "enough").await;
    assert!(matches!(listed, Err(Error::Listed(_))), "{listed:?}");
}

#[tokio::test]
async fn what_cannot_be_an_entry_is_refused_and_changes_nothing() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    install(&db, rehearse()).await;
    let args = serde_json::to_value(act(Fate::Done)).unwrap();
    let catalogue = catalogue();
    let entry = |name: &str, cron: &str, kind: &str, args: &serde_json::Value| catalogue.entry(name, cron, kind, args);

    let no_kind = refused(entry("a", "* * * * *", "dance", &args).unwrap_err());
    assert_eq!(no_kind, "kind: there is no kind dance; there are act");
    for (args, expected) in [
        (json!({}), "missing field"),
        (json!([1]), "args: are no payload of act"),
        (json!(null), "args: are no payload of act"),
        (
            json!({"fate": "Done", "order_id": "1", "kept": false, "keye": "x"}),
            "it has no field keye",
        ),
    ] {
        let why = refused(entry("a", "* * * * *", "act", &args).unwrap_err());
        assert!(why.contains(expected), "{why}");
    }
    for (name, cron, expected) in [
        ("", "* * * * *", "name: must have 1 to 100"),
        ("a b", "* * * * *", "name: must have 1 to 100"),
        ("a", "0 0 30 2 *", "never comes"),
        ("a", "* * * * * *", "has 6 fields"),
    ] {
        let entry = entry(name, cron, "act", &args).unwrap();
        let why = refused(timetable::add(conn, &entry, "ann", "why not").await.unwrap_err());
        assert!(why.contains(expected), "{why}");
    }
    let mut large = entry("large", "* * * * *", "act", &args).unwrap();
    // Not compressible, so that it is as large in the table.
    large.args["order_id"] = (0..20_000u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).to_string())
        .collect::<String>()
        .into();
    let why = refused(timetable::add(conn, &large, "ann", "why not").await.unwrap_err());
    assert_eq!(why, "args: must have at most 65536 bytes");

    let keyed = Act {
        key: Some("rehearsal".to_owned()),
        ..act(Fate::Done)
    };
    let keyed = Entry::new("keyed", "* * * * *", &keyed);
    timetable::add(conn, &keyed, "ann", "to be changed").await.unwrap();
    let of = |set: fn(&mut Change)| {
        let mut change = Change::default();
        set(&mut change);
        change
    };
    for (change_to, expected) in [
        (
            of(|c| c.cron = Some("61 * * * *".to_owned())),
            "cron: cron expression \"61 * * * *\"",
        ),
        (
            of(|c| c.time_zone = Some("Mars/Olympus".to_owned())),
            "time_zone: there is no time zone",
        ),
        (
            of(|c| c.jitter_seconds = Some(3601)),
            "jitter_seconds: must be between 0 and 3600",
        ),
        (
            of(|c| c.jitter_seconds = Some(-1)),
            "jitter_seconds: must be between 0 and 3600",
        ),
        (
            of(|c| c.overlap = Some(Overlap::QueueOne)),
            "overlap: queue_one cannot be",
        ),
    ] {
        let why = refused(change(&db, "keyed", &change_to).await.unwrap_err());
        assert!(why.contains(expected), "{why}");
    }
    assert!(matches!(
        change(&db, "nothing", &Change::paused(true)).await,
        Err(Error::NotFound(_))
    ));
    let bad_list = schedule::install(conn, &[Entry::new("bad", "every day", &act(Fate::Done))]).await;
    assert!(matches!(bad_list, Err(Error::Refused { .. })));

    let names: Vec<String> = views(&db).await.into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["keyed", "rehearse"]);
    let audited: i64 = sqlx::query_scalar("select count(*) from queue.audit")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(audited, 1);
}

#[tokio::test]
async fn the_timetable_is_bounded() {
    let db = Database::new().await;
    sqlx::query("insert into queue.schedules (name, kind, queue, args, cron) select 'e' || n, 'act', 'stage', '{}', '0 0 * * *' from generate_series(1, $1) n")
        .bind(timetable::ENTRIES_MAX)
        .execute(&db.pool)
        .await
        .unwrap();
    let full = timetable::add(&mut db.connect().await, &rehearse(), "ann", "one more").await;
    assert!(matches!(full, Err(Error::Full(_))), "{full:?}");
}

#[tokio::test]
async fn a_run_now_is_a_tick_of_its_own_and_keeps_the_overlap_policy() {
    let db = Database::new().await;
    let conn = &mut db.connect().await;
    install(
        &db,
        Entry::new("season", "0 0 1 1 *", &act(Fate::Done)).overlap(Overlap::Skip),
    )
    .await;
    change(&db, "season", &Change::paused(true)).await.unwrap();
    let job = timetable::run_now(conn, "season", "ann", "a gala").await.unwrap();
    let so_far = ticks(&db, "season").await;
    assert_eq!(outcomes(&so_far), [("fired", 1)]);
    assert_eq!(
        (so_far[0].job_id, so_far[0].reason.as_deref()),
        (Some(job.0), Some("run by ann: a gala"))
    );

    let refused = timetable::run_now(conn, "season", "ann", "another").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!("season was not run: job {job} of an earlier tick has not ended")
    );
    assert_eq!(ticks(&db, "season").await.len(), 1);
    assert!(matches!(
        timetable::run_now(conn, "opera", "ann", "x").await,
        Err(Error::NotFound(_))
    ));
    let runs: i64 = sqlx::query_scalar("select count(*) from queue.audit where action = 'run'")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(runs, 1);
}

#[tokio::test]
async fn an_entry_that_cannot_fire_does_not_stop_the_others() {
    let db = Database::new().await;
    install(&db, rehearse()).await;
    // Written by hand, past every check of ours.
    sqlx::query(
        "insert into queue.schedules (name, kind, queue, args, cron, attempts_max)
         values ('a-unreadable', 'act', 'stage', '{}', 'soon', 20), ('b-refused', 'act', 'stage', '{}', '* * * * *', 0)",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    pass_one_minute(&db).await;
    assert_eq!(tick(&db).await, 1);
    assert_eq!(ticks(&db, "rehearse").await.len(), 1);
    let postponed: i64 = sqlx::query_scalar(
        "select count(*) from queue.schedules where next_at > clock_timestamp() and name <> 'rehearse'",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!(postponed, 2);
}

#[tokio::test]
async fn old_ticks_are_forgotten() {
    let db = Database::new().await;
    install(&db, rehearse()).await;
    pass_one_minute(&db).await;
    tick(&db).await;
    schedule::prune(&db.pool).await.unwrap();
    assert_eq!(ticks(&db, "rehearse").await.len(), 1);
    sqlx::query("update queue.ticks set tick_at = tick_at - interval '31 days'")
        .execute(&db.pool)
        .await
        .unwrap();
    schedule::prune(&db.pool).await.unwrap();
    assert_eq!(ticks(&db, "rehearse").await.len(), 0);
}

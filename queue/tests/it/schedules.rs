use std::time::Duration;

use crate::kinds::*;
use queue::schedule::{self, Entry, Missed};
use testkit::Database;

async fn install(db: &Database, entry: Entry) {
    schedule::install(&mut db.pool.acquire().await.unwrap(), &[entry])
        .await
        .unwrap();
}

#[tokio::test]
async fn two_tickers_fire_a_tick_once() {
    let db = Database::new().await;
    install(&db, Entry::new("rehearse", "* * * * *", &act(Fate::Done))).await;
    queue::testing::fast_forward(&db.pool, Duration::from_secs(61))
        .await
        .unwrap();
    let (one, other) = tokio::join!(schedule::tick(&db.pool), schedule::tick(&db.pool));
    assert_eq!(one.unwrap() + other.unwrap(), 1);
    assert_eq!(schedule::tick(&db.pool).await.unwrap(), 0);
    let view = &queue::inspect::schedules(&mut db.pool.acquire().await.unwrap())
        .await
        .unwrap()[0];
    assert_eq!(view.next.len(), 3);
    assert!(view.last_job_id.is_some());
}

#[tokio::test]
async fn missed_ticks_collapse_are_skipped_or_are_all_made_up_for() {
    for (missed, expected) in [(Missed::Once, 1), (Missed::Skip, 0), (Missed::All, 3)] {
        let db = Database::new().await;
        install(&db, Entry::new("season", "0 0 1 1 *", &act(Fate::Done)).missed(missed)).await;
        queue::testing::fast_forward(&db.pool, Duration::from_secs(3 * 366 * 24 * 3600 - 24 * 3600))
            .await
            .unwrap();
        assert_eq!(schedule::tick(&db.pool).await.unwrap(), expected, "{missed:?}");
    }
}

#[tokio::test]
async fn a_tick_fires_nothing_while_the_run_before_lives() {
    let db = Database::new().await;
    let job = Act {
        key: Some("rehearsal".to_owned()),
        ..act(Fate::Done)
    };
    install(&db, Entry::new("rehearse", "* * * * *", &job)).await;
    queue::testing::fast_forward(&db.pool, Duration::from_secs(61))
        .await
        .unwrap();
    assert_eq!(schedule::tick(&db.pool).await.unwrap(), 1);
    sqlx::query("update queue.schedules set settled_at = settled_at - interval '2 min'")
        .execute(&db.pool)
        .await
        .unwrap();
    sqlx::query("delete from queue.ticks").execute(&db.pool).await.unwrap();
    assert_eq!(schedule::tick(&db.pool).await.unwrap(), 0);
}

#[tokio::test]
async fn a_line_taken_off_the_timetable_fires_no_more_and_a_paused_one_waits() {
    let db = Database::new().await;
    install(&db, Entry::new("rehearse", "* * * * *", &act(Fate::Done))).await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    queue::operate::pause_schedule(conn, "rehearse", true, "holiday", "ann")
        .await
        .unwrap();
    queue::testing::fast_forward(&db.pool, Duration::from_secs(61))
        .await
        .unwrap();
    assert_eq!(schedule::tick(&db.pool).await.unwrap(), 0);
    install(
        &db,
        Entry::new("perform", "0 20 * * *", &act(Fate::Done)).time_zone(chrono_tz::Europe::Vienna),
    )
    .await;
    let names: Vec<_> = queue::inspect::schedules(conn)
        .await
        .unwrap()
        .into_iter()
        .map(|view| view.name)
        .collect();
    assert_eq!(names, ["perform"]);
}

//! One trace through everything that follows from it.

use std::sync::Arc;

use queue::trace::{self, TraceContext};
use queue::{Attempt, Catalogue, Job, Outcome};
use serde::{Deserialize, Serialize};
use testkit::Database;

use crate::kinds::World;

/// Passes on a parcel so many times, to one or to two, and notes the trace each time.
#[derive(Clone, Serialize, Deserialize)]
struct PassOn {
    times: u32,
    fails_first: bool,
}

impl Job for PassOn {
    type Services = World;
    const KIND: &'static str = "pass_on";
    const QUEUE: &'static str = "stage";

    async fn run(self, attempt: &Attempt, world: &World) -> anyhow::Result<Outcome> {
        let here = trace::current().unwrap();
        world.order.lock().unwrap().push(here.to_string());
        anyhow::ensure!(!self.fails_first || attempt.number > 1, "dropped it");
        let mut tx = attempt.begin().await?;
        let next = pass_on(self.times.saturating_sub(1));
        match self.times {
            0 => {}
            2 => drop(queue::enqueue_many(&mut tx, &[next.clone(), next]).await?),
            _ => drop(queue::enqueue(&mut tx, &next).await?),
        }
        tx.done().await
    }
}

fn pass_on(times: u32) -> PassOn {
    PassOn {
        times,
        fails_first: false,
    }
}

async fn run(db: &Database, world: &Arc<World>) -> Vec<TraceContext> {
    let catalogue = Catalogue::new().with::<PassOn>();
    queue::testing::run_until_idle(&db.pool, &catalogue, world)
        .await
        .unwrap();
    let notes = std::mem::take(&mut *world.order.lock().unwrap());
    notes.iter().map(|note| TraceContext::parse(note).unwrap()).collect()
}

#[tokio::test]
async fn one_trace_goes_through_every_job_that_follows() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let begun = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let conn = &mut *db.pool.acquire().await.unwrap();
    let first = trace::scope(begun, async {
        queue::enqueue(
            conn,
            &PassOn {
                fails_first: true,
                ..pass_on(3)
            },
        )
        .await
        .unwrap()
    })
    .await;
    let stored = queue::inspect::job(conn, first.id).await.unwrap().unwrap();
    assert_eq!(stored.trace_context, Some(begun.to_string()));
    run(&db, &world).await;
    queue::testing::fast_forward(&db.pool, std::time::Duration::from_secs(60))
        .await
        .unwrap();
    let places = run(&db, &world).await;
    // The second attempt, the one after it, and the two branches of one and one job.
    assert_eq!(places.len(), 6);
    for (n, place) in places.iter().enumerate() {
        assert_eq!(place.trace_id().to_string(), begun.trace_id().to_string());
        assert!(
            *place != begun && !places[..n].contains(place),
            "each attempt is a place of its own"
        );
    }
}

#[tokio::test]
async fn a_job_without_a_trace_or_with_a_broken_one_begins_one() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let conn = &mut *db.pool.acquire().await.unwrap();
    let alone = queue::enqueue(conn, &pass_on(1)).await.unwrap();
    let stored = queue::inspect::job(conn, alone.id).await.unwrap().unwrap();
    assert_eq!(stored.trace_context, None);
    let places = run(&db, &world).await;
    assert_eq!(places.len(), 2);
    assert_eq!(places[0].trace_id().to_string(), places[1].trace_id().to_string());

    sqlx::query(
        "select queue.enqueue('stage', 'pass_on', '{\"times\": 0, \"fails_first\": false}', p_trace_context => 'zz')",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    let others = run(&db, &world).await;
    assert_ne!(others[0].trace_id().to_string(), places[0].trace_id().to_string());
}

//! Dead letters are redriven in bulk, and a campaign stops itself where the cause is not mended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use queue::campaign::{self, CampaignView, Error, Plan, Selection};
use queue::inspect::{self, CauseFilter};
use queue::{Attempt, Catalogue, Failure, Job, JobId, Outcome, Retry, Unique, operate};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use testkit::Database;

/// What is broken, and which jobs ran, in their order.
#[derive(Default)]
struct Bench {
    broken: Mutex<BTreeSet<String>>,
    ran: Mutex<Vec<i64>>,
}

/// Succeeds once its part is no longer broken.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Repair {
    part: String,
    #[serde(default)]
    size: i32,
    group: Option<String>,
    key: Option<String>,
}

impl Job for Repair {
    type Services = Bench;
    const KIND: &'static str = "repair";
    const QUEUE: &'static str = "bench";
    const RETRY: Retry = Retry::new(std::time::Duration::ZERO, std::time::Duration::ZERO, 1);

    fn unique(&self) -> Option<Unique> {
        self.key.clone().map(Unique::live)
    }

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    async fn run(self, attempt: &Attempt, bench: &Bench) -> anyhow::Result<Outcome> {
        bench.ran.lock().unwrap().push(attempt.job_id.0);
        if bench.broken.lock().unwrap().contains(&self.part) {
            let message = format!("the {} of order {} is broken", self.part, attempt.job_id);
            return Err(Failure::permanent("broken", message).into());
        }
        Ok(Outcome::Done)
    }
}

fn catalogue() -> Catalogue<Bench> {
    Catalogue::new().with::<Repair>()
}

fn repair(part: &str) -> Repair {
    Repair {
        part: part.to_owned(),
        ..Repair::default()
    }
}

struct Shop {
    db: Database,
    bench: Arc<Bench>,
}

impl Shop {
    async fn new() -> Self {
        Self {
            db: Database::new().await,
            bench: Arc::default(),
        }
    }

    fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    fn breaks(&self, part: &str) {
        self.bench.broken.lock().unwrap().insert(part.to_owned());
    }

    fn mend(&self, part: &str) {
        self.bench.broken.lock().unwrap().remove(part);
    }

    async fn run(&self) {
        queue::testing::run_until_idle(self.pool(), &catalogue(), &self.bench)
            .await
            .unwrap();
    }

    /// Jobs that have died because their parts are broken.
    async fn dead(&self, jobs: &[Repair]) -> Vec<JobId> {
        for job in jobs {
            self.breaks(&job.part);
        }
        let enqueued = queue::enqueue_many(&mut self.pool().acquire().await.unwrap(), jobs)
            .await
            .unwrap();
        self.run().await;
        self.bench.ran.lock().unwrap().clear();
        enqueued.into_iter().map(|enqueued| enqueued.id).collect()
    }

    async fn cause_of(&self, id: JobId) -> String {
        sqlx::query_scalar("select cause from queue.dead_letters where id = $1")
            .bind(id)
            .fetch_one(self.pool())
            .await
            .unwrap()
    }

    async fn start(&self, plan: &Plan) -> i64 {
        self.try_start(plan).await.unwrap()
    }

    async fn try_start(&self, plan: &Plan) -> Result<i64, Error> {
        let conn = &mut *self.pool().acquire().await.unwrap();
        campaign::start(conn, &catalogue(), plan, "ann", "the part is here").await
    }

    async fn see(&self, id: i64) -> CampaignView {
        campaign::campaign(&mut self.pool().acquire().await.unwrap(), id)
            .await
            .unwrap()
            .unwrap()
    }

    /// One round of each campaign, as if a second had gone by since the last.
    async fn round(&self) {
        sqlx::query("update queue.campaigns set look_at = clock_timestamp(), paced_at = paced_at - interval '1 s'")
            .execute(self.pool())
            .await
            .unwrap();
        while campaign::advance(self.pool()).await.unwrap().is_zero() {}
    }

    /// Rounds, and the jobs run in between, until nothing more comes of the campaign.
    async fn carry_on(&self, id: i64) -> CampaignView {
        for _ in 0..1000 {
            let view = self.see(id).await;
            if view.ended_at.is_some() {
                return view;
            }
            self.round().await;
            self.run().await;
        }
        panic!("still going on: {:?}", self.see(id).await);
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }
}

/// Every repair.
fn plan() -> Plan {
    Plan {
        selection: Selection {
            kind: Some("repair".to_owned()),
            ..Selection::default()
        },
        ..Plan::default()
    }
}

/// How often each job ran.
fn runs(bench: &Bench) -> BTreeMap<i64, usize> {
    let mut runs = BTreeMap::new();
    for id in bench.ran.lock().unwrap().iter() {
        *runs.entry(*id).or_default() += 1;
    }
    runs
}

#[tokio::test]
async fn mended_causes_finish_and_the_one_that_is_not_halts_within_its_canary() {
    let shop = Shop::new().await;
    let jobs: Vec<Repair> = (0..120).map(|n| repair(["axle", "brake", "chain"][n % 3])).collect();
    let ids = shop.dead(&jobs).await;
    let unmended = shop.cause_of(ids[1]).await;
    shop.mend("axle");
    shop.mend("chain");
    let id = shop.start(&Plan { canary: 5, ..plan() }).await;
    let view = shop.carry_on(id).await;

    assert_eq!(view.state, "halted");
    let counts = view.counts;
    assert_eq!(
        (counts.completed, counts.died, counts.waiting, counts.in_flight),
        (80, 5, 35, 0),
        "{view:?}"
    );
    for cause in &view.causes {
        let expected = if cause.cause == unmended { "halted" } else { "finished" };
        assert_eq!(cause.state, expected, "{cause:?}");
    }
    let halted = view.causes.iter().find(|cause| cause.cause == unmended).unwrap();
    let because = halted.halted_because.as_deref().unwrap();
    assert!(
        because.starts_with("5 of the 5 jobs of its canary died again, 5 of them of the same cause"),
        "{because}"
    );
    assert!(view.why.iter().any(|line| line.contains(because)), "{:?}", view.why);
    assert_eq!(runs(&shop.bench).len(), 85);
    assert!(runs(&shop.bench).values().all(|times| *times == 1), "one ran twice");
    assert_eq!(shop.count("select count(*) from queue.dead_letters").await, 40);
    let halts = "select count(*) from queue.audit where action = 'halt' and subject like 'campaign %'";
    assert_eq!(shop.count(halts).await, 1);
}

#[tokio::test]
async fn a_halted_cause_begins_again_with_a_new_canary_when_it_is_resumed() {
    let shop = Shop::new().await;
    shop.dead(&vec![repair("axle"); 20]).await;
    let id = shop.start(&Plan { canary: 4, ..plan() }).await;
    assert_eq!(shop.carry_on(id).await.state, "halted");

    let conn = &mut *shop.pool().acquire().await.unwrap();
    campaign::resume(conn, id, "ann", "now it is here").await.unwrap();
    let halted = shop.carry_on(id).await;
    assert_eq!(
        (halted.state.as_str(), halted.counts.died),
        ("halted", 8),
        "the new canary died too"
    );

    shop.mend("axle");
    campaign::resume(conn, id, "ann", "but now").await.unwrap();
    let finished = shop.carry_on(id).await;
    assert_eq!(
        (finished.state.as_str(), finished.counts.completed),
        ("finished", 12),
        "{finished:?}"
    );
    assert!(runs(&shop.bench).values().all(|times| *times == 1));
    assert!(matches!(
        campaign::resume(conn, id, "ann", "again").await,
        Err(Error::WrongState { .. })
    ));
}

#[tokio::test]
async fn a_released_cause_halts_when_it_breaks_again() {
    let shop = Shop::new().await;
    shop.dead(&vec![repair("axle"); 60]).await;
    shop.mend("axle");
    let plan = Plan {
        canary: 5,
        failure_share: 0.2,
        failure_window: 10,
        in_flight_max: 5,
        ..plan()
    };
    let id = shop.start(&plan).await;
    while shop.see(id).await.counts.completed < 20 {
        shop.round().await;
        shop.run().await;
    }
    shop.breaks("axle");
    let view = shop.carry_on(id).await;
    assert_eq!(view.state, "halted");
    assert!(
        (3..=8).contains(&view.counts.died),
        "more than a window and what was in flight: {view:?}"
    );
    let because = view.causes[0].halted_because.as_deref().unwrap();
    assert!(because.contains("of the last 10 jobs died again"), "{because}");
}

#[tokio::test]
async fn a_campaign_keeps_its_pace_and_its_bound_of_jobs_in_flight() {
    let shop = Shop::new().await;
    shop.dead(&vec![repair("axle"); 30]).await;
    shop.mend("axle");
    let slow = shop
        .start(&Plan {
            per_second: 3.0,
            ..plan()
        })
        .await;
    // However long nobody looked, no more than a second's worth is made up for.
    sqlx::query("update queue.campaigns set paced_at = paced_at - interval '1 hour'")
        .execute(shop.pool())
        .await
        .unwrap();
    shop.round().await;
    assert_eq!(shop.see(slow).await.counts.in_flight, 3);
    let conn = &mut *shop.pool().acquire().await.unwrap();
    campaign::cancel(conn, slow, "ann", "too slow").await.unwrap();

    let narrow = shop
        .start(&Plan {
            in_flight_max: 4,
            canary: 20,
            ..plan()
        })
        .await;
    for _ in 0..3 {
        shop.round().await;
        assert_eq!(shop.see(narrow).await.counts.in_flight, 4);
    }
    shop.run().await;
    assert_eq!(shop.carry_on(narrow).await.counts.completed, 27);
    // What the first had in flight was not lost sight of when it was cancelled.
    let slow = shop.carry_on(slow).await;
    assert_eq!(
        (slow.state.as_str(), slow.counts.completed, slow.counts.waiting),
        ("cancelled", 3, 27)
    );
}

#[tokio::test]
async fn a_patch_is_checked_shown_applied_and_the_old_payload_kept() {
    let shop = Shop::new().await;
    let ids = shop.dead(&[repair("axle"), repair("brake")]).await;
    let patch = |patch| Plan {
        patch: Some(patch),
        ..plan()
    };
    let conn = &mut *shop.pool().acquire().await.unwrap();

    let wrong = patch(json!({"size": "large"}));
    let preview = campaign::preview(conn, &catalogue(), &wrong).await.unwrap();
    assert_eq!((preview.letters, preview.unreadable), (2, 2));
    let complaint = &preview.unreadable_sample[0];
    assert_eq!((complaint.id, complaint.why.path.as_str()), (ids[0], "size"));
    assert!(
        complaint.why.error.contains("invalid type: string \"large\""),
        "{complaint:?}"
    );
    for skip_unreadable in [false, true] {
        let refused = shop
            .try_start(&Plan {
                skip_unreadable,
                ..wrong.clone()
            })
            .await;
        assert!(
            matches!(&refused, Err(Error::Unreadable { count: 2, first }) if first.len() == 2),
            "{refused:?}"
        );
    }
    assert_eq!(shop.count("select count(*) from queue.campaigns").await, 0);

    let right = patch(json!({"part": "wheel", "group": null}));
    let preview = campaign::preview(conn, &catalogue(), &right).await.unwrap();
    assert_eq!((preview.letters, preview.unreadable, preview.changed), (2, 0, 2));
    let part = &preview.changes[0].fields[1];
    assert_eq!(
        (part.path.as_str(), &part.before, &part.after),
        ("part", &Some(json!("axle")), &Some(json!("wheel")))
    );
    assert_eq!(shop.count("select count(*) from queue.dead_letters").await, 2);

    let view = shop.start(&right).await;
    let view = shop.carry_on(view).await;
    assert_eq!((view.state.as_str(), view.counts.completed), ("finished", 2));
    let (before, after): (serde_json::Value, serde_json::Value) =
        sqlx::query_as("select args_before, args from queue.campaign_letters where job_id = $1")
            .bind(ids[0])
            .fetch_one(shop.pool())
            .await
            .unwrap();
    assert_eq!((&before["part"], &after["part"]), (&json!("axle"), &json!("wheel")));
    let ended = inspect::job(conn, ids[0]).await.unwrap().unwrap();
    assert_eq!(
        (ended.state.as_str(), &ended.args["part"]),
        ("completed", &json!("wheel"))
    );
}

#[tokio::test]
async fn letters_that_cannot_be_read_are_left_out_when_that_is_asked() {
    let shop = Shop::new().await;
    let ids = shop.dead(&[repair("axle"), repair("axle"), repair("axle")]).await;
    sqlx::query("update queue.dead_letters set args = '{\"part\": 7}' where id = $1")
        .bind(ids[1])
        .execute(shop.pool())
        .await
        .unwrap();
    shop.mend("axle");
    assert!(matches!(
        shop.try_start(&plan()).await,
        Err(Error::Unreadable { count: 1, .. })
    ));
    let id = shop
        .start(&Plan {
            skip_unreadable: true,
            ..plan()
        })
        .await;
    let view = shop.carry_on(id).await;
    assert_eq!((view.counts.completed, view.counts.skipped), (2, 1));
    assert!(
        view.skips[0].because.contains("at part: invalid type"),
        "{:?}",
        view.skips
    );
    assert_eq!(view.skips[0].sample, [ids[1].0]);
}

#[tokio::test]
async fn a_payload_that_would_be_too_large_is_refused() {
    let shop = Shop::new().await;
    shop.dead(&[repair("axle")]).await;
    let large = Plan {
        patch: Some(json!({"part": "x".repeat(70_000)})),
        ..plan()
    };
    let refused = shop.try_start(&large).await.unwrap_err().to_string();
    assert!(refused.contains("65536 at most"), "{refused}");
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_is_written() {
    let shop = Shop::new().await;
    shop.dead(&[repair("axle")]).await;
    let everything = Plan {
        selection: Selection::default(),
        ..plan()
    };
    let wrong = [
        (everything, "select by cause"),
        (Plan { canary: 0, ..plan() }, "canary"),
        (
            Plan {
                failure_share: 1.0,
                ..plan()
            },
            "failure share",
        ),
        (
            Plan {
                failure_share: f64::NAN,
                ..plan()
            },
            "failure share",
        ),
        (
            Plan {
                failure_window: 0,
                ..plan()
            },
            "failure window",
        ),
        (
            Plan {
                per_second: 0.0,
                ..plan()
            },
            "pace",
        ),
        (
            Plan {
                in_flight_max: 0,
                ..plan()
            },
            "in flight",
        ),
        (
            Plan {
                patch: Some(json!([1])),
                ..plan()
            },
            "patch",
        ),
    ];
    for (plan, word) in wrong {
        let refused = shop.try_start(&plan).await;
        assert!(
            matches!(&refused, Err(Error::Invalid(complaint)) if complaint.contains(word)),
            "{word}: {refused:?}"
        );
    }
    let mut nobody = plan();
    nobody.selection.error_code = Some("no_such_code".to_owned());
    assert!(matches!(shop.try_start(&nobody).await, Err(Error::Empty)));
    let conn = &mut *shop.pool().acquire().await.unwrap();
    assert!(matches!(
        campaign::pause(conn, 7, "ann", "x").await,
        Err(Error::NotFound(7))
    ));
    assert_eq!(shop.count("select count(*) from queue.campaigns").await, 0);
}

#[tokio::test]
async fn a_campaign_is_frozen_and_skips_what_is_gone_died_anew_or_lost_its_key() {
    let shop = Shop::new().await;
    let keyed = Repair {
        key: Some("k".to_owned()),
        ..repair("axle")
    };
    let ids = shop
        .dead(&[repair("axle"), repair("axle"), keyed.clone(), repair("axle")])
        .await;
    let conn = &mut *shop.pool().acquire().await.unwrap();
    let successor = queue::enqueue(
        conn,
        &Repair {
            part: "none".to_owned(),
            ..keyed
        },
    )
    .await
    .unwrap();
    let preview = campaign::preview(conn, &catalogue(), &plan()).await.unwrap();
    assert_eq!(preview.keys_taken, 1);
    assert_eq!(
        (preview.keys_taken_sample[0].id, preview.keys_taken_sample[0].by),
        (ids[2], successor.id)
    );
    let id = shop.start(&plan()).await;
    operate::discard(conn, ids[0], "bob", "not wanted").await.unwrap();
    operate::redrive(conn, ids[1], "bob", "impatient", None).await.unwrap();
    sqlx::query("update queue.jobs set run_at = run_at + interval '1 h' where id = $1")
        .bind(successor.id)
        .execute(shop.pool())
        .await
        .unwrap();
    shop.run().await;
    shop.mend("axle");
    shop.dead(&[repair("brake")]).await;

    let view = shop.carry_on(id).await;
    assert_eq!((view.counts.completed, view.counts.skipped), (1, 3), "{view:?}");
    let reasons: BTreeSet<&str> = view.skips.iter().map(|skip| skip.because.as_str()).collect();
    let expected = [
        "it is no dead letter any more",
        "it ran and died again meanwhile",
        "job # has taken its unique key",
    ];
    assert_eq!(reasons, expected.into());
}

#[tokio::test]
async fn groups_keep_their_order_through_a_campaign() {
    let shop = Shop::new().await;
    // In each group two causes take turns, so that one cause's canary stands in the way of the other.
    let jobs: Vec<Repair> = (0..60)
        .map(|n| Repair {
            group: Some(format!("g{}", n % 4)),
            ..repair(["axle", "brake"][(n / 4) % 2])
        })
        .collect();
    shop.dead(&jobs).await;
    shop.mend("axle");
    shop.mend("brake");
    let preview = campaign::preview(&mut shop.pool().acquire().await.unwrap(), &catalogue(), &plan())
        .await
        .unwrap();
    assert_eq!((preview.groups, preview.groups_sample.len()), (4, 4));
    let id = shop
        .start(&Plan {
            canary: 3,
            in_flight_max: 7,
            ..plan()
        })
        .await;
    let view = shop.carry_on(id).await;
    assert_eq!(view.counts.completed, 60, "{view:?}");
    let ran = shop.bench.ran.lock().unwrap().clone();
    for group in ["g0", "g1", "g2", "g3"] {
        let members: Vec<i64> =
            sqlx::query_scalar("select id from queue.finished_jobs where group_key = $1 order by id")
                .bind(group)
                .fetch_all(shop.pool())
                .await
                .unwrap();
        let own: Vec<i64> = ran.iter().copied().filter(|id| members.contains(id)).collect();
        assert_eq!(own, members);
    }
    assert_eq!(shop.count("select count(*) from queue.turns").await, 0);
}

#[tokio::test]
async fn runners_beside_each_other_redrive_no_letter_twice() {
    let shop = Shop::new().await;
    shop.dead(&vec![repair("axle"); 400]).await;
    shop.mend("axle");
    let id = shop
        .start(&Plan {
            per_second: 10_000.0,
            ..plan()
        })
        .await;
    let runners: Vec<_> = (0..4)
        .map(|_| {
            let pool = shop.pool().clone();
            tokio::spawn(async move {
                while campaign::advance(&pool).await.unwrap() < std::time::Duration::from_millis(500) {
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    testkit::eventually("the campaign to end", || async {
        shop.run().await;
        shop.see(id).await.ended_at
    })
    .await;
    for runner in runners {
        runner.await.unwrap();
    }
    let view = shop.see(id).await;
    assert_eq!((view.state.as_str(), view.counts.completed), ("finished", 400));
    assert_eq!(runs(&shop.bench).len(), 400);
    assert!(runs(&shop.bench).values().all(|times| *times == 1));
}

#[tokio::test]
async fn a_round_that_is_killed_has_not_happened() {
    let shop = Shop::new().await;
    let ids = shop.dead(&vec![repair("axle"); 8]).await;
    shop.mend("axle");
    let id = shop.start(&plan()).await;
    // Somebody holds the last letter, so the round waits in the middle of its transaction, and is killed there.
    let mut holder = shop.pool().begin().await.unwrap();
    sqlx::query("select from queue.dead_letters where id = $1 for update")
        .bind(ids[7])
        .execute(&mut *holder)
        .await
        .unwrap();
    sqlx::query("update queue.campaigns set paced_at = paced_at - interval '1 s'")
        .execute(shop.pool())
        .await
        .unwrap();
    let round = tokio::spawn({
        let pool = shop.pool().clone();
        async move { campaign::advance(&pool).await }
    });
    let waiting = testkit::eventually("the round to wait for the letter", || async {
        sqlx::query_scalar::<_, i32>(
            "select pid from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%queue.redrive%'",
        )
        .fetch_optional(shop.pool())
        .await
        .unwrap()
    })
    .await;
    sqlx::query("select pg_terminate_backend($1)")
        .bind(waiting)
        .execute(shop.pool())
        .await
        .unwrap();
    round.await.unwrap().unwrap_err();
    holder.rollback().await.unwrap();
    let view = shop.see(id).await;
    assert_eq!((view.counts.waiting, view.counts.in_flight), (8, 0));
    assert_eq!(shop.count("select count(*) from queue.dead_letters").await, 8);

    let view = shop.carry_on(id).await;
    assert_eq!((view.state.as_str(), view.counts.completed), ("finished", 8));
    assert!(runs(&shop.bench).values().all(|times| *times == 1));
}

#[tokio::test]
async fn pausing_resuming_and_cancelling_are_audited_and_leave_what_is_in_flight_alone() {
    let shop = Shop::new().await;
    shop.dead(&vec![repair("axle"); 20]).await;
    shop.mend("axle");
    let id = shop.start(&Plan { canary: 5, ..plan() }).await;
    shop.round().await;
    let conn = &mut *shop.pool().acquire().await.unwrap();
    let view = shop.see(id).await;
    assert!(
        view.why[0].contains("its canary waits for 5 jobs, 15 letters behind it"),
        "{:?}",
        view.why
    );
    campaign::pause(conn, id, "bob", "lunch").await.unwrap();
    assert!(matches!(
        campaign::pause(conn, id, "bob", "lunch").await,
        Err(Error::WrongState { .. })
    ));
    shop.run().await;
    for _ in 0..3 {
        shop.round().await;
    }
    let view = shop.see(id).await;
    assert_eq!(
        (view.state.as_str(), view.counts.completed, view.counts.waiting),
        ("paused", 5, 15)
    );
    assert_eq!(view.why, ["paused by bob: lunch"]);
    campaign::resume(conn, id, "bob", "back").await.unwrap();
    shop.round().await;
    shop.round().await;
    campaign::cancel(conn, id, "bob", "never mind").await.unwrap();
    let view = shop.carry_on(id).await;
    assert_eq!(view.state, "cancelled");
    assert_eq!(
        view.counts.completed + view.counts.waiting,
        20,
        "what was in flight is counted: {view:?}"
    );
    assert_eq!(
        shop.count("select count(*) from queue.dead_letters").await,
        view.counts.waiting
    );
    let actions: Vec<(String, String, String)> = sqlx::query_as(
        "select actor, action, detail ->> 'reason' from queue.audit where subject like 'campaign %' order by id",
    )
    .fetch_all(shop.pool())
    .await
    .unwrap();
    let expected = [
        ("ann", "start", "the part is here"),
        ("bob", "pause", "lunch"),
        ("bob", "resume", "back"),
        ("bob", "cancel", "never mind"),
    ]
    .map(|(actor, action, reason)| (actor.to_owned(), action.to_owned(), reason.to_owned()));
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn causes_are_counted_by_what_their_messages_have_in_common() {
    let shop = Shop::new().await;
    let jobs: Vec<Repair> = (0..7).map(|n| repair(["axle", "axle", "brake"][n % 3])).collect();
    let ids = shop.dead(&jobs).await;
    let conn = &mut *shop.pool().acquire().await.unwrap();
    let causes = inspect::causes(conn, &CauseFilter::default()).await.unwrap();
    let seen: Vec<(&str, i64)> = causes
        .iter()
        .map(|cause| (cause.pattern.as_str(), cause.letters))
        .collect();
    assert_eq!(
        seen,
        [
            ("the axle of order # is broken", 5),
            ("the brake of order # is broken", 2)
        ]
    );
    assert_eq!(causes[0].cause, shop.cause_of(ids[0]).await);
    assert_eq!(causes[1].sample, [ids[5].0, ids[2].0], "the youngest first");
    assert!(causes[0].first_at <= causes[0].last_at);
    let next = CauseFilter {
        before: Some((causes[0].letters, causes[0].cause.clone())),
        ..CauseFilter::default()
    };
    assert_eq!(inspect::causes(conn, &next).await.unwrap().len(), 1);
    let other = CauseFilter {
        kind: Some("other".to_owned()),
        ..CauseFilter::default()
    };
    assert!(inspect::causes(conn, &other).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_is_masked_where_it_speaks_of_one_thing_only() {
    let db = Database::new().await;
    for (message, pattern) in [
        ("nobody wrote it", "nobody wrote it"),
        (
            "order 0191c2b4-1111-7222-8333-abcdefabcdef can't pay 12.50 EUR: card \"4242\" declined (pi_3Nxyz)",
            "order # can't pay # EUR: card \"#\" declined (#)",
        ),
        (
            "HTTP 503 from 10.0.0.1:8080 at 2026-11-22T08:00:00Z",
            "HTTP # from # at #",
        ),
        (
            "unknown sku 'MUG-1', wanted [1, 2, 3]\n\tor `x`",
            "unknown sku \"#\", wanted [#] or \"#\"",
        ),
        ("", ""),
    ] {
        let seen: String = sqlx::query_scalar("select queue.message_pattern($1)")
            .bind(message)
            .fetch_one(&db.pool)
            .await
            .unwrap();
        assert_eq!(seen, pattern, "{message}");
    }
}

#[tokio::test]
async fn counting_causes_reads_an_index_only() {
    let db = Database::new().await;
    sqlx::raw_sql(
        "insert into queue.dead_letters (id, queue, kind, args_version, args, priority, fence, attempt, attempts_max, reason,
                                         error_class, error_code, message, report, created_at)
         select n, 'bench', 'repair', 1, '{}', 0, 1, 1, 1, 'permanent', 'permanent', 'broken', 'part ' || n,
                jsonb_build_object('story', repeat('x', 500)), clock_timestamp()
         from generate_series(1, 5000) n",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    sqlx::query("vacuum analyze queue.dead_letters")
        .execute(&db.pool)
        .await
        .unwrap();
    // How much of the table is known to be visible to all depends on what else the server does; the index must do in any case.
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql("set local enable_seqscan = off; set local enable_bitmapscan = off")
        .execute(&mut *tx)
        .await
        .unwrap();
    let plan: Vec<String> = sqlx::query_scalar(
        "explain select cause, count(*), min(dead_at), max(dead_at), max(id) from queue.dead_letters group by cause",
    )
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Only Scan using dead_letters_of_cause"), "{plan}");
}

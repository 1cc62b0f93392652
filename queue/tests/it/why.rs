//! Every cause for which a job is not running: brought about, explained, and ended by the remedy it names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::kinds::causes;
use chrono::{DateTime, Utc};
use queue::campaign::{self, Plan, Selection};
use queue::lease::{self, Identity, Slots};
use queue::limit::{self, Limit};
use queue::operate::{self, Cancelled, Target};
use queue::saga::{self, Steps};
use queue::testing;
use queue::why::{Code, PLACE_MAX, Remedy, Why};
use queue::{Attempt, Catalogue, DeadHead, Failure, Job, JobId, OnFailure, Outcome, Retry};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use testkit::{Database, eventually};

const HOUR: Duration = Duration::from_secs(3600);

/// An errand that ends as told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Errand {
    fate: String,
    group: Option<String>,
    limit: Option<String>,
}

impl Job for Errand {
    type Services = ();
    const KIND: &'static str = "run_errand";
    const QUEUE: &'static str = "errands";
    const RETRY: Retry = Retry::new(HOUR, HOUR, 3);
    const DEAD_HEAD: DeadHead = DeadHead::Block;

    fn group(&self) -> Option<String> {
        self.group.clone()
    }

    fn limit(&self) -> Option<String> {
        self.limit.clone()
    }

    // A retry without jitter, so that it is not due before anybody has looked.
    fn delay_after(&self, _: i32) -> Option<Duration> {
        Some(HOUR)
    }

    async fn run(self, attempt: &Attempt, (): &()) -> anyhow::Result<Outcome> {
        match self.fate.as_str() {
            "fail" => Err(Failure::transient("closed", "the shop is closed").into()),
            "snooze" => Ok(Outcome::Snooze(HOUR)),
            "throttled" => Err(Failure::throttled("busy", "one at a time", HOUR).into()),
            "config" => Err(Failure::config("no_purse", "the purse is missing").into()),
            "permanent" => Err(Failure::permanent("no_such_shop", "it was pulled down").into()),
            "discard" => Ok(Outcome::Discard("nobody wants it".to_owned())),
            "deadlock" => {
                let raise =
                    "do $$ begin raise exception using errcode = '40P01', message = 'deadlock detected'; end $$";
                sqlx::query(raise).execute(&mut *attempt.begin().await?).await?;
                Ok(Outcome::Done)
            }
            "hang" => {
                attempt.progress(&json!({ "bought": 3 })).await?;
                attempt.log("at the till").await?;
                std::future::pending().await
            }
            _ => Ok(Outcome::Done),
        }
    }
}

fn errand(fate: &str) -> Errand {
    Errand {
        fate: fate.to_owned(),
        ..Errand::default()
    }
}

fn in_group(fate: &str) -> Errand {
    Errand {
        group: Some("household".to_owned()),
        ..errand(fate)
    }
}

fn limited(fate: &str) -> Errand {
    Errand {
        limit: Some("shop/7".to_owned()),
        ..errand(fate)
    }
}

static CATALOGUE: LazyLock<Catalogue<()>> = LazyLock::new(|| Catalogue::new().with::<Errand>());

type Worker = testing::Worker<'static, ()>;

struct Town {
    db: Database,
}

impl Town {
    async fn new() -> Self {
        Self {
            db: Database::new().await,
        }
    }

    fn pool(&self) -> &PgPool {
        &self.db.pool
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.pool()).await.unwrap();
    }

    async fn enqueue(&self, errands: &[Errand]) -> Vec<JobId> {
        let mut conn = self.pool().acquire().await.unwrap();
        let enqueued = queue::enqueue_many(&mut conn, errands).await.unwrap();
        enqueued.into_iter().map(|enqueued| enqueued.id).collect()
    }

    async fn one(&self, errand: Errand) -> JobId {
        self.enqueue(&[errand]).await[0]
    }

    /// Runs all that is due; nobody is there afterwards.
    async fn run(&self) {
        testing::run_until_idle(self.pool(), &CATALOGUE, &Arc::new(()))
            .await
            .unwrap();
    }

    async fn worker(&self) -> Worker {
        self.worker_with(None).await
    }

    async fn worker_with(&self, slots: Option<i32>) -> Worker {
        let identity = Identity {
            name: "errand-boy".to_owned(),
            build: "v1".to_owned(),
            slots: slots.map(|each| Slots {
                pool_names: vec![Errand::QUEUE.to_owned()],
                each,
            }),
            ..testing::identity(&CATALOGUE)
        };
        Worker::register_as(identity, self.pool(), &CATALOGUE, &Arc::new(()))
            .await
            .unwrap()
    }

    async fn why(&self, id: JobId) -> Why {
        let mut conn = self.pool().acquire().await.unwrap();
        queue::why::why(&mut conn, id, &CATALOGUE.kinds()).await.unwrap()
    }

    /// The job's causes, of which this is the decisive one.
    async fn because(&self, id: JobId, code: Code) -> Why {
        let why = self.why(id).await;
        assert_eq!(why.causes[0].code, code, "{why:#?}");
        why
    }

    /// Does what the remedy says; a worker is for the test to start.
    async fn heal(&self, why: &Why) {
        let remedy = why.remedy().unwrap_or_else(|| panic!("a remedy in {why:#?}"));
        self.follow(remedy).await;
    }

    async fn follow(&self, remedy: &Remedy) {
        let conn = &mut *self.pool().acquire().await.unwrap();
        let (reason, actor) = ("mended", "ann");
        match remedy {
            Remedy::ResumeQueue(name) => {
                assert!(operate::resume(conn, Target::Queue, name, reason, actor).await.unwrap())
            }
            Remedy::ResumeKind(name) => {
                assert!(operate::resume(conn, Target::Kind, name, reason, actor).await.unwrap());
            }
            Remedy::RunNow(id) => assert!(operate::run_now(conn, *id, actor, reason).await.unwrap()),
            Remedy::SetSlots(pool, slots) => operate::set_slots(conn, pool, Some(*slots), reason, actor)
                .await
                .unwrap(),
            Remedy::Redrive(id) => assert_eq!(operate::redrive(conn, *id, actor, reason, None).await.unwrap(), *id),
            Remedy::Cancel(id) => {
                assert_eq!(
                    operate::cancel(conn, *id, actor, reason).await.unwrap(),
                    Cancelled::Asked
                );
            }
            Remedy::SetLimit(name, limit) => limit::set(conn, name, limit, reason, actor).await.unwrap(),
            Remedy::CloseBreaker(key) => assert!(limit::close_breaker(conn, key, reason, actor).await.unwrap()),
            Remedy::ResumeCampaign(id) => campaign::resume(conn, *id, actor, reason).await.unwrap(),
            Remedy::StartWorker(_) => panic!("the test starts a worker"),
        }
    }

    async fn claim(&self, worker: &Worker, limit: usize) -> Vec<JobId> {
        let claimed = worker.claim(Errand::QUEUE, limit).await;
        claimed.unwrap().iter().map(|job| job.id).collect()
    }

    async fn set_limit(&self, name: &str, limit: Limit) {
        let mut conn = self.pool().acquire().await.unwrap();
        limit::set(&mut conn, name, &limit, "test", "test").await.unwrap();
    }

    async fn pause(&self, target: Target, name: &str) {
        let mut conn = self.pool().acquire().await.unwrap();
        operate::pause(&mut conn, target, name, "stocktaking", "bob")
            .await
            .unwrap();
    }
}

fn basis(why: &Why) -> &str {
    &why.predicted_start.as_ref().expect("a prediction").basis
}

fn seconds_from_now(at: Option<DateTime<Utc>>) -> f64 {
    (at.expect("a time") - Utc::now()).as_seconds_f64()
}

#[test]
fn every_cause_is_brought_about_here() {
    let source = include_str!("why.rs");
    for code in Code::ALL {
        assert!(source.contains(&format!("Code::{code:?}")), "{code:?}");
    }
}

#[test]
fn every_cause_is_in_the_documents_table() {
    let table = include_str!("../../../docs/why.md");
    let listed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, codes);
}

#[tokio::test]
async fn a_due_job_tells_its_place_in_line_and_when_it_starts() {
    let town = Town::new().await;
    let ids = town.enqueue(&[errand("done"), errand("done"), errand("done")]).await;
    let worker = town.worker().await;
    let first = town.because(ids[0], Code::InLine).await;
    assert_eq!(first.causes[0].text, "it is due and will be claimed next");
    assert_eq!(basis(&first), "at once: it is the next in line");
    let third = town.because(ids[2], Code::InLine).await;
    assert_eq!(third.causes[0].text, "it is due; 2 jobs are ahead of it");
    assert!(basis(&third).contains("how fast they do is not known yet"), "{third:?}");

    town.sql(
        "insert into queue.measures (at, queue, available, scheduled, retryable, running, dead, ended)
         values (clock_timestamp() - interval '60 s', 'errands', 0, 0, 0, 0, 0, 0),
                (clock_timestamp(), 'errands', 0, 0, 0, 0, 0, 6)",
    )
    .await;
    let third = town.because(ids[2], Code::InLine).await;
    assert_eq!(basis(&third), "in about 20 s: 2 jobs before it at 0.1/s");
    let predicted = third.predicted_start.unwrap();
    assert!(predicted.from.unwrap() < predicted.to.unwrap());
    assert_eq!(town.claim(&worker, 3).await, ids);
}

#[tokio::test]
async fn the_place_in_a_long_line_is_counted_up_to_a_bound() {
    let town = Town::new().await;
    let _worker = town.worker().await;
    town.sql(
        r#"insert into queue.jobs (queue, kind, args, run_at, rank)
           select 'errands', 'run_errand', '{"fate": "done", "group": null, "limit": null}', t, queue.rank(t, 0)
           from generate_series(1, 30000) n, lateral (select clock_timestamp() - make_interval(secs => n) as t) d;
           analyze queue.jobs"#,
    )
    .await;
    let last = town.one(errand("done")).await;
    let mut tx = town.pool().begin().await.unwrap();
    let before = rows_read(&mut tx).await;
    let why = queue::why::why(&mut tx, last, &[]).await.unwrap();
    let after = rows_read(&mut tx).await;
    assert_eq!(why.causes[0].code, Code::InLine);
    assert_eq!(why.causes[0].text, "it is due; more than 10000 jobs are ahead of it");
    assert_eq!(after.0, before.0, "the table was scanned");
    assert!(
        after.1 - before.1 <= PLACE_MAX + 20,
        "{} rows were read",
        after.1 - before.1
    );
}

/// How many rows of the line this session has read by scanning, and by an index.
async fn rows_read(conn: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "select seq_tup_read, idx_tup_fetch from pg_stat_xact_user_tables where relid = 'queue.jobs'::regclass",
    )
    .fetch_one(conn)
    .await
    .unwrap()
}

#[tokio::test]
async fn pauses_tell_who_made_them_and_all_of_them_are_listed() {
    let town = Town::new().await;
    let id = town.one(errand("done")).await;
    let worker = town.worker().await;
    town.pause(Target::Queue, Errand::QUEUE).await;
    town.pause(Target::Kind, Errand::KIND).await;
    assert!(town.claim(&worker, 1).await.is_empty());
    let both = town.because(id, Code::QueuePaused).await;
    assert_eq!(both.causes[0].text, "the queue errands is paused: stocktaking (bob)");
    assert_eq!(both.causes[0].holders[0].name, "bob");
    assert_eq!(both.causes[1].code, Code::KindPaused);
    assert_eq!(both.causes.len(), 2, "its place in line says nothing now: {both:#?}");
    assert_eq!(basis(&both), "not before somebody resumes the queue errands");
    assert!(both.causes[0].since.is_some());
    town.heal(&both).await;
    let one = town.because(id, Code::KindPaused).await;
    assert_eq!(
        one.remedy().unwrap().to_string(),
        "orderfleet queues resume --kind run_errand --reason mended"
    );
    town.heal(&one).await;
    assert_eq!(town.claim(&worker, 1).await, [id]);
}

#[tokio::test]
async fn a_kind_that_paused_itself_names_the_job_and_what_is_wrong() {
    let town = Town::new().await;
    let ids = town.enqueue(&[errand("config"), errand("done")]).await;
    town.run().await;
    let worker = town.worker().await;
    let why = town.because(ids[1], Code::KindPausedItself).await;
    let text = &why.causes[0].text;
    assert!(
        text.starts_with(&format!("its kind run_errand has paused itself over job {}", ids[0])),
        "{text}"
    );
    assert!(text.contains("the purse is missing"), "{text}");
    assert_eq!(why.causes[0].holders[0].id, Some(ids[0].0));
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 2).await, ids);
}

#[tokio::test]
async fn what_is_put_off_tells_until_when_and_what_for_and_can_be_run_now() {
    let causes = [
        (
            "fail",
            Code::Retry,
            "it waits for its retry after failure 1 of 3 (closed: the shop is closed)",
        ),
        ("snooze", Code::Snoozed, "it asked to come back later"),
        ("throttled", Code::Throttled, "throttled: "),
        ("deadlock", Code::DatabaseTrouble, "trouble with the database: "),
    ];
    let town = Town::new().await;
    let mut due = BTreeMap::new();
    for (fate, code, text) in causes {
        let id = town.one(errand(fate)).await;
        town.run_once(id).await;
        due.insert(id, (code, text));
    }
    let later = Utc::now() + HOUR;
    let conn = &mut *town.pool().acquire().await.unwrap();
    let scheduled = queue::enqueue_at(conn, &errand("done"), later).await.unwrap().id;
    due.insert(scheduled, (Code::Scheduled, "it is scheduled: due at "));

    let worker = town.worker().await;
    for (id, (code, text)) in due {
        let why = town.because(id, code).await;
        assert!(why.causes[0].text.starts_with(text), "{why:#?}");
        let in_seconds = seconds_from_now(why.causes[0].until);
        assert!((3000.0..4100.0).contains(&in_seconds), "{why:#?}");
        let predicted = why.predicted_start.clone().unwrap();
        assert_eq!(predicted.from, why.causes[0].until);
        assert!(
            predicted.basis.starts_with("at ") && predicted.basis.contains(", when "),
            "{predicted:?}"
        );
        assert_eq!(why.remedy(), Some(&Remedy::RunNow(id)));
        town.heal(&why).await;
        assert!(
            !operate::run_now(conn, id, "ann", "again").await.unwrap(),
            "it is due already"
        );
        assert_eq!(town.claim(&worker, 9).await, [id]);
    }
}

impl Town {
    /// Runs one job once; what it does to itself is an hour away afterwards.
    async fn run_once(&self, id: JobId) {
        let worker = self.worker().await;
        let job = worker.claim(Errand::QUEUE, 1).await.unwrap().remove(0);
        assert_eq!(job.id, id);
        worker.run(job).await;
        worker.leave().await.unwrap();
        sqlx::query("update queue.jobs set run_at = clock_timestamp() + interval '1 hour' where id = $1")
            .bind(id.0)
            .execute(self.pool())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_job_is_run_now_only_if_it_waits_for_a_time() {
    let town = Town::new().await;
    let id = town.one(errand("snooze")).await;
    let conn = &mut *town.pool().acquire().await.unwrap();
    let waiter = queue::enqueue_after_all(conn, &errand("done"), &[id], OnFailure::Run)
        .await
        .unwrap()
        .id;
    let refusal = operate::run_now(conn, waiter, "ann", "now").await.unwrap_err();
    assert!(refusal.to_string().contains("waits for other jobs"), "{refusal}");
    let refusal = operate::run_now(conn, JobId(999), "ann", "now").await.unwrap_err();
    assert!(refusal.to_string().contains("999"), "{refusal}");
    operate::cancel(conn, id, "ann", "no").await.unwrap();
    let refusal = operate::run_now(conn, id, "ann", "now").await.unwrap_err();
    assert!(refusal.to_string().contains("cancelled"), "{refusal}");
}

#[tokio::test]
async fn without_a_worker_that_can_run_it_a_job_says_which_is_missing() {
    let town = Town::new().await;
    let id = town.one(errand("done")).await;
    let why = town.because(id, Code::NoWorker).await;
    assert_eq!(why.causes[0].text, "no worker serves the queue errands; start one");
    assert_eq!(why.remedy().unwrap().to_string(), "orderfleet worker --pool errands");

    let leaving = town.worker().await;
    lease::stopping(town.pool(), leaving.registration.id).await.unwrap();
    let why = town.because(id, Code::NoWorker).await;
    assert!(why.causes[0].text.contains("errand-boy is stopping"), "{why:#?}");
    town.sql("update queue.workers set stopping = false, lease_until = clock_timestamp() - interval '1 s'")
        .await;
    let why = town.because(id, Code::NoWorker).await;
    assert!(
        why.causes[0].text.contains("errand-boy has been silent since"),
        "{why:#?}"
    );
    assert_eq!(why.causes[0].holders[0].id, Some(leaving.registration.id));

    let worker = town.worker().await;
    assert_eq!(town.claim(&worker, 1).await, [id]);
}

#[tokio::test]
async fn a_kind_or_a_version_that_no_worker_knows_waits_for_a_newer_build() {
    let town = Town::new().await;
    town.sql(
        "select queue.enqueue('errands', 'whistle', '{}'), queue.enqueue('errands', 'run_errand', '{}', p_args_version => 2)",
    )
    .await;
    let (unknown, newer) = (JobId(1), JobId(2));
    let worker = town.worker().await;
    assert!(town.claim(&worker, 9).await.is_empty());
    let why = town.because(unknown, Code::KindUnknown).await;
    let text = "no worker of the queue errands knows whistle version 1; start one of a build that does (there: v1)";
    assert_eq!(why.causes[0].text, text);
    let why = town.because(newer, Code::VersionUnknown).await;
    assert!(why.causes[0].text.contains("knows run_errand version 2"), "{why:#?}");
    assert_eq!(why.remedy(), Some(&Remedy::StartWorker("errands".to_owned())));

    let started: Vec<i64> = sqlx::query_scalar(
        "with newer as (
             insert into queue.workers (name, pools, build, host, pid, lease_until, kinds, versions)
             values ('newer', '{errands}', 'v2', '', 0, clock_timestamp() + interval '1 hour', '{run_errand,whistle}', '{2,1}')
             returning id
         )
         select id from newer",
    )
    .fetch_all(town.pool())
    .await
    .unwrap();
    town.because(unknown, Code::InLine).await;
    let claimed: Vec<i64> =
        sqlx::query_scalar("select id from queue.claim('errands', '{run_errand,whistle}', '{2,1}', $1, 9)")
            .bind(started[0])
            .fetch_all(town.pool())
            .await
            .unwrap();
    assert_eq!(claimed, [unknown.0, newer.0]);
}

#[tokio::test]
async fn when_every_slot_is_taken_it_says_by_what() {
    let town = Town::new().await;
    let ids = town.enqueue(&[errand("done"), errand("done")]).await;
    let worker = town.worker_with(Some(1)).await;
    assert_eq!(town.claim(&worker, 1).await, [ids[0]]);
    let why = town.because(ids[1], Code::SlotsBusy).await;
    let text = format!(
        "all 1 slots of the 1 workers that serve the queue errands are taken: job {} (run_errand) on worker {} for",
        ids[0], worker.registration.id
    );
    assert!(why.causes[0].text.starts_with(&text), "{why:#?}");
    assert_eq!(why.causes[0].holders[0].id, Some(ids[0].0));
    assert_eq!(why.remedy(), Some(&Remedy::SetSlots("errands".to_owned(), 2)));
    town.heal(&why).await;
    town.because(ids[1], Code::InLine).await;
    assert_eq!(town.claim(&worker, 1).await, [ids[1]]);
}

#[tokio::test]
async fn behind_an_older_job_of_its_group_it_tells_what_that_one_waits_for() {
    let town = Town::new().await;
    let ids = town
        .enqueue(&[in_group("fail"), in_group("done"), in_group("done")])
        .await;
    let worker = town.worker().await;
    // It waits for its turn behind one that is in line, runs, waits for its retry and is paused.
    let why = town.because(ids[2], Code::BehindInGroup).await;
    let text = format!(
        "job {} of its group household comes first, and 1 others before it",
        ids[0]
    );
    assert_eq!(why.causes[0].text, text);
    let head = why.causes[0].caused_by.as_ref().unwrap();
    assert_eq!((head.job, head.causes[0].code), (ids[0], Code::InLine));

    town.run_once(ids[0]).await;
    let why = town.because(ids[1], Code::BehindInGroup).await;
    let text = format!(
        "job {} of its group household comes first and waits for its retry",
        ids[0]
    );
    assert_eq!(why.causes[0].text, text);
    let head = why.causes[0].caused_by.as_ref().unwrap();
    assert_eq!(head.causes[0].code, Code::Retry);
    assert_eq!(why.remedy(), Some(&Remedy::RunNow(ids[0])), "the remedy is the head's");
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [ids[0]]);
    let why = town.because(ids[1], Code::BehindInGroup).await;
    let head = why.causes[0].caused_by.as_ref().unwrap();
    assert_eq!((head.state.as_str(), head.causes[0].code), ("running", Code::Running));
    assert_eq!(why.remedy(), Some(&Remedy::Cancel(ids[0])));
    town.heal(&why).await;
    worker.hand_back_all().await.unwrap();
    operate::settle_cancels(town.pool()).await.unwrap();
    assert_eq!(town.claim(&worker, 9).await, [ids[1]]);
}

#[tokio::test]
async fn a_group_behind_a_dead_letter_names_it_and_goes_on_when_it_is_redriven() {
    let town = Town::new().await;
    let ids = town.enqueue(&[in_group("permanent"), in_group("done")]).await;
    town.run().await;
    let worker = town.worker().await;
    let why = town.because(ids[1], Code::GroupBlocked).await;
    let text = format!(
        "its group household is blocked by dead letter {}; redrive or discard that one",
        ids[0]
    );
    assert_eq!(why.causes[0].text, text);
    let letter = why.causes[0].caused_by.as_ref().unwrap();
    assert_eq!(letter.causes[0].code, Code::Dead);
    assert_eq!(letter.causes[1].code, Code::BlocksGroup);
    assert!(
        letter.causes[0]
            .text
            .contains("permanent no_such_shop: it was pulled down"),
        "{letter:#?}"
    );
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [ids[0]]);
    // What is given up is out of the way as well.
    worker.hand_back_all().await.unwrap();
    let conn = &mut *town.pool().acquire().await.unwrap();
    operate::discard(conn, ids[0], "ann", "let it be").await.unwrap();
    assert_eq!(town.claim(&worker, 9).await, [ids[1]]);
}

#[tokio::test]
async fn a_full_limit_names_its_holders_and_room_lets_the_job_in() {
    for (name, code) in [("shop", Code::KeyFull), ("queue/errands", Code::QueueFull)] {
        let town = Town::new().await;
        town.set_limit(name, Limit::concurrency(1)).await;
        let ids = town.enqueue(&[limited("done"), limited("done"), limited("done")]).await;
        let worker = town.worker().await;
        assert_eq!(town.claim(&worker, 9).await, [ids[0]]);
        let why = town.because(ids[2], code).await;
        assert!(
            why.causes[0].text.contains(&format!("and no more may (limit {name})")),
            "{why:#?}"
        );
        assert_eq!(why.causes[0].holders[0].id, Some(ids[0].0));
        if code == Code::KeyFull {
            assert!(
                why.causes[0].text.ends_with("1 jobs of it wait before this one"),
                "{why:#?}"
            );
        }
        town.heal(&town.because(ids[1], code).await).await;
        assert_eq!(town.claim(&worker, 9).await, [ids[1]]);
    }
}

#[tokio::test]
async fn a_limit_of_nothing_holds_until_somebody_raises_it() {
    let town = Town::new().await;
    town.set_limit("shop", Limit::concurrency(0)).await;
    let id = town.one(limited("done")).await;
    let worker = town.worker().await;
    assert!(town.claim(&worker, 9).await.is_empty());
    let why = town.because(id, Code::LimitIsZero).await;
    assert_eq!(basis(&why), "not before somebody raises the limit shop");
    assert_eq!(
        why.remedy().unwrap().to_string(),
        "orderfleet limits set shop --concurrency 1 --reason mended"
    );
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [id]);
}

#[tokio::test]
async fn a_rate_tells_when_the_next_may_start() {
    let town = Town::new().await;
    town.set_limit("shop", Limit::rate(0.001, 1)).await;
    let ids = town.enqueue(&[limited("done"), limited("done"), limited("done")]).await;
    let worker = town.worker().await;
    assert_eq!(town.claim(&worker, 9).await, [ids[0]]);
    let why = town.because(ids[1], Code::Rate).await;
    assert!(
        (900.0..1100.0).contains(&seconds_from_now(why.causes[0].until)),
        "{why:#?}"
    );
    let last = town.because(ids[2], Code::Rate).await;
    assert!(
        (1900.0..2100.0).contains(&seconds_from_now(last.causes[0].until)),
        "{last:#?}"
    );
    assert_eq!(last.predicted_start.unwrap().from, last.causes[0].until);
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [ids[1]]);
}

#[tokio::test]
async fn an_open_breaker_names_its_cause_and_is_closed_by_hand_or_by_a_probe() {
    let town = Town::new().await;
    town.set_limit("shop", Limit::breaker(1, 3600.0)).await;
    let ids = town.enqueue(&[limited("fail"), limited("done"), limited("done")]).await;
    town.run_once(ids[0]).await;
    let worker = town.worker().await;
    assert!(town.claim(&worker, 9).await.is_empty());
    let why = town.because(ids[1], Code::BreakerOpen).await;
    assert!(
        why.causes[0].text.contains("is open after 1 failures") && why.causes[0].text.contains("the shop is closed"),
        "{why:#?}"
    );
    assert!(
        (3000.0..3700.0).contains(&seconds_from_now(why.causes[0].until)),
        "{why:#?}"
    );
    town.because(ids[0], Code::BreakerOpen).await;

    // Half open: one at a time.
    town.sql(
        "update queue.limit_keys set open_until = clock_timestamp() - interval '1 s', opens_at = clock_timestamp()",
    )
    .await;
    assert_eq!(town.claim(&worker, 9).await, [ids[1]]);
    let why = town.because(ids[2], Code::BreakerOpen).await;
    assert!(why.causes[0].text.contains("one job through at a time"), "{why:#?}");
    assert_eq!(why.causes[0].holders[0].id, Some(ids[1].0));
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [ids[2]]);
}

#[tokio::test]
async fn a_job_that_waits_for_others_tells_why_the_first_has_not_ended() {
    let town = Town::new().await;
    let ids = town.enqueue(&[errand("snooze"), errand("done")]).await;
    let conn = &mut *town.pool().acquire().await.unwrap();
    let waiter = queue::enqueue_after_all(conn, &errand("done"), &ids, OnFailure::Run)
        .await
        .unwrap()
        .id;
    town.run().await;
    let worker = town.worker().await;
    let why = town.because(waiter, Code::WaitsForJobs).await;
    assert_eq!(why.causes[0].text, format!("it waits for 1 of 2 jobs: {}", ids[0]));
    let first = why.causes[0].caused_by.as_ref().unwrap();
    assert_eq!((first.job, first.causes[0].code), (ids[0], Code::Snoozed));
    assert_eq!(why.causes.len(), 1, "it is not scheduled for the year 9999: {why:#?}");
    town.heal(&why).await;
    assert_eq!(town.claim(&worker, 9).await, [ids[0]]);
    worker.hand_back_all().await.unwrap();
    operate::discard(conn, ids[0], "ann", "enough").await.unwrap();
    let released = town.because(waiter, Code::InLine).await;
    assert_eq!(released.causes[1].code, Code::Released);
    assert_eq!(town.claim(&worker, 9).await, [waiter]);
}

#[tokio::test]
async fn a_chain_of_waiting_jobs_is_followed_to_a_bound() {
    let town = Town::new().await;
    let _worker = town.worker().await;
    let conn = &mut *town.pool().acquire().await.unwrap();
    let mut last = town.one(errand("done")).await;
    for _ in 0..10 {
        last = queue::enqueue_after_all(conn, &errand("done"), &[last], OnFailure::Run)
            .await
            .unwrap()
            .id;
    }
    let why = town.why(last).await;
    let mut links = 1;
    let mut link = &why;
    while let Some(next) = &link.causes[0].caused_by {
        links += 1;
        link = next;
    }
    assert_eq!(links, 5);
}

#[tokio::test]
async fn a_saga_that_has_turned_back_says_so_at_its_steps() {
    for fate in ["permanent", "discard"] {
        let town = Town::new().await;
        let steps = Steps::new()
            .step_with_undo(&errand("done"), &errand("snooze"))
            .step(&errand(fate));
        let conn = &mut *town.pool().acquire().await.unwrap();
        let id = saga::begin(conn, "outing", "o-1", steps).await.unwrap().id;
        town.run().await;
        let _worker = town.worker().await;
        let jobs = saga::saga(conn, id).await.unwrap().unwrap().jobs;
        let (step, undo) = (jobs[1].job_id.unwrap(), jobs[2].job_id.unwrap());
        let ended = if fate == "discard" { Code::Discarded } else { Code::Dead };
        let why = town.because(step, ended).await;
        assert_eq!(why.causes[1].code, Code::SagaTurnedBack);
        assert_eq!(why.remedy(), None, "it cannot be redriven");
        let why = town.because(undo, Code::Snoozed).await;
        assert_eq!(why.causes[1].code, Code::UndoesStep);
        assert_eq!(
            why.causes[1].text,
            format!("it undoes step 1 of saga {id} (outing o-1) because step 2 did not complete")
        );
    }
}

#[tokio::test]
async fn a_suspect_says_what_has_to_end_before_it_runs_alone() {
    let town = Town::new().await;
    let ids = town.enqueue(&[errand("done"), errand("done")]).await;
    let victim = town.worker().await;
    assert_eq!(town.claim(&victim, 9).await, ids);

    // Nobody is there to take the jobs of a dead worker back.
    let worker_id = victim.registration.id;
    victim.die().await.unwrap();
    let why = town.because(ids[0], Code::WorkerSilent).await;
    assert!(
        why.causes[0]
            .text
            .contains(&format!("its worker {worker_id} (errand-boy) has been silent since")),
        "{why:#?}"
    );
    assert_eq!(why.causes[1].code, Code::Running);
    assert_eq!(why.remedy(), Some(&Remedy::StartWorker("errands".to_owned())));
    let busy = town.worker().await;
    assert_eq!(town.why(ids[0]).await.causes[0].remedy, None, "somebody is there now");
    let rescued = queue::rescue::rescue(town.pool(), false, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(rescued.jobs, 2);

    // Once is nobody's fault.
    let why = town.because(ids[0], Code::InLine).await;
    assert_eq!(why.causes[1].code, Code::Rescued);
    assert!(
        why.causes[1].text.starts_with("its worker died, and it is back"),
        "{why:#?}"
    );
    assert_eq!(town.claim(&busy, 9).await, ids);
    busy.die().await.unwrap();
    let busy = town.worker().await;
    let rescued = queue::rescue::rescue(town.pool(), false, Duration::from_secs(15))
        .await
        .unwrap();
    assert_eq!(rescued.jobs, 2);

    let why = town.because(ids[0], Code::Suspect).await;
    assert!(why.causes[0].text.ends_with("an empty worker is there"), "{why:#?}");
    let beside = town.one(errand("done")).await;
    assert_eq!(town.claim(&busy, 9).await, [beside]);
    let why = town.because(ids[0], Code::Suspect).await;
    assert!(
        why.causes[0]
            .text
            .contains("2 workers died while they held it; it runs alone next"),
        "{why:#?}"
    );
    assert!(
        why.causes[0]
            .text
            .contains(&format!("has to end job {beside} (run_errand)")),
        "{why:#?}"
    );
    assert_eq!(why.remedy(), Some(&Remedy::StartWorker("errands".to_owned())));
    let empty = town.worker().await;
    assert_eq!(empty.claim_suspect(Errand::QUEUE).await.unwrap().unwrap().id, ids[0]);

    // It takes that one down as well.
    empty.die().await.unwrap();
    queue::rescue::rescue(town.pool(), false, Duration::from_secs(15))
        .await
        .unwrap();
    town.sql("update queue.jobs set run_at = clock_timestamp() + interval '1 hour' where attempt > 0")
        .await;
    let why = town.because(ids[0], Code::CrashedAlone).await;
    assert!(
        why.causes[0]
            .text
            .starts_with("its worker died while it ran alone; it runs alone again: due at"),
        "{why:#?}"
    );
    town.heal(&why).await;
    let other = town.worker().await;
    let next: Vec<_> = [
        other.claim_suspect(Errand::QUEUE).await.unwrap(),
        other.claim_suspect(Errand::QUEUE).await.unwrap(),
    ]
    .into_iter()
    .flatten()
    .map(|job| job.id)
    .collect();
    assert!(next.contains(&ids[0]), "{next:?}");
}

#[tokio::test]
async fn a_running_job_tells_its_worker_its_progress_and_its_end_and_can_be_stopped() {
    let town = Town::new().await;
    let id = town.one(errand("hang")).await;
    let worker = town.worker().await;
    let job = worker.claim(Errand::QUEUE, 1).await.unwrap().remove(0);
    let why = tokio::select! {
        settled = worker.run(job) => panic!("it ended: {settled:?}"),
        why = eventually("the job to have said something", async || {
            let why = town.because(id, Code::Running).await;
            why.causes[0].text.contains("it last said").then_some(why)
        }) => why,
    };
    let text = &why.causes[0].text;
    assert!(
        text.contains("attempt 1 of 3") && text.contains(r#"its progress: {"bought":3}"#),
        "{text}"
    );
    assert!(text.ends_with("it last said: at the till"), "{text}");
    assert!((30.0..61.0).contains(&seconds_from_now(why.causes[0].until)), "{text}");
    assert_eq!(why.causes[0].holders[0].what, "worker");
    assert_eq!(why.predicted_start, None);
    town.heal(&why).await;
    let why = town.because(id, Code::CancelAsked).await;
    assert!(
        why.causes[0].text.starts_with("ann has asked it to stop: mended"),
        "{why:#?}"
    );
    assert_eq!(why.remedy(), None);
    // Back in line, it ends there.
    worker.hand_back_all().await.unwrap();
    operate::settle_cancels(town.pool()).await.unwrap();
    let why = town.because(id, Code::Cancelled).await;
    assert!(
        why.causes[0].text.starts_with("ann cancelled it at ") && why.causes[0].text.ends_with(": mended"),
        "{why:#?}"
    );
    assert!(!why.is_unfinished());
}

#[tokio::test]
async fn a_job_that_was_handed_back_is_next_in_line_again() {
    let town = Town::new().await;
    let id = town.one(errand("done")).await;
    let worker = town.worker().await;
    assert_eq!(town.claim(&worker, 1).await, [id]);
    worker.hand_back_all().await.unwrap();
    let why = town.because(id, Code::InLine).await;
    assert_eq!(why.causes[1].code, Code::HandedBack);
    assert_eq!(town.claim(&worker, 1).await, [id]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_of_one_moment() {
    let town = Town::new().await;
    let id = town.one(errand("done")).await;
    let worker = town.worker().await;
    let is_over = AtomicBool::new(false);
    // From hand to hand, as fast as it goes.
    let moves = async {
        while !is_over.load(Ordering::Relaxed) {
            assert_eq!(town.claim(&worker, 1).await, [id]);
            worker.hand_back_all().await.unwrap();
        }
    };
    let looks = async {
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let why = town.why(id).await;
            let expected = match why.state.as_str() {
                "running" => Code::Running,
                "available" => Code::InLine,
                other => panic!("it is {other}"),
            };
            assert_eq!(why.causes[0].code, expected, "{why:#?}");
            assert!(!why.causes[0].text.contains("ask again"), "{why:#?}");
            seen.insert(why.state);
        }
        is_over.store(true, Ordering::Relaxed);
        seen
    };
    let ((), seen) = tokio::join!(moves, looks);
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test]
async fn a_dead_job_is_redriven_as_it_says_or_waits_for_its_campaign() {
    let town = Town::new().await;
    let ids = town
        .enqueue(&[errand("permanent"), errand("permanent"), errand("permanent")])
        .await;
    town.run().await;
    let why = town.because(ids[0], Code::Dead).await;
    let text = "it is dead (permanent) after 1 of 3 tries: permanent no_such_shop: it was pulled down";
    assert_eq!(why.causes[0].text, text);
    town.heal(&why).await;
    let worker = town.worker().await;
    let why = town.because(ids[0], Code::InLine).await;
    assert_eq!(why.causes[1].code, Code::Redriven);
    assert_eq!(town.claim(&worker, 1).await, [ids[0]]);

    let conn = &mut *town.pool().acquire().await.unwrap();
    let plan = Plan {
        selection: Selection {
            kind: Some(Errand::KIND.to_owned()),
            ..Selection::default()
        },
        canary: 1,
        ..Plan::default()
    };
    let campaign = campaign::start(conn, &CATALOGUE, &plan, "ann", "rebuilt")
        .await
        .unwrap();
    town.because(ids[2], Code::CampaignRunning).await;
    campaign::pause(conn, campaign, "bob", "lunch").await.unwrap();
    let why = town.because(ids[2], Code::CampaignPaused).await;
    assert!(why.causes[0].text.ends_with("is paused by bob: lunch"), "{why:#?}");
    assert_eq!(why.causes[1].code, Code::Dead);
    town.heal(&why).await;
    town.because(ids[2], Code::CampaignRunning).await;

    // The canary dies of the same cause.
    eventually("the canary to be redriven", async || {
        campaign::advance(town.pool()).await.unwrap();
        (town.why(ids[1]).await.state != "dead").then_some(())
    })
    .await;
    let why = town.because(ids[2], Code::CampaignRunning).await;
    assert!(why.causes[0].text.contains("1 in flight"), "{why:#?}");
    assert_eq!(why.causes[0].holders[0].id, Some(ids[1].0));
    town.run().await;
    eventually("the campaign to halt", async || {
        campaign::advance(town.pool()).await.unwrap();
        let why = town.why(ids[2]).await;
        (why.causes[0].code == Code::CampaignHalted).then_some(())
    })
    .await;
    let why = town.because(ids[2], Code::CampaignHalted).await;
    assert_eq!(why.remedy(), Some(&Remedy::ResumeCampaign(campaign)));
    town.heal(&why).await;
    town.because(ids[2], Code::CampaignRunning).await;
    eventually("the next canary to be redriven", async || {
        campaign::advance(town.pool()).await.unwrap();
        (town.why(ids[2]).await.state != "dead").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_ended_job_tells_how_and_by_whom() {
    let town = Town::new().await;
    let ids = town
        .enqueue(&[errand("done"), errand("discard"), errand("snooze")])
        .await;
    town.run().await;
    let completed = town.because(ids[0], Code::Completed).await;
    assert!(completed.causes[0].text.ends_with(", after 1 try"), "{completed:#?}");
    assert!(completed.causes[0].since.is_some());
    let discarded = town.because(ids[1], Code::Discarded).await;
    assert!(
        discarded.causes[0].text.starts_with("it discarded itself"),
        "{discarded:#?}"
    );
    assert!(
        discarded.causes[0].text.ends_with(": nobody wants it"),
        "{discarded:#?}"
    );
    let conn = &mut *town.pool().acquire().await.unwrap();
    operate::discard(conn, ids[2], "ann", "too late").await.unwrap();
    let given_up = town.because(ids[2], Code::Discarded).await;
    assert!(
        given_up.causes[0].text.starts_with("ann discarded it at "),
        "{given_up:#?}"
    );
    assert_eq!(causes(town.pool(), ids[2]).await, given_up.texts());
}

#[tokio::test]
async fn a_job_that_is_not_there_was_pruned_or_never_was() {
    let town = Town::new().await;
    let id = town.one(errand("done")).await;
    town.run().await;
    town.sql("delete from queue.finished_jobs").await;
    let why = town.because(id, Code::Forgotten).await;
    assert!(why.is_unknown() && why.causes[0].text.contains("pruned"), "{why:#?}");
    for id in [-1, 0, id.0 + 1, i64::MAX] {
        let why = town.because(JobId(id), Code::NeverEnqueued).await;
        assert!(why.is_unknown() && why.predicted_start.is_none());
    }
}

#[tokio::test]
async fn the_answer_is_json_with_stable_codes() {
    let town = Town::new().await;
    let ids = town.enqueue(&[in_group("fail"), in_group("done")]).await;
    town.run().await;
    let why = serde_json::to_value(town.why(ids[1]).await).unwrap();
    assert_eq!(why["job"], ids[1].0);
    assert_eq!(why["causes"][0]["code"], "no_worker", "{why:#}");
    assert_eq!(why["causes"][0]["remedy"], "orderfleet worker --pool errands");
    assert_eq!(why["causes"][1]["code"], "behind_in_group");
    assert_eq!(why["causes"][1]["caused_by"]["causes"][1]["code"], "retry");
    assert!(why["predicted_start"]["basis"].is_string());
    let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(names.len(), Code::ALL.len());
}

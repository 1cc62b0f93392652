use std::sync::Arc;
use std::time::Duration;

use crate::kinds::*;
use queue::operate;
use testkit::Database;

#[tokio::test]
async fn an_undecodable_payload_is_dead_and_its_neighbours_live() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    sqlx::query("select queue.enqueue('stage', 'act', '{\"fate\": 7}')")
        .execute(&db.pool)
        .await
        .unwrap();
    enqueue(&db.pool, &act(Fate::Done)).await;
    let ran = run(&db.pool, &world).await;
    assert_eq!((ran.buried, ran.completed), (1, 1));
    let letters = queue::inspect::dead_letters(&mut db.pool.acquire().await.unwrap(), &Default::default())
        .await
        .unwrap();
    assert_eq!(
        (letters[0].reason.as_str(), letters[0].error_code.as_str()),
        ("poison", "undecodable")
    );
}

#[tokio::test]
async fn attempts_used_up_end_in_a_report_that_explains_itself() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        key: Some("k".to_owned()),
        kept: true,
        order_id: "mourned".to_owned(),
        ..act(Fate::Fail)
    };
    let id = enqueue(&db.pool, &job).await;
    let mut ran = queue::testing::Ran::default();
    for _ in 0..3 {
        ran = run(&db.pool, &world).await;
        queue::testing::fast_forward(&db.pool, Duration::from_secs(3600))
            .await
            .unwrap();
    }
    assert_eq!(ran.buried, 1);
    assert_eq!(world.buried.lock().unwrap()[0].reason, "exhausted");

    let letter = queue::inspect::dead_letter(&mut db.pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap();
    let report = &letter.report;
    assert_eq!(letter.attempt, 3);
    assert_eq!(report["reason"], "exhausted");
    assert_eq!(report["error_class"], "transient");
    assert_eq!(report["message"], "the lights went out");
    assert_eq!(report["unique_key"], "k");
    assert_eq!(report["refs"]["order"], "mourned");
    assert_eq!(report["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(report["attempts"][2]["n"], 3);
    assert_eq!(report["attempts"][2]["fence"], 3);
    for field in [
        "kind",
        "args_version",
        "args",
        "first_failed_at",
        "dead_at",
        "redrives",
        "trace_id",
        "group_key",
    ] {
        assert!(report.get(field).is_some(), "{field}");
    }
    assert_eq!(report["compensation"]["state"], "enqueued");
    assert_eq!(report["compensation"]["job_ids"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_redriven_job_keeps_its_id_key_and_story_and_has_all_its_attempts() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        key: Some("k".to_owned()),
        kept: true,
        ..act(Fate::Permanent)
    };
    let id = enqueue(&db.pool, &job).await;
    assert_eq!(run(&db.pool, &world).await.buried, 1);
    assert_eq!(enqueue(&db.pool, &job).await, id, "the key is still the dead job's");

    let edit = serde_json::to_value(Act {
        fate: Fate::DoneInEffects,
        ..job.clone()
    })
    .unwrap();
    let conn = &mut *db.pool.acquire().await.unwrap();
    assert_eq!(
        operate::redrive(conn, id, "ann", "the play was written", Some(edit))
            .await
            .unwrap(),
        id
    );
    let view = queue::inspect::job(conn, id).await.unwrap().unwrap();
    assert_eq!(
        (view.attempt, view.fence, view.unique_key.as_deref()),
        (0, 1, Some("k"))
    );
    assert_eq!(view.failures[0]["code"], "no_such_play");
    assert_eq!(run(&db.pool, &world).await.completed, 1);
    assert_eq!(enqueue(&db.pool, &job).await, id);

    let detail: serde_json::Value = sqlx::query_scalar("select detail from queue.audit where action = 'redrive'")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    assert_eq!(detail["edited_fields"], serde_json::json!(["fate"]));
    assert!(matches!(
        operate::redrive(conn, id, "ann", "again", None).await,
        Err(operate::Error::NotFound(_))
    ));
}

#[tokio::test]
async fn a_dead_job_frees_its_live_key_and_is_not_redriven_onto_another() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let job = Act {
        key: Some("k".to_owned()),
        ..act(Fate::Permanent)
    };
    let dead = enqueue(&db.pool, &job).await;
    run(&db.pool, &world).await;
    let successor = enqueue(&db.pool, &job).await;
    assert_ne!(successor, dead);
    let conn = &mut *db.pool.acquire().await.unwrap();
    let refused = operate::redrive(conn, dead, "ann", "mended", None).await;
    assert!(matches!(refused, Err(operate::Error::KeyTaken { other, .. }) if other == successor));
    operate::discard(conn, successor, "ann", "not wanted").await.unwrap();
    operate::redrive(conn, dead, "ann", "mended", None).await.unwrap();
}

#[tokio::test]
async fn a_discarded_dead_letter_keeps_its_reason() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::Permanent)).await;
    run(&db.pool, &world).await;
    let conn = &mut *db.pool.acquire().await.unwrap();
    operate::discard(conn, id, "ann", "nobody waits for it").await.unwrap();
    let view = queue::inspect::job(conn, id).await.unwrap().unwrap();
    assert_eq!(
        (view.state.as_str(), view.result.unwrap()["reason"].as_str().unwrap()),
        ("discarded", "nobody waits for it")
    );
}

#[tokio::test]
async fn a_job_past_its_deadline_is_buried_without_being_run() {
    let db = Database::new().await;
    let world = Arc::new(World::default());
    let id = enqueue(&db.pool, &act(Fate::Done)).await;
    sqlx::query("update queue.jobs set deadline_at = clock_timestamp() - interval '1 s'")
        .execute(&db.pool)
        .await
        .unwrap();
    assert_eq!(run(&db.pool, &world).await.buried, 1);
    assert_eq!(world.runs(), 0);
    let letter = queue::inspect::dead_letter(&mut db.pool.acquire().await.unwrap(), id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(letter.reason, "deadline");
}

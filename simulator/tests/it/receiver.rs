//! The receiver: what it verifies, what it records, and what it remembers.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use simulator::receiver::{self, Running};
use standardwebhooks::Webhook;

use crate::support::plain_client;

const OLD: &str = "whsec_b2xkLXNlY3JldC1vbGQtc2VjcmV0LW9sZA==";
const NEW: &str = "whsec_bmV3LXNlY3JldC1uZXctc2VjcmV0LW5ldw==";
const FOREIGN: &str = "whsec_Zm9yZWlnbi1zZWNyZXQtZm9yZWlnbi1zZWM=";
const BODY: &str =
    r#"{"type":"order.reserved","timestamp":"2026-11-22T00:00:00Z","sequence":12,"data":{"order_id":"o-1"}}"#;

async fn open(log: &Path) -> Running {
    let secrets = vec![OLD.to_owned(), NEW.to_owned()];
    receiver::start(receiver::Config {
        port: 0,
        log: log.to_owned(),
        secrets,
    })
    .await
    .unwrap()
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// Signs with the library that many partners use.
fn signature(secret: &str, id: &str, at: i64, body: &str) -> String {
    Webhook::new(secret).unwrap().sign(id, at, body.as_bytes()).unwrap()
}

async fn send(url: &str, id: &str, at: i64, signature: &str, body: &str) -> reqwest::Result<u16> {
    let request = plain_client()
        .post(url)
        .header("webhook-id", id)
        .header("webhook-timestamp", at)
        .header("webhook-signature", signature)
        .body(body.to_owned());
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn a_request_signed_by_the_library_with_either_secret_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = open(&folder.path().join("log.jsonl")).await;
    let url = receiver.url("demo");
    for (id, secret) in [("a", OLD), ("b", NEW)] {
        assert_eq!(
            send(&url, id, now(), &signature(secret, id, now(), BODY), BODY)
                .await
                .unwrap(),
            204
        );
    }
    let (at, foreign) = (now(), signature(FOREIGN, "c", now(), BODY));
    let several = format!("v2,AAAA {foreign} {}", signature(NEW, "c", at, BODY));
    assert_eq!(
        send(&url, "c", at, &several, BODY).await.unwrap(),
        204,
        "any of several signatures will do"
    );
    let lines = receiver.log().unwrap();
    assert_eq!(lines.len(), 3);
    let line = &lines[0];
    for (name, value) in [
        ("n", Value::from(1)),
        ("path", "/hooks/demo".into()),
        ("webhook_id", "a".into()),
        ("verified", true.into()),
        ("status", 204.into()),
        ("type", "order.reserved".into()),
        ("order_id", "o-1".into()),
        ("sequence", 12.into()),
        ("first", true.into()),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    assert!(line["timestamp"].is_i64() && line["at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn anything_not_signed_just_now_is_401_and_recorded_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = open(&folder.path().join("log.jsonl")).await;
    let url = receiver.url("demo");
    let at = now();
    let good = signature(NEW, "a", at, BODY);
    let other_body = BODY.replace("o-1", "o-2");
    for (id, at, signature, body) in [
        ("a", at, signature(FOREIGN, "a", at, BODY), BODY),
        ("b", at, good.clone(), BODY),
        ("a", at + 1, good.clone(), BODY),
        ("a", at, good.clone(), other_body.as_str()),
        ("a", at, good.replace("v1,", "v2,"), BODY),
        ("a", at, "v1,".to_owned(), BODY),
        ("a", at, "v1,not base64".to_owned(), BODY),
        ("a", at - 310, signature(NEW, "a", at - 310, BODY), BODY),
        ("a", at + 310, signature(NEW, "a", at + 310, BODY), BODY),
        ("", at, signature(NEW, "", at, BODY), BODY),
    ] {
        assert_eq!(
            send(&url, id, at, &signature, body).await.unwrap(),
            401,
            "{id} {at} {signature}"
        );
    }
    assert_eq!(plain_client().post(&url).body(BODY).send().await.unwrap().status(), 401);
    assert_eq!(send(&url, "a", at, &good, BODY).await.unwrap(), 204);
    let lines = receiver.log().unwrap();
    assert!(
        lines[..11]
            .iter()
            .all(|line| line["verified"] == false && line["first"] == false && line["status"] == 401)
    );
    assert_eq!(
        lines[11]["first"], true,
        "what did not verify does not count as an arrival"
    );
}

#[tokio::test]
async fn repeats_are_told_apart_also_after_a_restart_and_by_address() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    let receiver = open(&log).await;
    let good = |id: &str| signature(NEW, id, now(), BODY);
    for name in ["one", "one", "two"] {
        assert_eq!(
            send(&receiver.url(name), "a", now(), &good("a"), BODY).await.unwrap(),
            204
        );
    }
    receiver.stop().await.unwrap();
    let receiver = open(&log).await;
    for id in ["a", "b"] {
        assert_eq!(
            send(&receiver.url("one"), id, now(), &good(id), BODY).await.unwrap(),
            204
        );
    }
    let firsts: Vec<bool> = receiver
        .log()
        .unwrap()
        .iter()
        .map(|line| line["first"].as_bool().unwrap())
        .collect();
    assert_eq!(firsts, [true, false, true, false, true]);
}

#[tokio::test]
async fn an_address_can_ask_for_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = open(&folder.path().join("log.jsonl")).await;
    let url = receiver.url("demo");
    let at = now();
    let good = signature(NEW, "a", at, BODY);
    assert_eq!(
        send(&format!("{url}?status=503"), "a", at, &good, BODY).await.unwrap(),
        503
    );
    assert_eq!(
        send(&format!("{url}?status=503"), "a", at, "v1,AAAA", BODY)
            .await
            .unwrap(),
        401
    );
    assert_eq!(
        send(&format!("{url}?delay_ms=1"), "a", at, &good, BODY).await.unwrap(),
        204
    );
    assert!(send(&format!("{url}?lost=true"), "a", at, &good, BODY).await.is_err());
    for query in ["status=99", "status=x", "delay_ms=60001", "colour=red"] {
        assert_eq!(
            send(&format!("{url}?{query}"), "a", at, &good, BODY).await.unwrap(),
            400,
            "{query}"
        );
    }
    let statuses: Vec<u64> = receiver
        .log()
        .unwrap()
        .iter()
        .map(|line| line["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [503, 401, 204, 204]);
}

#[tokio::test]
async fn a_body_over_the_limit_or_of_any_kind_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = open(&folder.path().join("log.jsonl")).await;
    let url = receiver.url("demo");
    for body in ["", "not json", "[1]", r#"{"type":7,"sequence":"x","data":[]}"#, "\u{0}"] {
        assert_eq!(
            send(&url, "a", now(), &signature(NEW, "a", now(), body), body)
                .await
                .unwrap(),
            204,
            "{body}"
        );
    }
    let large = "x".repeat(1024 * 1024 + 1);
    assert_eq!(
        send(&url, "b", now(), &signature(NEW, "b", now(), &large), &large)
            .await
            .unwrap(),
        413
    );
    let lines = receiver.log().unwrap();
    assert_eq!(lines.len(), 6);
    assert!(
        lines[..5]
            .iter()
            .all(|line| line["type"].is_null() && line["order_id"].is_null())
    );
    assert_eq!(
        (lines[5]["status"].as_u64(), lines[5]["verified"].as_bool()),
        (Some(413), Some(false))
    );
}

#[tokio::test]
async fn a_secret_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for secret in ["whsec_", "whsec_!!", ""] {
        let log = folder.path().join("log.jsonl");
        let config = receiver::Config {
            port: 0,
            log,
            secrets: vec![secret.to_owned()],
        };
        assert!(receiver::start(config).await.is_err(), "{secret}");
    }
}

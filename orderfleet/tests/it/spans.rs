//! Spans, from real processes to a collector on the loopback.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use domain::access;
use domain::keyring::{self, Keyring};
use domain::webhooks::store::NewEndpoint;
use domain::webhooks::{self, sign};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use simulator::receiver;
use tempfile::TempDir;
use testkit::{Database, eventually};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A process that a failed test does not leave behind.
struct Process(Child);

impl Process {
    fn stop(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// An API, a worker, and somebody who is told of every order.
struct Shop {
    db: Database,
    receiver: receiver::Running,
    api: Process,
    worker: Process,
    url: String,
    key: String,
    _files: TempDir,
}

impl Shop {
    /// Starts them with these settings.
    async fn start(settings: &[(&str, &str)]) -> Self {
        let db = Database::new().await;
        domain::tls::install();
        let files = tempfile::tempdir().unwrap();
        let secret = sign::generate_secret();
        let config = receiver::Config {
            port: 0,
            log: files.path().join("receiver.jsonl"),
            secrets: vec![secret.clone()],
        };
        let receiver = receiver::start(config).await.unwrap();
        let endpoint = NewEndpoint {
            url: receiver.url("a"),
            event_types: vec!["order.*".to_owned()],
            secret: Some(secret),
            ..NewEndpoint::default()
        };
        let mut conn = db.connect().await;
        let master_key = keyring::new_key();
        let keys = Keyring::new(std::slice::from_ref(&master_key)).unwrap();
        webhooks::store::create(&mut conn, &keys, endpoint, true).await.unwrap();
        testkit::a_warehouse(&mut conn, "NORTH").await;
        testkit::a_product(&mut conn, "MUG", 10).await;
        let (_, key) = access::store::create(&mut conn, "test", &[access::Scope::Admin], None)
            .await
            .unwrap();

        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let role = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_orderfleet"));
            command
                .args(args)
                .env_clear()
                .envs(settings.iter().copied())
                .env("DATABASE_URL", &db.url)
                .env("ORDERFLEET_GATEWAY_KEY", "sk_test_none")
                .env("ORDERFLEET_MASTER_KEY", master_key.expose_secret())
                .env("ORDERFLEET_ALLOW_PRIVATE_WEBHOOKS", "true")
                // What is logged does not change what is exported.
                .env("ORDERFLEET_LOG", "error");
            Process(command.spawn().unwrap())
        };
        let api = role(&["api", "--listen", &address]);
        let worker = role(&["worker", "--pool", "stock", "--pool", "webhooks"]);
        let url = format!("http://{address}");
        eventually("the API answers", async || {
            reqwest::get(format!("{url}/readyz")).await.ok()
        })
        .await;
        Self {
            db,
            receiver,
            api,
            worker,
            url,
            key: key.token.expose_secret().to_owned(),
            _files: files,
        }
    }

    /// Takes an order in, with this place in a trace.
    async fn order(&self, traceparent: &str) {
        let customer = testkit::a_customer(&mut self.db.connect().await).await;
        let taken = reqwest::Client::new()
            .post(format!("{}/api/v1/orders", self.url))
            .bearer_auth(&self.key)
            .header("idempotency-key", traceparent)
            .header("traceparent", traceparent)
            .json(&serde_json::json!({"customer_id": customer, "lines": [{"sku": "MUG", "qty": 1}]}))
            .send()
            .await
            .unwrap();
        assert_eq!(taken.status().as_u16(), 202, "{}", taken.text().await.unwrap());
    }

    /// Waits until the receiver was told of so many events; returns the `traceparent` of each by its type.
    async fn told(&self, count: usize) -> BTreeMap<String, String> {
        let log = eventually("the webhooks arrive", async || {
            let log = self.receiver.log().unwrap();
            (log.len() >= count).then_some(log)
        })
        .await;
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        log.iter()
            .map(|line| (text(&line["type"]), text(&line["traceparent"])))
            .collect()
    }

    /// Stops both, as an orchestrator does.
    async fn stop(self) -> (ExitStatus, ExitStatus) {
        let Self { api, worker, .. } = self;
        tokio::task::spawn_blocking(|| (api.stop(), worker.stop()))
            .await
            .unwrap()
    }
}

/// What arrives at a collector.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<(String, Span)>>>);

impl Collected {
    /// Starts collecting; returns where.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let collected = self.clone();
        let endpoint = post(|body: Bytes| async move {
            collected.take(ExportTraceServiceRequest::decode(body).unwrap());
            StatusCode::OK
        });
        let router = Router::new().route("/v1/traces", endpoint);
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn take(&self, request: ExportTraceServiceRequest) {
        for exported in request.resource_spans {
            let resource = exported.resource.unwrap();
            let service = resource
                .attributes
                .iter()
                .find(|one| one.key == "service.name")
                .unwrap();
            let Some(Value::StringValue(service)) = service.value.clone().unwrap().value else {
                panic!("{service:?}")
            };
            let spans = exported.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let mut all = self.0.lock().unwrap();
            all.extend(spans.map(|span| (service.clone(), span)));
        }
    }

    /// The one span of that name that follows this parent.
    fn child(&self, name: &str, parent: &str) -> (String, Span) {
        let all = self.0.lock().unwrap();
        let mut fit = all
            .iter()
            .filter(|(_, span)| span.name == name && hex(&span.parent_span_id) == parent);
        let found = fit
            .next()
            .unwrap_or_else(|| panic!("no {name} follows {parent} in {all:#?}"));
        assert!(fit.next().is_none(), "two of {name} follow {parent} in {all:#?}");
        found.clone()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fact<'a>(span: &'a Span, name: &str) -> Option<&'a Value> {
    let fact = span.attributes.iter().find(|fact| fact.key == name)?;
    fact.value.as_ref()?.value.as_ref()
}

#[tokio::test]
async fn one_trace_is_exported_from_the_request_through_the_jobs_to_the_webhook() {
    let collected = Collected::default();
    let url = collected.start().await;
    let shop = Shop::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str())]).await;
    shop.order(&format!("00-{TRACE}-{CALLER}-01")).await;
    // Who asks not to be sampled is not exported, and neither is what follows.
    shop.order(&format!("00-{}-{CALLER}-00", "a".repeat(32))).await;
    let log = shop.told(4).await;
    assert!(log.len() == 2, "{log:?}");
    let log = shop.receiver.log().unwrap();
    // What was not sent yet is sent at the end.
    let (api, worker) = shop.stop().await;
    assert!(api.success() && worker.success(), "{api} {worker}");

    let (service, request) = collected.child("POST /api/v1/orders", CALLER);
    assert_eq!(service, "orderfleet-api");
    assert_eq!(fact(&request, "http.response.status_code"), Some(&Value::IntValue(202)));
    let request = hex(&request.span_id);
    let (service, reserving) = collected.child("reserve_stock", &request);
    assert_eq!(service, "orderfleet-worker");
    let completed = Value::StringValue("completed".to_owned());
    assert_eq!(fact(&reserving, "job.end"), Some(&completed));
    for (event, follows) in [("order.created", request), ("order.reserved", hex(&reserving.span_id))] {
        let (_, delivering) = collected.child("deliver_webhook", &follows);
        let (_, sending) = collected.child("POST webhook", &hex(&delivering.span_id));
        assert_eq!(fact(&sending, "http.response.status_code"), Some(&Value::IntValue(204)));
        assert!(sending.start_time_unix_nano >= delivering.start_time_unix_nano);
        assert!(sending.end_time_unix_nano <= delivering.end_time_unix_nano);
        // The receiver goes on from there.
        let carried = format!("00-{TRACE}-{}-01", hex(&sending.span_id));
        assert!(
            log.iter()
                .any(|line| line["type"] == event && line["traceparent"] == carried.as_str()),
            "{carried} is not in {log:#?}"
        );
    }
    let all = collected.0.lock().unwrap();
    let of_trace = all.iter().filter(|(_, span)| hex(&span.trace_id) == TRACE).count();
    assert_eq!(of_trace, 6, "{all:#?}");
    let unsampled = all.iter().find(|(_, span)| hex(&span.trace_id) == "a".repeat(32));
    assert!(unsampled.is_none(), "{unsampled:#?}");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up() {
    // Connections are taken by the kernel, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "2"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
    ];
    let shop = Shop::start(&settings).await;
    for n in 1..4 {
        shop.order(&format!("00-{n:032x}-{CALLER}-01")).await;
    }
    shop.told(6).await;
    let asked_at = Instant::now();
    let (api, worker) = shop.stop().await;
    assert!(api.success() && worker.success(), "{api} {worker}");
    assert!(
        asked_at.elapsed() < Duration::from_secs(60),
        "it waited for the collector"
    );
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_by_its_setting() {
    let output = Command::new(env!("CARGO_BIN_EXE_orderfleet"))
        .arg("api")
        .env_clear()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        words,
        "orderfleet: OTEL_EXPORTER_OTLP_PROTOCOL: `grpc` is not spoken here; only http/protobuf is\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

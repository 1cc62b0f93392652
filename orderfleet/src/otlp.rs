//! Exports spans by OTLP over HTTP, if a collector is set, by the variables that OpenTelemetry prescribes.
//!
//! Nothing waits for the collector: a span that ends goes into a queue with a bound (`OTEL_BSP_MAX_QUEUE_SIZE`), and what
//! finds it full is dropped and counted in a warning. A thread of its own sends what is queued.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanProcessor};
use tokio::runtime::Handle;

use crate::roles::BUILD;
use crate::settings::Lookup;

/// How long one request to the collector may take without `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may hold up the end of a process.
const FLUSH: Duration = Duration::from_secs(3);
/// An answer of the collector is not read any further, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Where spans go.
pub struct Export {
    /// Takes each span that has ended.
    pub processor: Arc<BatchSpanProcessor>,
}

impl Export {
    /// Starts exporting for a process that calls itself `service`; none when no collector is set.
    pub fn start(service: &'static str, lookup: Lookup<'_>, runtime: Handle) -> anyhow::Result<Option<Self>> {
        let either = |of_traces: &str, of_all: &str| lookup(of_traces).or_else(|| lookup(of_all));
        let is_asked = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
        let is_disabled = lookup("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let is_other = lookup("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        if !is_asked || is_disabled || is_other {
            return Ok(None);
        }
        match either("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL").as_deref() {
            None | Some("http/protobuf") => {}
            Some(other) => bail!("OTEL_EXPORTER_OTLP_PROTOCOL: `{other}` is not spoken here; only http/protobuf is"),
        }
        let timeout = match either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT") {
            Some(ms) => Duration::from_millis(
                ms.parse()
                    .with_context(|| format!("OTEL_EXPORTER_OTLP_TIMEOUT: `{ms}` is not a number of milliseconds"))?,
            ),
            None => TIMEOUT,
        };
        let client = Client::new(timeout, runtime)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .build()
            .context("OTEL_EXPORTER_OTLP_ENDPOINT")?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource(service, lookup));
        Ok(Some(Self {
            processor: Arc::new(processor),
        }))
    }

    /// Sends what has not been sent, for a short while at most.
    pub fn finish(self) {
        if let Err(error) = self.processor.shutdown_with_timeout(FLUSH) {
            tracing::warn!("the last spans may not have reached the collector: {error}");
        }
    }
}

/// Who we are: what the settings say, and what they leave open.
fn resource(service: &'static str, lookup: Lookup<'_>) -> Resource {
    let is_named = lookup("OTEL_SERVICE_NAME").is_some()
        || lookup("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|given| given.contains("service.name="));
    let resource = Resource::builder().with_attributes([
        KeyValue::new("service.version", BUILD),
        KeyValue::new("process.pid", i64::from(std::process::id())),
    ]);
    match is_named {
        true => resource.build(),
        false => resource.with_service_name(service).build(),
    }
}

/// The fleet's own HTTP client, with the one TLS provider. The exporter's thread is outside of the runtime, so what it
/// sends is sent from there.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

impl Client {
    fn new(timeout: Duration, runtime: Handle) -> anyhow::Result<Self> {
        domain::tls::install();
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("making the client of the collector")?;
        Ok(Self { http, runtime })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = http.execute(request).await?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await?
                && body.len() < ANSWER_MAX
            {
                body.extend_from_slice(&chunk);
            }
            Ok::<_, reqwest::Error>((answer.status(), body))
        });
        let (status, body) = sent.await??;
        Ok(Response::builder().status(status).body(body.into())?)
    }
}

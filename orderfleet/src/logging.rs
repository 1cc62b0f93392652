//! Logs go to stderr: text for a person at a terminal, JSON lines for everything else. Spans go to a collector, if one is set.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use opentelemetry_sdk::trace::SpanProcessor;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::spans::{self, Spans};

/// Starts logging with this filter, and hands spans to this processor; the filter is of the logs alone.
pub fn start<P: SpanProcessor + 'static>(filter: &str, processor: Option<Arc<P>>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("ORDERFLEET_LOG: `{filter}` is not a filter"))?;
    match processor {
        Some(processor) => {
            let spans = Spans::to(processor).with_filter(FilterFn::new(spans::is_seen));
            tracing_subscriber::registry()
                .with(logs().with_filter(filter))
                .with(spans)
                .init();
        }
        None => tracing_subscriber::registry().with(logs().and_then(filter)).init(),
    }
    Ok(())
}

fn logs() -> Box<dyn Layer<Registry> + Send + Sync> {
    let logs = fmt::layer().with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        return logs.with_target(false).boxed();
    }
    logs.json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .boxed()
}

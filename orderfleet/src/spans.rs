//! Makes OpenTelemetry spans of the `tracing` spans that tell their place in a trace (`queue::trace`): requests, attempts,
//! and tries of webhooks.
//!
//! The ids are those that travel with the jobs and in `traceparent` headers, not ids that an exporter makes up, so what one
//! process calls the parent is what another has exported.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks, SpanProcessor};
use queue::trace::FACTS;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Warnings of one span that are exported with it.
const EVENTS_MAX: usize = 16;
/// The longest text of an attribute that is exported, in bytes.
const TEXT_MAX: usize = 1024;

/// Hands every span that has a place in a trace to a processor, when it ends.
pub struct Spans<P> {
    processor: Arc<P>,
    scope: InstrumentationScope,
}

impl<P: SpanProcessor> Spans<P> {
    /// Hands them to this processor.
    pub fn to(processor: Arc<P>) -> Self {
        let scope = InstrumentationScope::builder("orderfleet")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self { processor, scope }
    }
}

/// What the layer has to see: spans with a place in a trace, what is told of them, and warnings.
pub fn is_seen(metadata: &Metadata<'_>) -> bool {
    match metadata.is_span() {
        true => metadata.fields().field("span.id").is_some(),
        false => metadata.target() == FACTS || *metadata.level() <= Level::WARN,
    }
}

/// A span that has not ended.
struct Open {
    place: SpanContext,
    parent_id: SpanId,
    started_at: SystemTime,
    facts: Facts,
    events: Vec<Event>,
}

impl<S, P> Layer<S> for Spans<P>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    P: SpanProcessor + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut facts = Facts::default();
        attributes.record(&mut facts);
        if let (Some(span), Some(open)) = (context.span(id), Open::new(facts)) {
            span.extensions_mut().insert(open);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut scope = context.event_scope(event).into_iter().flatten();
        let Some(span) = scope.find(|span| span.extensions().get::<Open>().is_some()) else {
            return;
        };
        let mut extensions = span.extensions_mut();
        let Some(open) = extensions.get_mut::<Open>() else {
            return;
        };
        if event.metadata().target() == FACTS {
            event.record(&mut open.facts);
        } else if open.events.len() < EVENTS_MAX {
            let mut facts = Facts::default();
            event.record(&mut facts);
            let message = facts
                .take("message")
                .unwrap_or_else(|| event.metadata().target().to_owned());
            open.events.push(Event::new(message, SystemTime::now(), facts.all, 0));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        if let Some(open) = span.extensions_mut().remove::<Open>() {
            self.processor.on_end(open.end(span.name(), self.scope.clone()));
        }
    }
}

impl Open {
    /// None when it is not part of a trace that is sampled.
    fn new(mut facts: Facts) -> Option<Self> {
        let trace_id = TraceId::from_hex(&facts.take("trace.id")?).ok()?;
        let span_id = SpanId::from_hex(&facts.take("span.id")?).ok()?;
        let parent = facts.take("span.parent_id");
        Some(Self {
            place: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_id: parent.map_or(SpanId::INVALID, |id| SpanId::from_hex(&id).unwrap_or(SpanId::INVALID)),
            started_at: SystemTime::now(),
            facts,
            events: Vec::new(),
        })
    }

    fn end(mut self, sort: &'static str, instrumentation_scope: InstrumentationScope) -> SpanData {
        let (span_kind, name) = self.facts.named(sort);
        let status = match self.facts.take("error.kind") {
            Some(failure) => {
                self.facts.all.push(KeyValue::new("error.type", failure.clone()));
                Status::error(failure)
            }
            None => Status::Unset,
        };
        let mut events = SpanEvents::default();
        events.events = self.events;
        SpanData {
            span_context: self.place,
            parent_span_id: self.parent_id,
            // Where a place has a parent, another process or transaction wrote it down.
            parent_span_is_remote: self.parent_id != SpanId::INVALID,
            span_kind,
            name: name.into(),
            start_time: self.started_at,
            end_time: SystemTime::now(),
            attributes: self.facts.all,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status,
            instrumentation_scope,
        }
    }
}

/// The fields of a span or an event.
#[derive(Default)]
struct Facts {
    all: Vec<KeyValue>,
}

impl Facts {
    fn text(&self, name: &str) -> Option<String> {
        let fact = self.all.iter().find(|fact| fact.key.as_str() == name)?;
        Some(fact.value.as_str().into_owned())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.all.iter().position(|fact| fact.key.as_str() == name)?;
        Some(self.all.swap_remove(at).value.as_str().into_owned())
    }

    /// What a span is called, by its sort: few names, so that they can be grouped by.
    fn named(&self, sort: &'static str) -> (SpanKind, String) {
        match (
            sort,
            self.text("http.method"),
            self.text("http.route"),
            self.text("job.kind"),
        ) {
            ("request", Some(method), Some(route), _) => (SpanKind::Server, format!("{method} {route}")),
            ("attempt", _, _, Some(kind)) => (SpanKind::Consumer, kind),
            ("webhook", ..) => (SpanKind::Client, "POST webhook".to_owned()),
            _ => (SpanKind::Internal, sort.to_owned()),
        }
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.all.push(KeyValue::new(field.name(), value));
    }
}

impl Visit for Facts {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.add(field, value),
            Err(_) => self.add(field, value.to_string()),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut end = value.len().min(TEXT_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        self.add(field, value[..end].to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &fmt::format(format_args!("{value:?}")));
    }
}

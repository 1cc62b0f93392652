//! One trace from a request through every job that follows from it, as W3C Trace Context writes it.
//!
//! Whoever serves a request or runs an attempt does so inside [`scope`]; what is enqueued there belongs to the trace. It
//! travels with the task, so a task that a handler spawns has to be given it again.
//!
//! A place becomes a span for whoever exports them when a `tracing` span tells it in three fields: `trace.id`, `span.id`
//! and `span.parent_id`. What is known only at its end is told by an event with the target [`FACTS`].

use std::fmt;

use rand::Rng;
use tracing::Value;
use tracing::field::display;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The target of events whose fields belong to the span they are in. They say nothing that a log needs.
pub const FACTS: &str = "span_facts";

/// A place in a trace: the value of a `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    is_sampled: bool,
}

impl TraceContext {
    /// A new trace.
    pub fn begin() -> Self {
        Self {
            trace_id: rand::rng().random_range(1..=u128::MAX),
            span_id: new_span_id(),
            parent_id: None,
            is_sampled: true,
        }
    }

    /// Reads a `traceparent` strictly; none when anything about it is not as the standard says.
    pub fn parse(header: &str) -> Option<Self> {
        // version "-" trace-id "-" parent-id "-" flags; a later version may add to the end.
        let (version, rest) = header.split_at_checked(2)?;
        let version = hex(version)?;
        let known = rest.get(..53)?;
        let is_whole = match rest.get(53..)? {
            "" => true,
            more => version > 0 && more.starts_with('-'),
        };
        let mut parts = known.strip_prefix('-')?.split('-');
        let (trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?);
        let has_lengths = (trace_id.len(), span_id.len(), flags.len()) == (32, 16, 2) && parts.next().is_none();
        if !has_lengths || !is_whole || version == 0xff {
            return None;
        }
        let (trace_id, span_id) = (hex(trace_id)?, u64::try_from(hex(span_id)?).ok()?);
        let is_sampled = hex(flags)? & 1 == 1;
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id,
            span_id,
            parent_id: None,
            is_sampled,
        })
    }

    /// The next place in the trace of that `traceparent`; a new trace when there is none or it cannot be read.
    pub fn following(header: Option<&str>) -> Self {
        header
            .and_then(Self::parse)
            .map_or_else(Self::begin, |before| before.next())
    }

    /// A place that follows this one.
    pub fn next(&self) -> Self {
        Self {
            span_id: new_span_id(),
            parent_id: Some(self.span_id),
            ..*self
        }
    }

    /// What all places of a trace have in common: 32 hexadecimal digits.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        let trace_id = self.trace_id;
        fmt::from_fn(move |f| write!(f, "{trace_id:032x}"))
    }

    /// The field `span.id`: 16 hexadecimal digits; none when the trace is not sampled, and so not exported.
    pub fn span_id(&self) -> Option<impl Value + use<>> {
        self.is_sampled.then_some(self.span_id).map(digits)
    }

    /// The field `span.parent_id`: the place this one follows, in the same way.
    pub fn parent_id(&self) -> Option<impl Value + use<>> {
        self.parent_id.map(digits)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// The place where this task is; none outside of every [`scope`].
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

/// Does the work at that place.
pub fn scope<F: Future>(context: TraceContext, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, work)
}

/// What a job enqueued here stores.
pub(crate) fn stored() -> Option<String> {
    current().map(|context| context.to_string())
}

fn digits(span_id: u64) -> impl Value {
    display(fmt::from_fn(move |f| write!(f, "{span_id:016x}")))
}

fn new_span_id() -> u64 {
    rand::rng().random_range(1..=u64::MAX)
}

/// Lower-case digits only, as the standard demands.
fn hex(digits: &str) -> Option<u128> {
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    digits
        .bytes()
        .all(is_hex)
        .then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        let context = TraceContext::parse(GIVEN).expect("an example of the standard");
        assert_eq!(context.to_string(), GIVEN);
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let unsampled = GIVEN.replace("-01", "-00");
        assert_eq!(
            TraceContext::parse(&unsampled).expect("an unsampled one").to_string(),
            unsampled
        );
        let later = format!("cc{}-what-comes-next", &GIVEN[2..]);
        assert_eq!(TraceContext::parse(&later), Some(context));
    }

    #[test]
    fn anything_that_is_not_as_the_standard_says_is_refused() {
        let bad = [
            String::new(),
            "00".to_owned(),
            "é".to_owned(),
            GIVEN.to_uppercase(),
            GIVEN.replace('-', "_"),
            format!("{GIVEN}-"),
            format!("{GIVEN} "),
            format!(" {GIVEN}"),
            format!("ff{}", &GIVEN[2..]),
            format!("cc{}x", &GIVEN[2..]),
            GIVEN[..54].to_owned(),
            GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GIVEN.replace("4bf9", "+bf9"),
            GIVEN.replace(
                "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa",
                "4bf92f35-77b34da6a3ce929d0e0e473600f067aa",
            ),
            GIVEN.replace("-01", "-1"),
        ];
        for header in bad {
            assert_eq!(TraceContext::parse(&header), None, "{header:?}");
        }
    }

    #[test]
    fn what_follows_a_bad_header_is_a_trace_of_its_own() {
        let given = TraceContext::parse(GIVEN).expect("an example of the standard");
        let next = TraceContext::following(Some(GIVEN));
        assert_eq!(next.trace_id, given.trace_id);
        assert_ne!(next.span_id, given.span_id);
        assert_eq!(next.parent_id, Some(given.span_id));
        let (one, other) = (TraceContext::following(Some("nonsense")), TraceContext::following(None));
        assert_ne!(one.trace_id, other.trace_id);
    }
}

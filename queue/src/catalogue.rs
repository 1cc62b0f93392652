//! The kinds of job a process knows. It claims no others, so old and new builds may run side by side.

use std::any::Any;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::JsonRawValue;

use crate::attempt::Attempt;
use crate::batch::{self, BatchJob};
use crate::job::{DeadHead, DeadLetter, Job, Outcome, Retry};
use crate::schedule::{self, Entry};

/// What is known of a kind without running it.
#[derive(Clone, Debug)]
pub struct KindInfo {
    /// Its name.
    pub kind: &'static str,
    /// The newest version of its payload that this build reads.
    pub version: i16,
    /// The line it waits in.
    pub queue: &'static str,
    /// Its place against others, from -10 to 10.
    pub priority: i16,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often it is tried, and how far apart.
    pub retry: Retry,
    /// Whether its jobs are remembered when they have ended.
    pub is_kept: bool,
    /// How many of its jobs one transaction takes at most; 1 for a kind that takes them one by one.
    pub batch_max: usize,
    /// What becomes of its group when a job dies.
    pub dead_head: DeadHead,
}

/// The kinds of job a process knows.
pub struct Catalogue<S> {
    kinds: BTreeMap<&'static str, Box<dyn Kind<S>>>,
    batches: BTreeMap<&'static str, (usize, batch::Handler<S>)>,
}

impl<S: Send + Sync + 'static> Catalogue<S> {
    /// A catalogue of nothing.
    pub fn new() -> Self {
        Self {
            kinds: BTreeMap::new(),
            batches: BTreeMap::new(),
        }
    }

    /// The same with one kind more.
    #[must_use]
    pub fn with<J: Job<Services = S>>(mut self) -> Self {
        let earlier = self.kinds.insert(J::KIND, Box::new(Typed::<J>(PhantomData)));
        assert!(earlier.is_none(), "two jobs are called {}", J::KIND);
        self
    }

    /// The same with one kind more, whose jobs are done many at once.
    #[must_use]
    pub fn with_batch<J: BatchJob<Services = S>>(mut self) -> Self {
        assert!(J::BATCH_MAX >= 1, "a batch of {} has no room for a job", J::KIND);
        self.batches.insert(J::KIND, (J::BATCH_MAX, batch::handler::<J>()));
        self.with::<J>()
    }

    /// All it knows, in the order of their names.
    pub fn kinds(&self) -> Vec<KindInfo> {
        let kinds = self.kinds.values().map(|kind| kind.info());
        kinds
            .map(|info| KindInfo {
                batch_max: self.batch_max(info.kind),
                ..info
            })
            .collect()
    }

    /// How many jobs of a kind one transaction takes at most.
    pub fn batch_max(&self, kind: &str) -> usize {
        self.batches.get(kind).map_or(1, |(max, _)| *max)
    }

    /// A kind whose jobs are done many at once, and how.
    pub(crate) fn batch(&self, kind: &str) -> Option<(&dyn Kind<S>, batch::Handler<S>)> {
        let (_, handler) = self.batches.get(kind)?;
        Some((self.kind(kind)?, *handler))
    }

    /// An entry of the timetable for a kind known by its name; the payload is decoded as today's version of it.
    pub fn entry(&self, name: &str, cron: &str, kind: &str, args: &Value) -> Result<Entry, schedule::Error> {
        let Some(known) = self.kinds.get(kind) else {
            let kinds: Vec<_> = self.kinds.keys().copied().collect();
            let why = format!("there is no kind {kind}; there are {}", kinds.join(", "));
            return Err(schedule::Error::refused("kind", why));
        };
        let refused = |why: String| schedule::Error::refused("args", format!("are no payload of {kind}: {why}"));
        let entry = known
            .entry(name, cron, args)
            .map_err(|error| refused(error.to_string()))?;
        // A payload leaves out what it does not know; an operator who misspelt a field wants to hear of it.
        let given = args.as_object().into_iter().flatten().map(|(field, _)| field);
        match given.into_iter().find(|field| entry.args.get(field).is_none()) {
            Some(field) => Err(refused(format!("it has no field {field}"))),
            None => Ok(entry),
        }
    }

    /// The kinds whose jobs are forgotten when they have ended.
    pub(crate) fn unkept(&self) -> Vec<String> {
        let unkept = self.kinds.values().map(|kind| kind.info()).filter(|info| !info.is_kept);
        unkept.map(|info| info.kind.to_owned()).collect()
    }

    /// Whether this build reads such a payload.
    pub fn check(&self, kind: &str, version: i16, args: &Value) -> Result<(), Unreadable> {
        let Some(known) = self.kind(kind) else {
            return Err(Unreadable::new(format!("this build knows no kind {kind}")));
        };
        if version > known.info().version {
            let newest = known.info().version;
            return Err(Unreadable::new(format!(
                "version {version} of {kind} is newer than this build, which reads up to {newest}"
            )));
        }
        // A payload's own code may panic as well.
        std::panic::catch_unwind(AssertUnwindSafe(|| known.check(version, args)))
            .unwrap_or_else(|_| Err(Unreadable::new("reading it panicked".to_owned())))
    }

    /// The kinds that wait in one of these queues.
    pub fn kinds_of(&self, queues: &[String]) -> Vec<KindInfo> {
        let mut kinds = self.kinds();
        kinds.retain(|kind| queues.iter().any(|queue| queue == kind.queue));
        kinds
    }

    pub(crate) fn kind(&self, kind: &str) -> Option<&dyn Kind<S>> {
        self.kinds.get(kind).map(AsRef::as_ref)
    }
}

impl<S: Send + Sync + 'static> Default for Catalogue<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a payload cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unreadable {
    /// Where in the payload, as `lines[0].sku`; `.` is the whole.
    pub path: String,
    /// What is wrong there.
    pub error: String,
}

impl Unreadable {
    fn new(error: String) -> Self {
        Self {
            path: ".".to_owned(),
            error,
        }
    }
}

/// A kind without its type.
pub(crate) trait Kind<S>: Send + Sync {
    fn info(&self) -> KindInfo;
    /// A line of the timetable that enqueues this payload.
    fn entry(&self, name: &str, cron: &str, args: &Value) -> serde_json::Result<Entry>;
    /// Reads a payload of that version, through `upcast` when it is older.
    fn decode(&self, version: i16, args: &JsonRawValue) -> anyhow::Result<Box<dyn Decoded<S>>>;
    /// Whether `decode` would succeed, and if not, where it stops.
    fn check(&self, version: i16, args: &Value) -> Result<(), Unreadable>;
}

/// A job without its type.
pub(crate) trait Decoded<S>: Send + Sync {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
    fn delay_after(&self, attempt: i32) -> Option<Duration>;
    fn run<'a>(self: Box<Self>, attempt: &'a Attempt, services: &'a S) -> BoxFuture<'a, anyhow::Result<Outcome>>;
    fn bury<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        letter: &'a DeadLetter,
        services: &'a S,
    ) -> BoxFuture<'a, anyhow::Result<()>>;
    fn dead_head<'a>(&'a self, conn: &'a mut PgConnection) -> BoxFuture<'a, anyhow::Result<DeadHead>>;
}

struct Typed<J>(PhantomData<fn() -> J>);

impl<J: Job> Kind<J::Services> for Typed<J> {
    fn info(&self) -> KindInfo {
        KindInfo {
            kind: J::KIND,
            version: J::VERSION,
            queue: J::QUEUE,
            priority: J::PRIORITY,
            timeout: J::TIMEOUT,
            retry: J::RETRY,
            is_kept: J::IS_KEPT,
            batch_max: 1,
            dead_head: J::DEAD_HEAD,
        }
    }

    fn entry(&self, name: &str, cron: &str, args: &Value) -> serde_json::Result<Entry> {
        Ok(Entry::new::<J>(name, cron, &serde_json::from_value(args.clone())?))
    }

    fn decode(&self, version: i16, args: &JsonRawValue) -> anyhow::Result<Box<dyn Decoded<J::Services>>> {
        let job: J = if version == J::VERSION {
            read(args.get())?
        } else {
            let today = J::upcast(version, serde_json::from_str(args.get())?)?;
            serde_path_to_error::deserialize(today)?
        };
        Ok(Box::new(One(job)))
    }

    fn check(&self, version: i16, args: &Value) -> Result<(), Unreadable> {
        let upcast;
        let args = if version == J::VERSION {
            args
        } else {
            upcast = J::upcast(version, args.clone()).map_err(|error| Unreadable::new(format!("{error:#}")))?;
            &upcast
        };
        match serde_path_to_error::deserialize::<_, J>(args) {
            Ok(_) => Ok(()),
            Err(error) => Err(Unreadable {
                path: error.path().to_string(),
                error: error.into_inner().to_string(),
            }),
        }
    }
}

/// Reads a payload; only one that cannot be read is read again, to say where.
fn read<J: DeserializeOwned>(text: &str) -> anyhow::Result<J> {
    match serde_json::from_str(text) {
        Ok(job) => Ok(job),
        Err(_) => Ok(serde_path_to_error::deserialize(
            &mut serde_json::Deserializer::from_str(text),
        )?),
    }
}

pub(crate) struct One<J>(pub(crate) J);

impl<J: Job> Decoded<J::Services> for One<J> {
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }

    fn delay_after(&self, attempt: i32) -> Option<Duration> {
        self.0.delay_after(attempt)
    }

    fn run<'a>(
        self: Box<Self>,
        attempt: &'a Attempt,
        services: &'a J::Services,
    ) -> BoxFuture<'a, anyhow::Result<Outcome>> {
        Box::pin(self.0.run(attempt, services))
    }

    fn bury<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        letter: &'a DeadLetter,
        services: &'a J::Services,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.0.bury(conn, letter, services))
    }

    fn dead_head<'a>(&'a self, conn: &'a mut PgConnection) -> BoxFuture<'a, anyhow::Result<DeadHead>> {
        Box::pin(self.0.dead_head(conn))
    }
}

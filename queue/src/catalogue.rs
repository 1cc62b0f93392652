//! The kinds of job a process knows. It claims no others, so old and new builds may run side by side.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use sqlx::types::JsonRawValue;

use crate::attempt::Attempt;
use crate::job::{DeadLetter, Job, Outcome, Retry};

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
}

/// The kinds of job a process knows.
pub struct Catalogue<S> {
    kinds: BTreeMap<&'static str, Box<dyn Kind<S>>>,
}

impl<S: Send + Sync + 'static> Catalogue<S> {
    /// A catalogue of nothing.
    pub fn new() -> Self {
        Self { kinds: BTreeMap::new() }
    }

    /// The same with one kind more.
    #[must_use]
    pub fn with<J: Job<Services = S>>(mut self) -> Self {
        let earlier = self.kinds.insert(J::KIND, Box::new(Typed::<J>(PhantomData)));
        assert!(earlier.is_none(), "two jobs are called {}", J::KIND);
        self
    }

    /// All it knows, in the order of their names.
    pub fn kinds(&self) -> Vec<KindInfo> {
        self.kinds.values().map(|kind| kind.info()).collect()
    }

    /// The kinds whose jobs are forgotten when they have ended.
    pub(crate) fn unkept(&self) -> Vec<String> {
        let unkept = self.kinds.values().map(|kind| kind.info()).filter(|info| !info.is_kept);
        unkept.map(|info| info.kind.to_owned()).collect()
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

/// A kind without its type.
pub(crate) trait Kind<S>: Send + Sync {
    fn info(&self) -> KindInfo;
    /// Reads a payload of that version, through `upcast` when it is older.
    fn decode(&self, version: i16, args: &JsonRawValue) -> anyhow::Result<Box<dyn Decoded<S>>>;
}

/// A job without its type.
pub(crate) trait Decoded<S>: Send + Sync {
    fn delay_after(&self, attempt: i32) -> Option<Duration>;
    fn run<'a>(self: Box<Self>, attempt: &'a Attempt, services: &'a S) -> BoxFuture<'a, anyhow::Result<Outcome>>;
    fn bury<'a>(
        &'a self,
        conn: &'a mut PgConnection,
        letter: &'a DeadLetter,
        services: &'a S,
    ) -> BoxFuture<'a, anyhow::Result<()>>;
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
        }
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

struct One<J>(J);

impl<J: Job> Decoded<J::Services> for One<J> {
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
}

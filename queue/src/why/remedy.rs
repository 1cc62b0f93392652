//! What ends a cause, as a command that can be pasted.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::job::JobId;
use crate::limit::Limit;

/// An operator's verb with what it is about; its text is the command.
#[derive(Clone, Debug, PartialEq)]
pub enum Remedy {
    /// End the pause of a queue.
    ResumeQueue(String),
    /// End the pause of a kind.
    ResumeKind(String),
    /// Make a waiting job due now.
    RunNow(JobId),
    /// Start a worker for a queue, of a build that knows the job.
    StartWorker(String),
    /// Give a pool so many slots in each process.
    SetSlots(String, i32),
    /// Redrive a dead letter.
    Redrive(JobId),
    /// End a job, or ask it to stop.
    Cancel(JobId),
    /// Set a limit anew: more jobs at once, or a second.
    SetLimit(String, Limit),
    /// Close the breaker of a key.
    CloseBreaker(String),
    /// Go on with a campaign.
    ResumeCampaign(i64),
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("orderfleet ")?;
        match self {
            Self::ResumeQueue(name) => write!(f, "queues resume {}", quoted(name)),
            Self::ResumeKind(name) => write!(f, "queues resume --kind {}", quoted(name)),
            Self::RunNow(job) => write!(f, "jobs run {job}"),
            // A worker says for itself why it was started.
            Self::StartWorker(queue) => return write!(f, "worker --pool {}", quoted(queue)),
            Self::SetSlots(pool, slots) => write!(f, "queues slots {} {slots}", quoted(pool)),
            Self::Redrive(job) => write!(f, "dead redrive {job}"),
            Self::Cancel(job) => write!(f, "jobs cancel {job}"),
            Self::SetLimit(name, limit) => {
                write!(f, "limits set {}", quoted(name))?;
                option(f, "concurrency", limit.concurrency)?;
                option(f, "rate", limit.rate)?;
                option(f, "burst", limit.burst)?;
                option(f, "breaker-failures", limit.breaker_failures)?;
                option(f, "breaker-seconds", limit.breaker_seconds)
            }
            Self::CloseBreaker(key) => write!(f, "limits close-breaker {}", quoted(key)),
            Self::ResumeCampaign(id) => write!(f, "redrive resume {id}"),
        }?;
        f.write_str(" --reason mended")
    }
}

impl Serialize for Remedy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn option(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " --{name} {value}"))
}

/// A name as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    match !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        true => name.to_owned(),
        false => format!("'{}'", name.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted_whatever_the_name() {
        let resume = |name: &str| Remedy::ResumeQueue(name.to_owned()).to_string();
        assert_eq!(resume("stock"), "orderfleet queues resume stock --reason mended");
        assert_eq!(resume("a b; rm"), "orderfleet queues resume 'a b; rm' --reason mended");
        assert_eq!(resume("it's"), r"orderfleet queues resume 'it'\''s' --reason mended");
    }
}

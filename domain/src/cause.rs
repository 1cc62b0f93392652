//! Who did a thing: written beside every change, so that history can be read backwards.

/// The actor of a change and, if it was a job, which attempt of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// A principal's name, or `job:kind`.
    pub actor: String,
    /// The job's id and the fence of the attempt.
    pub job: Option<(i64, i64)>,
}

impl Cause {
    /// A change somebody asked for.
    pub fn actor(actor: impl Into<String>) -> Cause {
        Cause {
            actor: actor.into(),
            job: None,
        }
    }

    /// A change made by an attempt of a job.
    pub fn job(kind: &str, id: i64, fence: i64) -> Cause {
        Cause {
            actor: format!("job:{kind}"),
            job: Some((id, fence)),
        }
    }

    /// The job's id, as the column wants it.
    pub fn job_id(&self) -> Option<i64> {
        self.job.map(|(id, _)| id)
    }

    /// The attempt's fence, as the column wants it.
    pub fn fence(&self) -> Option<i64> {
        self.job.map(|(_, fence)| fence)
    }
}

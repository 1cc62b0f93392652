//! Every cause there is.

use serde::Serialize;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $weight:literal;)*) => {
        /// What sort of cause; its name in JSON never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The lower it is, the earlier a cause comes: somebody must act, another job must end, a time must come,
            /// there must be room.
            pub(super) fn weight(self) -> u8 {
                match self { $(Self::$name => $weight),* }
            }
        }
    };
}

codes! {
    /// Somebody paused its queue.
    QueuePaused = "queue_paused", 0;
    /// Somebody paused its kind.
    KindPaused = "kind_paused", 0;
    /// Its kind paused itself over a wrong installation.
    KindPausedItself = "kind_paused_itself", 0;
    /// No live worker serves its queue.
    NoWorker = "no_worker", 0;
    /// Workers serve its queue, but none knows its kind.
    KindUnknown = "kind_unknown", 0;
    /// Workers know its kind, but none reads its version.
    VersionUnknown = "version_unknown", 0;
    /// A dead letter keeps the turn of its group.
    GroupBlocked = "group_blocked", 0;
    /// The limit of its key or queue allows no job at all.
    LimitIsZero = "limit_is_zero", 0;
    /// An older job of its group has the turn.
    BehindInGroup = "behind_in_group", 1;
    /// It waits for other jobs to end.
    WaitsForJobs = "waits_for_jobs", 1;
    /// It is due later, and was never tried.
    Scheduled = "scheduled", 2;
    /// It failed and waits for its retry.
    Retry = "retry", 2;
    /// It asked to come back later.
    Snoozed = "snoozed", 2;
    /// The other side asked it to come back later.
    Throttled = "throttled", 2;
    /// There was trouble with the database; no try was used.
    DatabaseTrouble = "database_trouble", 2;
    /// It took its worker down while it ran alone, and runs alone again later.
    CrashedAlone = "crashed_alone", 2;
    /// What it depends on fails: the breaker of its key is open, or lets single jobs through.
    BreakerOpen = "breaker_open", 2;
    /// As many jobs of its key or queue have started as may in this time.
    Rate = "rate", 2;
    /// As many jobs of its key run as may.
    KeyFull = "key_full", 3;
    /// As many jobs of its queue run as may.
    QueueFull = "queue_full", 3;
    /// It is a suspect and waits for an empty worker.
    Suspect = "suspect", 3;
    /// Every slot of every worker that could run it is taken.
    SlotsBusy = "slots_busy", 3;
    /// It is due, and is claimed in its turn.
    InLine = "in_line", 4;
    /// Its worker stopped and handed it back.
    HandedBack = "handed_back", 5;
    /// Its worker died, and others took it back.
    Rescued = "rescued", 5;
    /// Somebody redrove it.
    Redriven = "redriven", 5;
    /// Those it waited for have ended, but not all well.
    Released = "released", 5;
    /// It undoes a step of a saga.
    UndoesStep = "undoes_step", 5;
    /// Its worker is silent or lost.
    WorkerSilent = "worker_silent", 0;
    /// It runs, and somebody has asked it to stop.
    CancelAsked = "cancel_asked", 1;
    /// It runs.
    Running = "running", 2;
    /// A campaign that has the dead letter is paused.
    CampaignPaused = "campaign_paused", 0;
    /// A campaign halted the cause of the dead letter.
    CampaignHalted = "campaign_halted", 0;
    /// A campaign is going to redrive the dead letter.
    CampaignRunning = "campaign_running", 0;
    /// It is a dead letter.
    Dead = "dead", 1;
    /// It was a step of a saga that has turned back since.
    SagaTurnedBack = "saga_turned_back", 2;
    /// As a dead letter it keeps the turn of its group.
    BlocksGroup = "blocks_group", 2;
    /// It completed.
    Completed = "completed", 0;
    /// It was discarded, by itself or by somebody.
    Discarded = "discarded", 0;
    /// Somebody cancelled it.
    Cancelled = "cancelled", 0;
    /// There was a job of that number, but nothing is left to tell.
    Forgotten = "forgotten", 0;
    /// No job has had that number yet.
    NeverEnqueued = "never_enqueued", 0;
}

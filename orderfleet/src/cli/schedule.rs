//! `orderfleet schedule …`.

use clap::{Args, Subcommand};

use super::{Because, Output};

/// `schedule [list|show|ticks|add|change|pause|resume|reset|remove|run]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "What a build lists is overridden by `change` and `pause`, and no deploy undoes that; `reset` takes the\n\
        override away. What was added by `add` is changed as it stands, and removed by `remove`.\n\n\
        CRON has five fields: minute, hour, day, month, weekday; or is @hourly, @daily, @weekly, @monthly, @yearly.\n\
        When the clocks change, a time of day ticks once: in the hour they skip right after it, in the hour they\n\
        repeat the first time. With * or / among its minutes or hours an expression follows real time instead."
)]
pub struct Schedule {
    #[command(subcommand)]
    pub action: Option<ScheduleAction>,

    #[command(flatten)]
    pub output: Output,
}

/// What can be done to the timetable.
#[derive(Debug, Subcommand)]
pub enum ScheduleAction {
    /// List the timetable (the default)
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one entry: its times, policies, override and next ticks
    Show {
        /// The entry's name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List what became of an entry's ticks, the latest first: fired, skipped or missed, and why
    Ticks {
        /// The entry's name
        name: String,
        /// How many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Add an entry that enqueues a job of some kind
    Add {
        /// What it is called: a to z, 0 to 9, _, - and .
        name: String,
        /// The kind of job
        #[arg(long, value_name = "KIND")]
        kind: String,
        /// Its payload, as a JSON object
        #[arg(long, value_name = "JSON", default_value = "{}")]
        args: String,
        /// When, in five fields
        #[arg(long, value_name = "CRON")]
        cron: String,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        because: Because,
    },
    /// Change an entry; new times count from now on
    Change {
        /// The entry's name
        name: String,
        /// When, in five fields
        #[arg(long, value_name = "CRON")]
        cron: Option<String>,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        because: Because,
    },
    /// Let an entry fire no more; what ticks meanwhile is skipped, and noted at the end
    Pause {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Let an entry fire again
    Resume {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Take an override away: the entry is again as the build lists it
    Reset {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Take an added entry off the timetable; the jobs it made go on
    Remove {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
    /// Run an entry now, paused or not
    Run {
        /// The entry's name
        name: String,
        #[command(flatten)]
        because: Because,
    },
}

/// How an entry of the timetable fires.
#[derive(Debug, Args, Clone)]
pub struct Policies {
    /// The zone of the times, such as Europe/Berlin (UTC for a new entry)
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,

    /// What happens to ticks nobody was there for: skip them, fire once, or fire all, 1000 at most (once for a new entry)
    #[arg(long, value_name = "POLICY", value_parser = ["skip", "once", "all"])]
    pub missed: Option<String>,

    /// What a tick does while an earlier run has not ended: allow it, skip it, or queue_one behind it (allow for a new entry)
    #[arg(long, value_name = "POLICY", value_parser = ["allow", "skip", "queue_one"])]
    pub overlap: Option<String>,

    /// Start jobs up to so many seconds after their tick, at random, 3600 at most (0 for a new entry)
    #[arg(long, value_name = "N")]
    pub jitter_seconds: Option<i32>,
}

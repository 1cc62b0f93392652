//! `orderfleet jobs …`, `dead …`, `redrive …` and `sagas …`.

use clap::{Args, Subcommand};

use super::{Because, Output};

/// `jobs [list|show|why|run|cancel]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Jobs {
    #[command(subcommand)]
    pub action: Option<JobsAction>,

    #[command(flatten)]
    pub list: JobsList,
}

/// What can be asked about jobs.
#[derive(Debug, Subcommand)]
pub enum JobsAction {
    /// List jobs, newest first (the default)
    List(JobsList),
    /// Show one job whole: arguments, attempts, failures, log
    Show {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Say why a job is not running, or why it ended as it did: as `orderfleet why`
    Why {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Make jobs due now that are scheduled, wait for a retry or were asked to come back later
    Run {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
    /// End jobs that wait, and ask those that run to stop: they do within a second, unless they end before
    Cancel {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
}

/// Which jobs to list.
#[derive(Debug, Args)]
pub struct JobsList {
    /// Only this queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,

    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// Only this state: available, scheduled, retryable, running, completed, discarded, cancelled or dead
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// `dead [list|causes|show|redrive|discard]`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Dead {
    #[command(subcommand)]
    pub action: Option<DeadAction>,

    #[command(flatten)]
    pub list: DeadList,
}

/// What can be done about dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadAction {
    /// List dead letters, newest first (the default)
    List(DeadList),
    /// Count dead letters by cause, the largest first: same kind, class, code and message, but for ids and numbers
    Causes(DeadList),
    /// Show one dead letter with its whole report
    Show {
        /// The job's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Try again, as the same job: it keeps its id and its keys
    Redrive {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
        /// New arguments, as a JSON object (one job only)
        #[arg(long, value_name = "JSON")]
        edit: Option<String>,
    },
    /// Give up on it for good
    Discard {
        /// The jobs' numbers
        #[arg(required = true)]
        ids: Vec<i64>,
        #[command(flatten)]
        because: Because,
    },
}

/// Which dead letters to list.
#[derive(Debug, Args)]
pub struct DeadList {
    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// `redrive [list|show|start|follow|pause|resume|cancel]`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "For example:\n  \
        orderfleet dead causes                                          what died of what\n  \
        orderfleet redrive start --cause 3f0c9a1b2d4e --dry-run         what would happen\n  \
        orderfleet redrive start --cause 3f0c9a1b2d4e --reason mended   ten first, then the rest, shown as it goes\n\n\
        The workers carry a campaign on, whoever started it. One letter is redriven with `orderfleet dead redrive ID`."
)]
pub struct Redrive {
    #[command(subcommand)]
    pub action: Option<RedriveAction>,

    #[command(flatten)]
    pub list: RedriveList,
}

/// What can be done about campaigns.
#[derive(Debug, Subcommand)]
pub enum RedriveAction {
    /// List campaigns, newest first (the default)
    List(RedriveList),
    /// Show one campaign: how far it is, and why it is there
    Show {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
    /// Start a campaign and follow it; exit 1 when it halts or is paused
    Start(Box<RedriveStart>),
    /// Show how far a campaign is until it ends; Ctrl-C leaves it running
    Follow {
        /// The campaign's number
        id: i64,
    },
    /// Redrive no more for now; what is in flight goes on
    Pause {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
    /// Go on after a pause; causes that halted begin again with a new canary
    Resume {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
    /// End a campaign; what it has not redriven stays dead
    Cancel {
        /// The campaign's number
        id: i64,
        #[command(flatten)]
        because: Because,
    },
}

/// How campaigns are listed.
#[derive(Debug, Args)]
pub struct RedriveList {
    /// How many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters to redrive, and how carefully.
#[derive(Debug, Args)]
pub struct RedriveStart {
    /// Only this cause, as `orderfleet dead causes` names it; repeat it for several
    #[arg(long = "cause", value_name = "CAUSE")]
    pub causes: Vec<String>,

    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,

    /// Only this queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,

    /// Only this class of failure
    #[arg(long, value_name = "CLASS")]
    pub error_class: Option<String>,

    /// Only this code of failure
    #[arg(long, value_name = "CODE")]
    pub error_code: Option<String>,

    /// Only this job and younger ones
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub from: Option<i64>,

    /// Only this job and older ones
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub to: Option<i64>,

    /// Change every payload: a JSON merge patch (RFC 7386)
    #[arg(long, value_name = "JSON")]
    pub patch: Option<String>,

    /// Change one field of every payload, such as address.city='"Leeds"'; null takes it away; repeat it for several
    #[arg(long = "set", value_name = "FIELD=JSON")]
    pub sets: Vec<String>,

    /// Leave out letters whose payload cannot be read, instead of refusing them all
    #[arg(long)]
    pub skip_unreadable: bool,

    /// Say what would happen, field by field, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// How many letters of each cause are tried first
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub canary: i32,

    /// A cause halts when a larger share of its jobs dies again, from 0 to under 1
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    pub failure_share: f64,

    /// After the canary: the share of how many jobs, the last that ended
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub failure_window: i32,

    /// Letters redriven a second, at most
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub per_second: f64,

    /// Jobs of the campaign at once, at most
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub in_flight_max: i32,

    /// Do not wait for its end
    #[arg(long)]
    pub detach: bool,

    /// Why; kept in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,

    /// Who acts; kept in the audit
    #[arg(long, env = "USER", default_value = "operator", value_name = "NAME")]
    pub actor: String,

    #[command(flatten)]
    pub output: Output,
}

/// Settings of `orderfleet sagas`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        orderfleet sagas --state compensation_failed   those that wait for somebody\n  \
        orderfleet sagas show 12                       its steps, what undoes them, and the job of each\n\n\
        A compensation that is dead is redriven or discarded as any job: `orderfleet dead redrive JOB`."
)]
pub struct Sagas {
    #[command(subcommand)]
    pub action: Option<SagasAction>,

    #[command(flatten)]
    pub list: SagasList,
}

/// What can be asked about sagas.
#[derive(Debug, Subcommand)]
pub enum SagasAction {
    /// List sagas, newest first (the default)
    List(SagasList),
    /// Show one saga: its steps, what undoes them, and how each ended
    Show {
        /// The saga's number
        id: i64,
        #[command(flatten)]
        output: Output,
    },
}

/// Which sagas to list.
#[derive(Debug, Args)]
pub struct SagasList {
    /// Only of this sort
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Only about this
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,

    /// Only in this state
    #[arg(long, value_name = "STATE", value_parser = queue::saga::STATES)]
    pub state: Option<String>,

    /// How many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1000))]
    pub limit: i64,

    #[command(flatten)]
    pub output: Output,
}

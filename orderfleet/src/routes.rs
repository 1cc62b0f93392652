//! `orderfleet routes`: a warehouse's day is planned and shown in [`plans`]; here published problems are planned, so that
//! anybody can judge the solver.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use domain::routes::checker;
use domain::routes::instance::Instance;
use domain::routes::problem::Solution;
use domain::routes::solver::{self, Budget, Control, Progress};

use crate::plans;

/// Settings of `routes`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Routes {
    /// What to do.
    #[command(subcommand)]
    pub action: RoutesAction,
}

/// What can be done about routes.
#[derive(Debug, Subcommand)]
pub enum RoutesAction {
    /// Have a warehouse's day planned, and follow it
    Plan(plans::Plan),
    /// Show a plan: its vehicles, and who is on no route, and why
    Show(plans::Show),
    /// Draw or print a plan: GeoJSON, polylines, a map, a strip of time, the drivers' list
    Export(plans::Export),
    /// Plan the routes of a published problem, on one core, and print them as its solutions are published
    Solve(Solve),
}

/// Settings of `routes solve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads Solomon's and Gehring and Homberger's .txt files, and VRPLIB's .vrp: capacities, windows, many depots,\n\
    the longest duration of a route. Only the way costs anything, and it is counted as for the best known solutions:\n\
    in tenths and truncated with windows, in whole numbers and rounded without, in thousandths with many depots.\n\n\
    Examples:\n  \
        orderfleet routes solve RC208.txt --seconds 10 --seed 1\n  \
        orderfleet routes solve X-n200-k36.vrp --iterations 100000   the same routes again on every machine"
)]
pub struct Solve {
    /// The problem
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// How long to search, reading and checking included; with --iterations only an upper bound
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<Duration>,

    /// Where the random numbers start
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// How many rounds to search, however long they take: the same seed and rounds give the same routes
    #[arg(long, value_name = "N")]
    pub iterations: Option<u64>,
}

/// How long a search is without a word.
const SECONDS_DEFAULT: Duration = Duration::from_secs(10);
/// The longest search.
const SECONDS_MAX: f64 = 86_400.0;
/// What is left of the time for checking and printing.
const PRINTING: Duration = Duration::from_millis(10);
/// The largest file.
const BYTES_MAX: u64 = 16 << 20;

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    match seconds > 0.0 && seconds <= SECONDS_MAX {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("must be above 0 and at most {SECONDS_MAX}")),
    }
}

/// `orderfleet routes …`.
pub async fn routes(args: Routes) -> anyhow::Result<()> {
    match args.action {
        RoutesAction::Plan(args) => plans::plan(args).await,
        RoutesAction::Show(args) => plans::show(args).await,
        RoutesAction::Export(args) => plans::export(args).await,
        RoutesAction::Solve(args) => solve(&args),
    }
}

fn solve(args: &Solve) -> anyhow::Result<()> {
    let started = Instant::now();
    let name = args.file.display();
    let size = std::fs::metadata(&args.file)
        .with_context(|| format!("reading {name}"))?
        .len();
    if size > BYTES_MAX {
        bail!("{name} has {size} bytes; at most {BYTES_MAX} are read");
    }
    let text = std::fs::read_to_string(&args.file).with_context(|| format!("reading {name}"))?;
    let instance = Instance::parse(&text).with_context(|| format!("reading {name}"))?;
    let time = match (args.seconds, args.iterations) {
        (None, None) => Some(SECONDS_DEFAULT),
        (seconds, _) => seconds,
    };
    let clock = Clock {
        started,
        time: time.map(|time| time.saturating_sub(PRINTING)),
        is_measure: args.iterations.is_none(),
    };
    let budget = Budget {
        iterations: args.iterations.unwrap_or(u64::MAX),
        seed: args.seed,
    };
    let solution = solver::solve(&instance.problem, &budget, &clock);
    check(&instance, &solution)?;
    print!("{}", instance.print(&solution));
    eprintln!(
        "{} rounds in {:.3} s, seed {}, {} vehicles",
        solution.iterations,
        started.elapsed().as_secs_f64(),
        args.seed,
        solution.routes.len()
    );
    match solution.unassigned.first() {
        None => Ok(()),
        Some((stop, reason)) => bail!(
            "{} clients are on no route; the first is {}: {reason:?}",
            solution.unassigned.len(),
            instance.problem.point(*stop)
        ),
    }
}

/// Nothing is printed that the checker does not find valid, at the cost it counts.
fn check(instance: &Instance, solution: &Solution) -> anyhow::Result<()> {
    let violations = checker::check(&instance.problem, &solution.routes, &solution.unassigned);
    if let Some(violation) = violations.first() {
        bail!("the solver made an invalid plan, which is a mistake of ours: {violation}");
    }
    let cost = checker::cost(&instance.problem, &solution.routes);
    if cost != solution.cost {
        bail!(
            "the solver counted {} where the checker counts {cost}, which is a mistake of ours",
            solution.cost
        );
    }
    Ok(())
}

/// Stops a search when its time is over; and is the measure it cools by, unless rounds are.
struct Clock {
    started: Instant,
    time: Option<Duration>,
    is_measure: bool,
}

impl Clock {
    fn share(&self) -> f64 {
        self.time.map_or(0.0, |time| {
            self.started.elapsed().as_secs_f64() / time.as_secs_f64().max(1e-9)
        })
    }
}

impl Control for Clock {
    fn tick(&self, _: &Progress) -> ControlFlow<()> {
        match self.time {
            Some(time) if self.started.elapsed() >= time => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn share_q32(&self) -> Option<u64> {
        self.is_measure.then(|| (self.share() * 4_294_967_296.0) as u64)
    }
}

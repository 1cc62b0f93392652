//! The executable's parts. `orderfleet` is the only one there is; each subcommand is a role.
//!
//! In reading order:
//!
//! 1. [`cli`] is the command tree with its help; [`run`] sends each command to its module.
//! 2. [`settings`], [`logging`], [`database`] and [`signals`] are what every role starts with; [`spans`] go to a collector by
//!    [`otlp`], if one is set.
//! 3. [`roles`] are the processes of a fleet: the API, the workers, the two simulators.
//! 4. [`up`] starts all of them as real child processes and keeps them running.
//! 5. [`import`] sends orders through the API, as a [`client`] would; [`drain`] waits until the fleet is idle.
//! 6. [`check_deploy`] is the gate of a new build; [`verify`] checks the invariants from outside; [`doctor`] says what is wrong
//!    with an installation.
//! 7. [`mod@why`] says why a job or an order is where it is; [`operator`] lists and mends: jobs, dead letters, queues, the
//!    timetable; [`redrive`] dead letters in bulk; [`sagas`]; [`sellers`]; [`limits`]; [`webhooks`], [`partners`] and the
//!    [`secrets`] of both. [`table`] prints.
//! 8. [`plans`] has a day planned, and shows and draws its plan; [`routes`] plans published problems.

pub mod check_deploy;
pub mod cli;
pub mod client;
pub mod database;
pub mod doctor;
pub mod drain;
pub mod import;
pub mod limits;
pub mod logging;
pub mod migrate;
pub mod operator;
pub mod otlp;
pub mod partners;
pub mod plans;
pub mod redrive;
pub mod roles;
pub mod routes;
pub mod sagas;
pub mod secrets;
pub mod sellers;
pub mod settings;
pub mod signals;
pub mod spans;
pub mod table;
pub mod up;
pub mod verify;
pub mod webhooks;
pub mod why;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::CommandFactory;

use cli::{Cli, Command};

/// Carries out a command; its exit code is 1 when what was asked does not hold, 2 when a deploy would strand jobs.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(args) => up::run(args).await?,
        Command::Api(args) => roles::api(args).await?,
        Command::Worker(args) => roles::worker(args).await?,
        Command::GatewaySimulator(args) => roles::gateway_simulator(args).await?,
        Command::WebhookReceiver(args) => roles::webhook_receiver(args).await?,
        Command::Migrate(args) => migrate::run(args).await?,
        Command::Import(args) => import::run(args).await?,
        Command::Why(args) => why::run(args).await?,
        Command::Jobs(args) => operator::jobs(args).await?,
        Command::Dead(args) => operator::dead(args).await?,
        Command::Sagas(args) => sagas::sagas(args).await?,
        Command::Sellers(args) => sellers::sellers(args).await?,
        Command::Orphans(args) => sellers::orphans(args).await?,
        Command::Queues(args) => operator::queues(args).await?,
        Command::Limits(args) => limits::limits(args).await?,
        Command::Routes(args) => routes::routes(args).await?,
        Command::Schedule(args) => operator::schedule(args).await?,
        Command::Redrive(args) => {
            let is_well = redrive::redrive(args).await?;
            return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Drain(args) => return drained(&args).await,
        Command::Verify(args) => return verified(&args).await,
        Command::CheckDeploy(args) => return check_deploy::run(args).await,
        Command::Webhooks(args) => webhooks::webhooks(args).await?,
        Command::Partners(args) => partners::partners(args).await?,
        Command::Secrets(args) => return secrets::secrets(args).await,
        Command::Doctor(args) => return doctor::run(args).await,
        Command::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "orderfleet", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn drained(args: &cli::Drain) -> anyhow::Result<ExitCode> {
    let pool = database::pool("orderfleet drain", 1).await?;
    let left = drain::drain(&pool, Duration::from_secs(args.timeout)).await?;
    let lines: Vec<String> = left.iter().map(|reason| format!("{reason}\n")).collect();
    table::say(&lines.concat())?;
    Ok(if left.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn verified(args: &cli::Verify) -> anyhow::Result<ExitCode> {
    let records = verify::Records::read(args.ledger.as_deref(), args.receiver.as_deref())?;
    let mut conn = database::connect("orderfleet verify").await?;
    let checks = verify::verify(&mut conn, &records).await?;
    match args.output.json {
        true => table::say(&format!(
            "{}\n",
            serde_json::to_string_pretty(&checks).context("writing JSON")?
        ))?,
        false => table::say(&checks.iter().map(|check| check.line() + "\n").collect::<String>())?,
    }
    let is_violated = checks.iter().any(verify::Check::is_violated);
    Ok(if is_violated {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

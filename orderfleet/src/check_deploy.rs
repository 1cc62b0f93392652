//! Whether this build may take over: reads every stored payload with its own kinds, and lists what would be stranded.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use indicatif::ProgressBar;
use queue::backlog::{self, Backlog, Stranded};
use serde::Serialize;

use crate::table::{self, Table};
use crate::{cli, database};

/// The exit code when something would be stranded. 1 is for a check that could not be made.
const WOULD_STRAND: u8 = 2;

/// What is printed as JSON.
#[derive(Serialize)]
struct Report<'a> {
    /// Whether this build may take over.
    is_safe: bool,
    #[serde(flatten)]
    backlog: &'a Backlog,
}

/// `orderfleet check-deploy`.
pub async fn run(args: cli::CheckDeploy) -> anyhow::Result<ExitCode> {
    let mut conn = database::connect("orderfleet check-deploy").await?;
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let backlog = backlog::check(&mut conn, &jobs::catalogue(), |read| {
        if let Some(bar) = &bar {
            bar.set_message(format!("{read} payloads read"));
            bar.tick();
        }
    })
    .await
    .context("reading what is stored")?;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }

    let is_safe = backlog.stranded_count(!args.allow_dead) == 0;
    match args.output.json {
        true => {
            let report = Report {
                is_safe,
                backlog: &backlog,
            };
            let json = serde_json::to_string_pretty(&report).context("writing JSON")?;
            table::say(&format!("{json}\n"))?;
        }
        false => {
            if !backlog.stranded.is_empty() {
                table::say(&stranded_table(&backlog.stranded).text())?;
            }
            table::say(&words(&backlog, is_safe))?;
        }
    }
    Ok(if is_safe {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(WOULD_STRAND)
    })
}

fn words(backlog: &Backlog, is_safe: bool) -> String {
    let read: u64 = backlog.read.values().sum();
    let stranded = backlog.stranded_count(true);
    match (is_safe, stranded) {
        (true, 0) => format!("safe: this build can run all {read} payloads\n"),
        (true, dead) => format!("safe: of {read} payloads only {dead} dead letters cannot be redriven by this build\n"),
        (false, _) => format!("NOT SAFE: {stranded} of {read} payloads would be stranded\n"),
    }
}

fn stranded_table(stranded: &[Stranded]) -> Table {
    let mut table = Table::new(&["WHERE", "QUEUE", "KIND", "VERSION", "COUNT", "FAULT", "SUCH AS"]);
    for one in stranded {
        table.row([
            name(&one.place),
            one.queue.clone(),
            one.kind.clone(),
            one.version.to_string(),
            one.count.to_string(),
            format!("{}: {}", name(&one.fault), one.error),
            one.samples.join(", "),
        ]);
    }
    table
}

/// What something is called in JSON.
fn name(word: &impl Serialize) -> String {
    let name = serde_json::to_value(word).unwrap_or_default();
    name.as_str().unwrap_or_default().replace('_', " ")
}

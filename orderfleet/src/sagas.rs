//! `orderfleet sagas …`: steps that are undone in reverse when a later one fails.

use anyhow::Context;
use queue::saga::{self, Saga, SagaFilter, SagaLine};

use crate::cli::{self, SagasAction};
use crate::operator::{connect, moment};
use crate::table::{self, Table};

/// Carries out `orderfleet sagas …`.
pub async fn sagas(args: cli::Sagas) -> anyhow::Result<()> {
    let mut conn = connect().await?;
    match args.action.unwrap_or(SagasAction::List(args.list)) {
        SagasAction::List(list) => {
            let filter = SagaFilter {
                name: list.name,
                key: list.key,
                state: list.state,
                before: None,
                limit: list.limit,
            };
            let sagas = saga::sagas(&mut conn, &filter).await.context("listing sagas")?;
            table::print(list.output.json, &sagas, |sagas| lines(sagas))
        }
        SagasAction::Show { id, output } => {
            let saga = saga::saga(&mut conn, id).await.context("reading the saga")?;
            let saga = saga.with_context(|| {
                format!("there is no saga {id}: `orderfleet sagas` lists them; ended ones are kept for thirty days")
            })?;
            table::print(output.json, &saga, show)
        }
    }
}

fn lines(sagas: &[SagaLine]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "KEY", "STATE", "STEPS", "FAILED", "BEGAN", "ENDED"]);
    for saga in sagas {
        table.row([
            saga.id.to_string(),
            saga.name.clone(),
            saga.key.clone(),
            saga.state.clone(),
            format!("{}/{}", saga.steps_completed, saga.steps),
            saga.failed_step.map_or_else(String::new, |step| step.to_string()),
            moment(saga.created_at),
            saga.ended_at.map_or_else(String::new, moment),
        ]);
    }
    table
}

fn show(saga: &Saga) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("id", saga.id.to_string());
    line("name", saga.name.clone());
    line("key", saga.key.clone());
    line("state", saga.state.clone());
    if let Some(step) = saga.failed_step {
        line("failed step", step.to_string());
    }
    line("began", moment(saga.created_at));
    if let Some(ended_at) = saga.ended_at {
        line("ended", moment(ended_at));
    }
    for job in &saga.jobs {
        let name = if job.undo { "undo" } else { "step" };
        let job_id = job.job_id.map_or_else(String::new, |id| format!(", job {id}"));
        let end = match (&job.outcome, job.job_id) {
            (Some(outcome), _) => outcome,
            (None, Some(_)) => "under way",
            (None, None) => "not enqueued",
        };
        line(&format!("{name} {}", job.step), format!("{}: {end}{job_id}", job.kind));
    }
    table
}

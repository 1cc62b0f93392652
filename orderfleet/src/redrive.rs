//! `orderfleet redrive …`: dead letters in bulk. A campaign is carried on by the workers; here it is started and followed.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use queue::JobId;
use queue::campaign::{self, CampaignView, Plan, Preview, Selection};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use crate::cli::{self, RedriveAction};
use crate::operator::{connect, moment};
use crate::table::{self, Table};

/// How often a campaign that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(250);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Carries out `orderfleet redrive …`; false when the campaign that was followed did not finish.
pub async fn redrive(args: cli::Redrive) -> anyhow::Result<bool> {
    let mut conn = connect().await?;
    match args.action.unwrap_or(RedriveAction::List(args.list)) {
        RedriveAction::List(list) => {
            let campaigns = campaign::campaigns(&mut conn, None, list.limit)
                .await
                .context("listing campaigns")?;
            table::print(list.output.json, &campaigns, campaigns_table)?;
            Ok(true)
        }
        RedriveAction::Show { id, output } => {
            let campaign = see(&mut conn, id).await?;
            table::print(output.json, &campaign, show)?;
            Ok(true)
        }
        RedriveAction::Start(start) => begin(&mut conn, *start).await,
        RedriveAction::Follow { id } => follow(&mut conn, id).await,
        RedriveAction::Pause { id, because } => {
            campaign::pause(&mut conn, id, &because.actor, &because.reason).await?;
            table::say(&format!("paused campaign {id}; what is in flight goes on\n"))?;
            Ok(true)
        }
        RedriveAction::Resume { id, because } => {
            campaign::resume(&mut conn, id, &because.actor, &because.reason).await?;
            table::say(&format!("resumed campaign {id}\n"))?;
            Ok(true)
        }
        RedriveAction::Cancel { id, because } => {
            campaign::cancel(&mut conn, id, &because.actor, &because.reason).await?;
            table::say(&format!(
                "cancelled campaign {id}; what it has not redriven stays dead\n"
            ))?;
            Ok(true)
        }
    }
}

async fn begin(conn: &mut PgConnection, start: cli::RedriveStart) -> anyhow::Result<bool> {
    let plan = plan(&start)?;
    let catalogue = jobs::catalogue();
    if start.dry_run {
        let preview = campaign::preview(conn, &catalogue, &plan)
            .await
            .context("looking at what would be redriven")?;
        table::print(start.output.json, &preview, show_preview)?;
        return Ok(true);
    }
    let Some(reason) = &start.reason else {
        bail!("--reason is missing: say what was mended, or ask for --dry-run");
    };
    let id = match campaign::start(conn, &catalogue, &plan, &start.actor, reason).await {
        Ok(id) => id,
        Err(campaign::Error::Unreadable { count, first }) => {
            let lines: Vec<String> = first
                .iter()
                .map(|letter| {
                    format!(
                        "  job {} ({}): at {}: {}",
                        letter.id, letter.kind, letter.why.path, letter.why.error
                    )
                })
                .collect();
            bail!(
                "{count} payloads could not be read:\n{}\nmend them with --patch or --set, or leave them out with --skip-unreadable",
                lines.join("\n")
            );
        }
        Err(error) => return Err(error).context("starting the campaign"),
    };
    table::say(&format!("started campaign {id}\n"))?;
    match start.detach {
        true => Ok(true),
        false => follow(conn, id).await,
    }
}

fn plan(start: &cli::RedriveStart) -> anyhow::Result<Plan> {
    let mut patch: Option<Value> = start
        .patch
        .as_deref()
        .map(serde_json::from_str)
        .transpose()
        .context("--patch is not JSON")?;
    for set in &start.sets {
        let target = patch.get_or_insert_with(|| Value::Object(Map::new()));
        set_field(target, set)?;
    }
    Ok(Plan {
        selection: Selection {
            causes: start.causes.clone(),
            kind: start.kind.clone(),
            queue: start.queue.clone(),
            error_class: start.error_class.clone(),
            error_code: start.error_code.clone(),
            from: start.from.map(JobId),
            to: start.to.map(JobId),
        },
        patch,
        skip_unreadable: start.skip_unreadable,
        canary: start.canary,
        failure_share: start.failure_share,
        failure_window: start.failure_window,
        per_second: start.per_second,
        in_flight_max: start.in_flight_max,
    })
}

/// `address.city="Leeds"` becomes part of the merge patch.
fn set_field(patch: &mut Value, set: &str) -> anyhow::Result<()> {
    let usage = || format!("--set {set}: must be FIELD=JSON, such as address.city='\"Leeds\"' or attempts=3");
    let (path, json) = set.split_once('=').with_context(usage)?;
    let value: Value = serde_json::from_str(json).with_context(usage)?;
    let mut place = patch;
    for name in path.split('.') {
        if name.is_empty() {
            bail!(usage());
        }
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[name];
    }
    *place = value;
    Ok(())
}

async fn see(conn: &mut PgConnection, id: i64) -> anyhow::Result<CampaignView> {
    campaign::campaign(conn, id)
        .await
        .context("reading the campaign")?
        .with_context(|| format!("there is no campaign {id}: `orderfleet redrive` lists them"))
}

/// Shows how far a campaign is until nothing more comes of it; Ctrl-C leaves it running.
async fn follow(conn: &mut PgConnection, id: i64) -> anyhow::Result<bool> {
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {wide_msg}") {
            bar.set_style(style);
        }
        bar
    });
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut said: Option<Instant> = None;
    loop {
        let view = see(conn, id).await?;
        let counts = view.counts;
        let letters = counts.waiting + counts.in_flight + ended(&view);
        if let Some(bar) = &bar {
            bar.set_length(letters.unsigned_abs());
            bar.set_position(ended(&view).unsigned_abs());
            bar.set_message(view.why.join("; "));
        } else if said.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            said = Some(Instant::now());
            eprintln!("{} of {letters}: {}", ended(&view), view.why.join("; "));
        }
        if view.ended_at.is_some() || view.state == "paused" {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            table::say(&show(&view).text())?;
            return Ok(view.state == "finished");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = &mut interrupted => {
                if let Some(bar) = &bar {
                    bar.finish_and_clear();
                }
                table::say(&format!(
                    "campaign {id} goes on without you: `orderfleet redrive follow {id}` shows it again, \
                     `orderfleet redrive pause {id} --reason …` stops it\n"
                ))?;
                return Ok(true);
            }
        }
    }
}

fn ended(view: &CampaignView) -> i64 {
    let counts = view.counts;
    counts.completed + counts.died + counts.given_up + counts.skipped
}

fn campaigns_table(campaigns: &Vec<CampaignView>) -> Table {
    let mut table = Table::new(&[
        "ID",
        "STATE",
        "STARTED",
        "BY",
        "WAITING",
        "IN FLIGHT",
        "COMPLETED",
        "DIED",
        "SKIPPED",
        "WHY",
    ]);
    for campaign in campaigns {
        let counts = campaign.counts;
        table.row([
            campaign.id.to_string(),
            campaign.state.clone(),
            moment(campaign.created_at),
            campaign.actor.clone(),
            counts.waiting.to_string(),
            counts.in_flight.to_string(),
            counts.completed.to_string(),
            counts.died.to_string(),
            counts.skipped.to_string(),
            campaign.why.first().cloned().unwrap_or_default(),
        ]);
    }
    table
}

fn show(view: &CampaignView) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("id", view.id.to_string());
    line("state", view.state.clone());
    for why in &view.why {
        line("why", why.clone());
    }
    line(
        "started",
        format!("{} by {}: {}", moment(view.created_at), view.actor, view.reason),
    );
    if let Some(ended_at) = view.ended_at {
        line("ended", moment(ended_at));
    }
    line("selection", view.selection.to_string());
    if let Some(patch) = &view.patch {
        line("patch", patch.to_string());
    }
    line(
        "care",
        format!(
            "{} of each cause first; halts over {} dead of 100; at most {} a second, {} in flight",
            view.canary,
            view.failure_share * 100.0,
            view.per_second,
            view.in_flight_max
        ),
    );
    line("letters", counts(view.counts));
    for cause in &view.causes {
        line(
            &format!("cause {}", cause.cause),
            format!(
                "{}: {} {}: {}",
                cause.state, cause.kind, cause.error_code, cause.pattern
            ),
        );
        line("", counts(cause.counts));
    }
    for skip in &view.skips {
        line(
            "skipped",
            format!("{}: {} (job {:?} …)", skip.letters, skip.because, skip.sample),
        );
    }
    table
}

fn counts(counts: campaign::Counts) -> String {
    format!(
        "{} waiting, {} in flight, {} completed, {} died again, {} given up, {} skipped",
        counts.waiting, counts.in_flight, counts.completed, counts.died, counts.given_up, counts.skipped
    )
}

fn show_preview(preview: &Preview) -> Table {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("letters", preview.letters.to_string());
    for cause in &preview.causes {
        line(
            &format!("cause {}", cause.cause),
            format!(
                "{}: {} {}: {}",
                cause.letters, cause.kind, cause.error_code, cause.pattern
            ),
        );
    }
    line("unreadable", preview.unreadable.to_string());
    for letter in &preview.unreadable_sample {
        line(
            &format!("job {}", letter.id),
            format!("at {}: {}", letter.why.path, letter.why.error),
        );
    }
    line("changed by the patch", preview.changed.to_string());
    for change in &preview.changes {
        for field in &change.fields {
            let side = |value: &Option<Value>| value.as_ref().map_or_else(|| "(none)".to_owned(), Value::to_string);
            line(
                &format!("job {}", change.id),
                format!("{}: {} → {}", field.path, side(&field.before), side(&field.after)),
            );
        }
    }
    line("unique keys taken by others", preview.keys_taken.to_string());
    for taken in &preview.keys_taken_sample {
        line(
            &format!("job {}", taken.id),
            format!("job {} has {}", taken.by, taken.key),
        );
    }
    line(
        "groups",
        format!("{} {}", preview.groups, preview.groups_sample.join(", ")),
    );
    line("takes", format!("{:.0} s or more", preview.seconds_min));
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_set_become_a_merge_patch() {
        let mut patch = json!({"a": 1});
        for set in ["b.c=\"x\"", "b.d=null", "e=[1]"] {
            assert!(set_field(&mut patch, set).is_ok(), "{set}");
        }
        assert_eq!(patch, json!({"a": 1, "b": {"c": "x", "d": null}, "e": [1]}));
        for wrong in ["a", "a=x", "=1", "a..b=1"] {
            assert!(set_field(&mut patch, wrong).is_err(), "{wrong}");
        }
    }
}

//! `orderfleet routes plan|show|export`: a warehouse's day planned, looked at, and taken along. They speak to the database,
//! so they also work while the API does not.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{Days, NaiveDate};
use clap::{Args, ValueEnum};
use domain::ids::PlanId;
use domain::routes::markup::{clock, kilograms, kilometres};
use domain::routes::sheet::{self, Sheet};
use domain::routes::store::Day;
use domain::routes::{self, gantt, geojson, list, map, plan, polyline};
use jobs::plan_routes;
use queue::inspect::{self, JobView};
use queue::why;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::cli::Output;
use crate::database;
use crate::table::{self, Table};

/// How often a job is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// After so long without a start it is said why.
const WHY_AFTER: Duration = Duration::from_secs(12);
/// What is shown of a job's progress, in characters.
const PROGRESS_MAX: usize = 120;

/// Settings of `routes plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the workers for it, as the API would, and follows the job: it is due within six seconds, so that orders\n\
    that come together are planned together. Planning a day again changes nothing unless something has changed.\n\n\
    For example:\n  \
        orderfleet routes plan MAIN tomorrow\n  \
        orderfleet routes plan MAIN 2026-11-23 --detach\n\n\
    Exit 1 when planning fails, or takes longer than --timeout; the job goes on then."
)]
pub struct Plan {
    /// The warehouse: its code or its id
    #[arg(value_name = "DEPOT")]
    pub depot: String,

    /// The day: 2026-11-23, today or tomorrow (UTC)
    #[arg(value_name = "DATE", value_parser = when)]
    pub date: When,

    /// Do not wait for the plan
    #[arg(long)]
    pub detach: bool,

    /// How long to wait, in seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,

    /// How it is printed
    #[command(flatten)]
    pub output: Output,
}

/// Settings of `routes show`.
#[derive(Debug, Args)]
#[command(after_help = "For example:\n  \
        orderfleet routes show MAIN/tomorrow                            the plan that counts\n  \
        orderfleet routes show MAIN/2026-11-23 --stops                  with every stop\n  \
        orderfleet routes show 01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77     this one, superseded or not")]
pub struct Show {
    /// The plan: its id, or DEPOT/DATE for the one of that day that counts
    #[arg(value_name = "PLAN", value_parser = which)]
    pub plan: Which,

    /// List every stop too
    #[arg(long)]
    pub stops: bool,

    /// How it is printed
    #[command(flatten)]
    pub output: Output,
}

/// Settings of `routes export`.
#[derive(Debug, Args)]
#[command(
    after_help = "The pictures need nothing else: no tiles, no scripts. list.html prints a vehicle to a sheet.\n\n\
    For example:\n  \
        orderfleet routes export MAIN/tomorrow --format map.svg --output map.svg\n  \
        orderfleet routes export MAIN/2026-11-23 --format list | lp"
)]
pub struct Export {
    /// The plan: its id, or DEPOT/DATE for the one of that day that counts
    #[arg(value_name = "PLAN", value_parser = which)]
    pub plan: Which,

    /// What to make of it
    #[arg(long, value_name = "FORMAT")]
    pub format: Format,

    /// Where to write it; printed without
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Replace FILE if it is there
    #[arg(long, requires = "output")]
    pub force: bool,
}

/// What a plan can be exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for each route, a point for each stop
    Geojson,
    /// Encoded polylines, with five decimals and with six
    Polyline,
    /// A map
    #[value(name = "map.svg")]
    Map,
    /// What each vehicle does when, and the windows of its stops
    #[value(name = "gantt.svg")]
    Gantt,
    /// The drivers' list, as text
    List,
    /// The drivers' list, as a page to print
    #[value(name = "list.html")]
    Page,
}

/// A day, said in one way or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So many days after today, by the database's clock.
    In(u64),
    /// That day.
    On(NaiveDate),
}

fn when(text: &str) -> Result<When, &'static str> {
    match text {
        "today" => Ok(When::In(0)),
        "tomorrow" => Ok(When::In(1)),
        _ if text.len() == 10 => text.parse().map(When::On).map_err(|_| "there is no such day"),
        _ => Err("write a day like 2026-11-23, today or tomorrow"),
    }
}

/// A plan, said in one way or another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// That one.
    Id(PlanId),
    /// The one of that warehouse's day that counts.
    Of(String, When),
}

fn which(text: &str) -> Result<Which, &'static str> {
    if let Ok(id) = text.parse() {
        return Ok(Which::Id(id));
    }
    match text.rsplit_once('/') {
        Some((depot, date)) if !depot.is_empty() => Ok(Which::Of(depot.to_owned(), when(date)?)),
        _ => Err("neither a plan's id nor DEPOT/DATE, such as MAIN/2026-11-23 or MAIN/tomorrow"),
    }
}

/// `orderfleet routes plan`.
pub async fn plan(args: Plan) -> anyhow::Result<()> {
    let mut conn = database::connect("orderfleet routes").await?;
    let day = day_of(&mut conn, &args.depot, args.date).await?;
    let today = plan::today(&mut conn).await?;
    if day.1 < today || day.1 > today + Days::new(routes::DAYS_AHEAD_MAX as u64) {
        bail!(
            "{} is not a day that can be planned: from {today} to {} days later",
            day.1,
            routes::DAYS_AHEAD_MAX
        );
    }
    let mut tx = conn.begin().await.context("asking for the plan")?;
    plan_routes::request(&mut tx, &[day])
        .await
        .context("asking for the plan")?;
    let jobs = plan_routes::live(&mut tx, day).await.context("reading its job")?;
    tx.commit().await.context("asking for the plan")?;
    if args.detach {
        let jobs: Vec<i64> = jobs.into_iter().map(|job| job.0).collect();
        let asked = json!({"warehouse_id": day.0, "date": day.1, "jobs": jobs});
        return match args.output.json {
            true => table::say(&format!("{asked:#}\n")),
            false => table::say(&format!(
                "asked for {} on {}: `orderfleet jobs show {}`\n",
                args.depot,
                day.1,
                jobs.last().unwrap_or(&0)
            )),
        };
    }
    follow(&mut conn, day, Duration::from_secs(args.timeout)).await?;
    match sheet::of_day(&mut conn, day).await.context("reading the plan")? {
        Some(sheet) => present(&sheet, args.output.json, false),
        None if args.output.json => table::say("null\n"),
        None => table::say("there is nothing to plan that day\n"),
    }
}

/// Waits until no job is to plan the day any more, and says on stderr how it goes.
async fn follow(conn: &mut PgConnection, day: Day, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let (mut said, mut seen, mut has_said_why) = (String::new(), Vec::new(), false);
    loop {
        let live = plan_routes::live(conn, day).await.context("reading the job")?;
        let Some(first) = live.first().copied() else { break };
        seen.extend(
            live.iter()
                .filter(|job| !seen.contains(*job))
                .copied()
                .collect::<Vec<_>>(),
        );
        if let Some(job) = inspect::job(conn, first).await.context("reading the job")? {
            let line = status(&job);
            if line != said {
                eprintln!("{line}");
                said = line;
            }
            if job.state != "running" && started.elapsed() > WHY_AFTER && !has_said_why {
                has_said_why = true;
                let why = why::why(conn, first, &jobs::catalogue().kinds())
                    .await
                    .context("asking why")?;
                for cause in why.causes {
                    eprintln!("  {}", cause.text);
                }
            }
        }
        if started.elapsed() > patience {
            bail!(
                "not planned after {} s; the job goes on: `orderfleet why {first}` says where it is",
                patience.as_secs()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    for id in seen {
        let job = inspect::job(conn, id).await.context("reading the job")?;
        match job {
            Some(job) if job.state == "dead" => {
                bail!("planning failed; the report is in `orderfleet dead show {id}`")
            }
            Some(job) if job.state != "completed" => bail!("job {id} was {}", job.state),
            _ => {}
        }
    }
    Ok(())
}

fn status(job: &JobView) -> String {
    let progress = job.progress.as_ref().map(progress).unwrap_or_default();
    let waiting = match &job.waiting {
        Some(waiting) if job.state != "running" => format!(" ({waiting})"),
        _ => String::new(),
    };
    format!("job {} is {}{waiting}{progress}", job.id, job.state).replace(char::is_control, " ")
}

/// The plain members of a job's progress.
fn progress(progress: &Value) -> String {
    let members = progress.as_object().into_iter().flatten();
    let plain = members.filter(|(_, value)| value.is_number() || value.is_string() || value.is_boolean());
    let words: Vec<String> = plain.map(|(name, value)| format!("{name} {value}")).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.join(", ")).chars().take(PROGRESS_MAX).collect(),
    }
}

/// `orderfleet routes show`.
pub async fn show(args: Show) -> anyhow::Result<()> {
    present(&read(args.plan).await?, args.output.json, args.stops)
}

/// `orderfleet routes export`.
pub async fn export(args: Export) -> anyhow::Result<()> {
    let sheet = read(args.plan).await?;
    let document = match args.format {
        Format::Geojson => format!("{}\n", geojson::geojson(&sheet)),
        Format::Polyline => format!("{:#}\n", polyline::polylines(&sheet)),
        Format::Map => map::map(&sheet),
        Format::Gantt => gantt::gantt(&sheet),
        Format::List => list::text(&sheet),
        Format::Page => list::html(&sheet),
    };
    let Some(path) = args.output else {
        return table::say(&document);
    };
    let name = path.display();
    let mut options = OpenOptions::new();
    options.write(true);
    match args.force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let mut file = options.open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow::anyhow!("{name} is there already; --force replaces it"),
        _ => anyhow::Error::new(error).context(format!("writing {name}")),
    })?;
    file.write_all(document.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("writing {name}"))?;
    eprintln!("wrote {name}");
    Ok(())
}

async fn read(which: Which) -> anyhow::Result<Sheet> {
    let mut conn = database::connect("orderfleet routes").await?;
    match which {
        Which::Id(id) => {
            let sheet = sheet::of_plan(&mut conn, id).await.context("reading the plan")?;
            sheet.with_context(|| format!("there is no plan {id}"))
        }
        Which::Of(depot, date) => {
            let day = day_of(&mut conn, &depot, date).await?;
            let sheet = sheet::of_day(&mut conn, day).await.context("reading the plan")?;
            let missing = || {
                format!(
                    "{depot} has no plan for {}; `orderfleet routes plan {depot} {}` makes one",
                    day.1, day.1
                )
            };
            sheet.with_context(missing)
        }
    }
}

async fn day_of(conn: &mut PgConnection, depot: &str, date: When) -> anyhow::Result<Day> {
    let warehouse = match sheet::depot(conn, depot).await {
        Err(routes::Error::NotFound(_)) => {
            let known = domain::catalogue::store::warehouses(conn)
                .await
                .context("reading the warehouses")?;
            let codes: Vec<&str> = known.iter().map(|warehouse| warehouse.code.as_str()).take(20).collect();
            match codes.is_empty() {
                true => bail!("there is no warehouse {depot:?}, nor any other"),
                false => bail!("there is no warehouse {depot:?}; there are {}", codes.join(", ")),
            }
        }
        other => other.context("reading the warehouse")?,
    };
    let date = match date {
        When::On(date) => date,
        When::In(days) => plan::today(conn).await.context("reading the clock")? + Days::new(days),
    };
    Ok((warehouse, date))
}

fn present(sheet: &Sheet, json: bool, with_stops: bool) -> anyhow::Result<()> {
    if json {
        let text = serde_json::to_string_pretty(sheet).context("writing JSON")?;
        return table::say(&format!("{text}\n"));
    }
    let plan = &sheet.plan;
    let state = if plan.active { "counts" } else { "is superseded" };
    let made_by = plan.job_id.map_or_else(String::new, |job| format!(" by job {job}"));
    let mut text = format!(
        "{}\n{}\nplan {} {state}; made {}{made_by}, {} rounds\n",
        sheet.title(),
        sheet.sums(),
        plan.id,
        plan.created_at.format("%Y-%m-%d %H:%M UTC"),
        plan.iterations
    )
    .replace(|c: char| c.is_control() && c != '\n', " ");
    if !sheet.routes.is_empty() {
        text.push('\n');
        text.push_str(&vehicles(sheet).text());
    }
    if with_stops {
        text.push('\n');
        text.push_str(&list::text(sheet));
    } else if !sheet.left_out.is_empty() {
        let counts: Vec<String> = sheet
            .tally()
            .into_iter()
            .map(|(reason, count)| format!("{count} {}", reason.replace('_', " ")))
            .collect();
        text.push_str(&format!("\n{} on no route: {}\n", plan.unassigned, counts.join(", ")));
        text.push_str(&left_out(sheet).text());
    }
    table::say(&text)
}

fn vehicles(sheet: &Sheet) -> Table {
    let mut table = Table::new(&["VEHICLE", "STATE", "STOPS", "WAY", "LEAVES", "BACK", "LOAD", "OF"]);
    for tour in &sheet.routes {
        table.row([
            tour.vehicle.clone(),
            tour.state.clone(),
            tour.stops.len().to_string(),
            kilometres(tour.metres),
            clock(tour.departs_at),
            clock(tour.returns_at),
            kilograms(tour.load.grams),
            kilograms(tour.capacity.grams),
        ]);
    }
    table
}

fn left_out(sheet: &Sheet) -> Table {
    let mut table = Table::new(&["ORDER", "FOR", "WHY", "MOVED TO"]);
    for left in &sheet.left_out {
        table.row([
            left.order_id.to_string(),
            left.customer.clone(),
            left.why.clone(),
            left.moved_to.map_or_else(|| "-".to_owned(), |date| date.to_string()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_named_by_its_id_or_its_day() {
        let id = "01990b2e-7c41-7d2a-9d0c-6f3f5e2a1b77";
        assert_eq!(which(id), Ok(Which::Id(id.parse().expect("an id"))));
        assert_eq!(which("MAIN/tomorrow"), Ok(Which::Of("MAIN".to_owned(), When::In(1))));
        let date = NaiveDate::from_ymd_opt(2026, 11, 23).expect("a day");
        assert_eq!(which("A/B/2026-11-23"), Ok(Which::Of("A/B".to_owned(), When::On(date))));
        for wrong in ["MAIN", "/today", "MAIN/", "MAIN/2026-02-30", "MAIN/23.11.2026"] {
            assert!(which(wrong).is_err(), "{wrong}");
        }
    }
}

//! Imports real orders through the API, as a client would: the file is sorted out, what the orders refer to is made,
//! then one order per invoice is created and confirmed.
//!
//! In reading order: [`rows`] has the rules for each row, [`rules`] those for stock, customers and cards, [`groundwork`]
//! makes customers, products and stock, [`results`] keeps what became of each row and what is finished.
//!
//! Nothing is imported twice, because every request has a key made of the file's hash and of what it is about, and
//! because the order's reference is unique for its client, even after the key is forgotten. A second start is answered
//! with the first one's answers, which are counted; `--resume` does not even ask where the state file knows.

pub mod groundwork;
pub mod results;
pub mod rows;
pub mod rules;

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::cli::{self, ImportFormat, OnlineRetail};
use crate::client::{ApiClient, Reply};
use crate::settings::environment;
use crate::{signals, table};
use results::{Finished, Outcome, Tally};
use rows::{Buyer, Invoice, Sheet};

/// The first bytes of every gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// So much of the hash is enough to tell files apart.
const HASH_DIGITS: usize = 16;

/// `orderfleet import …`.
pub async fn run(args: cli::Import) -> anyhow::Result<()> {
    match args.format {
        ImportFormat::OnlineRetail(args) => online_retail(args).await,
    }
}

async fn online_retail(args: OnlineRetail) -> anyhow::Result<()> {
    let stop = signals::stop_token()?;
    let client = ApiClient::from_environment(args.client.api_url.clone())?;
    let (sheet, hash) = read(&args.file)?;
    let place = Place::new(&args)?;
    let (mut finished, mut outcomes) = Finished::open(&place.state, &hash, args.resume)?;
    let resumed = outcomes.len();
    eprintln!(
        "{}: {} rows, {} orders of {} products; {resumed} orders are done already",
        args.file.display(),
        sheet.rows.len(),
        sheet.invoices.len(),
        sheet.products.len()
    );

    let concurrency = usize::from(args.concurrency);
    let customers = tokio::select! {
        customers = groundwork::lay(&client, &sheet, &hash, concurrency) => customers?,
        () = stop.cancelled() => bail!("stopped; start it again with --resume"),
    };
    let to_send: Vec<&Invoice> = sheet
        .invoices
        .iter()
        .filter(|invoice| !outcomes.contains_key(&invoice.number))
        .collect();
    let sending = Sending {
        client: &client,
        hash: &hash,
        customers: &customers,
        concurrency,
        rate: args.rate,
        stop,
    };
    let sent = sending.send_all(&to_send, |invoice, outcome| {
        finished.note(&invoice.number, &outcome)?;
        outcomes.insert(invoice.number.clone(), outcome);
        Ok(())
    });
    let sent = sent.await;
    finished.sync()?;
    let sent = sent?;
    let tally = results::write(&place.results, &sheet.rows, &outcomes)?;
    table::say(&summary(&sheet, &tally, &outcomes, resumed, &sent, &place.results))
}

/// Where the result rows and the state go.
struct Place {
    results: PathBuf,
    state: PathBuf,
}

impl Place {
    fn new(args: &OnlineRetail) -> anyhow::Result<Place> {
        let folder = environment("ORDERFLEET_DATA_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let name = args
            .file
            .file_name()
            .context("FILE names no file")?
            .to_string_lossy()
            .into_owned();
        let stem = name.trim_end_matches(".gz").trim_end_matches(".csv");
        let results = args
            .results
            .clone()
            .unwrap_or_else(|| folder.join(format!("{stem}.results.csv")));
        Ok(Place {
            state: results.with_extension("state"),
            results,
        })
    }
}

/// The file sorted out, and the first digits of its hash. Plain or gzip is told by the first bytes, not by the name.
fn read(path: &Path) -> anyhow::Result<(Sheet, String)> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let input: Box<dyn Read> = match bytes.starts_with(&GZIP) {
        true => Box::new(MultiGzDecoder::new(bytes.as_slice())),
        false => Box::new(bytes.as_slice()),
    };
    let sheet = Sheet::read(input).with_context(|| format!("reading {}", path.display()))?;
    Ok((sheet, hash[..HASH_DIGITS].to_owned()))
}

/// What sending needs.
struct Sending<'a> {
    client: &'a ApiClient,
    hash: &'a str,
    customers: &'a HashMap<Buyer, String>,
    concurrency: usize,
    rate: Option<u32>,
    stop: CancellationToken,
}

/// How the sending went.
#[derive(Debug, Default)]
struct Sent {
    orders: usize,
    replays: usize,
    took: Duration,
}

impl Sending<'_> {
    /// Sends all of them, so many at once, and notes each as soon as it is answered. Told to stop, it starts no more.
    async fn send_all(
        &self,
        invoices: &[&Invoice],
        mut note: impl FnMut(&Invoice, Outcome) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sent> {
        let started = Instant::now();
        let progress = Progress::new(invoices.len());
        let pace = self.rate.map(|rate| {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Mutex::new(pace)
        });
        let send = async |invoice: &Invoice| {
            if let Some(pace) = &pace {
                pace.lock().await.tick().await;
            }
            self.send(invoice).await
        };
        let mut answers = stream::iter(invoices)
            .take_until(self.stop.cancelled())
            .map(|invoice| async { anyhow::Ok((*invoice, send(invoice).await?)) })
            .buffer_unordered(self.concurrency)
            .boxed_local();
        let mut sent = Sent::default();
        while let Some((invoice, (outcome, is_replay))) = answers.try_next().await? {
            note(invoice, outcome)?;
            sent.orders += 1;
            sent.replays += usize::from(is_replay);
            progress.one_more();
        }
        sent.took = started.elapsed();
        progress.done();
        if self.stop.is_cancelled() && sent.orders < invoices.len() {
            bail!(
                "stopped after {} of {} orders; start it again with --resume",
                sent.orders,
                invoices.len()
            );
        }
        Ok(sent)
    }

    async fn send(&self, invoice: &Invoice) -> anyhow::Result<(Outcome, bool)> {
        let key = format!("import:{}:{}", self.hash, invoice.number);
        let customer = self
            .customers
            .get(&invoice.customer)
            .context("every buyer was made a customer")?;
        let lines: Vec<_> = invoice
            .lines
            .iter()
            .map(|(sku, qty)| json!({"sku": sku, "qty": qty}))
            .collect();
        let body = json!({
            "customer_id": customer,
            "reference": key,
            "lines": lines,
            "payment_method": rules::payment_method(&invoice.number),
        });
        let reply = self
            .client
            .post("/api/v1/orchestrations/create-and-confirm", &key, &body)
            .await?;
        Ok((outcome(&reply), reply.is_replay))
    }
}

fn outcome(reply: &Reply) -> Outcome {
    match reply.text("id") {
        Some(id) if reply.status.is_success() => Outcome::Order(id.to_owned()),
        // Taken in under a key that has been forgotten since: the reference remembers.
        _ if reply.code() == "reference_taken" => Outcome::Order(String::new()),
        _ => Outcome::Refused(reply.code()),
    }
}

/// A bar at a terminal, now and then a line elsewhere.
struct Progress {
    bar: ProgressBar,
    said_at: std::cell::Cell<Instant>,
}

impl Progress {
    fn new(total: usize) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders  {per_sec}  {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_style(style);
        Progress {
            bar,
            said_at: std::cell::Cell::new(Instant::now()),
        }
    }

    fn one_more(&self) {
        self.bar.inc(1);
        if self.bar.is_hidden() && self.said_at.get().elapsed() >= LINE_EVERY {
            self.said_at.set(Instant::now());
            self.say();
        }
    }

    fn say(&self) {
        let done = self.bar.position();
        let seconds = self.bar.elapsed().as_secs_f64().max(0.001);
        eprintln!(
            "{done}/{} orders, {:.1}/s",
            self.bar.length().unwrap_or(0),
            done as f64 / seconds
        );
    }

    fn done(&self) {
        if self.bar.is_hidden() {
            self.say();
        }
        self.bar.finish_and_clear();
    }
}

/// What came of it, with every row accounted for.
fn summary(
    sheet: &Sheet,
    tally: &Tally,
    outcomes: &HashMap<String, Outcome>,
    resumed: usize,
    sent: &Sent,
    results: &Path,
) -> String {
    let rows_out: usize = tally.rows.values().sum();
    let mut by_result: BTreeMap<&str, usize> = BTreeMap::new();
    for ((result, _), count) in &tally.rows {
        *by_result.entry(result).or_default() += count;
    }
    let accepted = outcomes
        .values()
        .filter(|outcome| matches!(outcome, Outcome::Order(_)))
        .count();
    let rate = sent.orders as f64 / sent.took.as_secs_f64().max(0.001);
    let mut text = format!("rows in {}, rows out {rows_out}\n", sheet.rows.len());
    for (result, count) in by_result {
        text += &format!("{result} {count}\n");
        for ((_, reason), count) in tally.rows.iter().filter(|((of, _), _)| *of == result) {
            text += &format!("  {reason} {count}\n");
        }
    }
    text + &format!(
        "orders accepted {accepted}, refused {refused}\n\
         sent now {now} ({replays} of them replays), known from before {resumed}\n\
         {rate:.1} orders/s over {seconds:.1} s\n\
         result rows in {results}\n",
        refused = outcomes.len() - accepted,
        now = sent.orders,
        replays = sent.replays,
        seconds = sent.took.as_secs_f64(),
        results = results.display(),
    )
}

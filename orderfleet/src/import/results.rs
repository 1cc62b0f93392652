//! What became of each row, and what is finished: the result file and the state file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::rows::Row;

/// What became of one invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The API took it in.
    Order(String),
    /// The API refused it, with this code.
    Refused(String),
}

/// One line of the state file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    invoice: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// The invoices that are finished, on disk: what `--resume` reads. It begins with the hash of the input file.
#[derive(Debug)]
pub struct Finished {
    path: PathBuf,
    file: File,
    unsynced: usize,
}

/// Lines that may be written before the disk must have them. Losing some costs nothing but a replay each.
const UNSYNCED_MAX: usize = 64;

impl Finished {
    /// Opens the state of the input with that hash, with what is finished already. Without `resume` it starts empty.
    pub fn open(path: &Path, hash: &str, resume: bool) -> anyhow::Result<(Finished, HashMap<String, Outcome>)> {
        let known = match resume && path.exists() {
            true => read(path, hash)?,
            false => HashMap::new(),
        };
        // Written anew, so that a line torn by a crash is gone.
        let beside = path.with_extension("state.new");
        let doing = || format!("writing {}", beside.display());
        let mut text = format!("{hash}\n");
        for (invoice, outcome) in &known {
            let line = Line {
                invoice: invoice.clone(),
                outcome: outcome.clone(),
            };
            text.push_str(&(serde_json::to_string(&line).context("writing JSON")? + "\n"));
        }
        std::fs::write(&beside, text).with_context(doing)?;
        std::fs::rename(&beside, path).with_context(doing)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
        Ok((
            Finished {
                path: path.to_owned(),
                file,
                unsynced: 0,
            },
            known,
        ))
    }

    /// Notes one more.
    pub fn note(&mut self, invoice: &str, outcome: &Outcome) -> anyhow::Result<()> {
        let line = Line {
            invoice: invoice.to_owned(),
            outcome: outcome.clone(),
        };
        let text = serde_json::to_string(&line).context("writing JSON")? + "\n";
        self.file
            .write_all(text.as_bytes())
            .with_context(|| format!("writing {}", self.path.display()))?;
        self.unsynced += 1;
        if self.unsynced >= UNSYNCED_MAX {
            self.sync()
        } else {
            Ok(())
        }
    }

    /// Puts everything noted on the disk.
    pub fn sync(&mut self) -> anyhow::Result<()> {
        self.unsynced = 0;
        self.file
            .sync_data()
            .with_context(|| format!("syncing {}", self.path.display()))
    }
}

fn read(path: &Path, hash: &str) -> anyhow::Result<HashMap<String, Outcome>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut lines = BufReader::new(file).lines();
    match lines
        .next()
        .transpose()
        .with_context(|| format!("reading {}", path.display()))?
    {
        Some(first) if first == hash => {}
        _ => bail!(
            "{} is of another input file: delete it, or start without --resume",
            path.display()
        ),
    }
    let mut known = HashMap::new();
    for line in lines {
        let line = line.with_context(|| format!("reading {}", path.display()))?;
        // The last line may be torn by a crash; its invoice is simply sent again.
        let Ok(Line { invoice, outcome }) = serde_json::from_str(&line) else {
            break;
        };
        known.insert(invoice, outcome);
    }
    Ok(known)
}

/// How many rows became what.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows by result and reason.
    pub rows: BTreeMap<(&'static str, String), usize>,
}

/// Writes one result row per input row, whole or not at all.
pub fn write(path: &Path, rows: &[Row], outcomes: &HashMap<String, Outcome>) -> anyhow::Result<Tally> {
    let beside = path.with_extension("csv.new");
    let doing = || format!("writing {}", beside.display());
    let mut csv = csv::Writer::from_writer(BufWriter::new(File::create(&beside).with_context(doing)?));
    csv.write_record(["line", "invoice", "stock_code", "result", "reason", "order_id"])
        .with_context(doing)?;
    let mut tally = Tally::default();
    for row in rows {
        let (result, reason, order) = result_of(row, outcomes)?;
        csv.write_record([
            &row.line.to_string(),
            &row.invoice,
            &row.stock_code,
            result,
            &reason,
            order,
        ])
        .with_context(doing)?;
        *tally.rows.entry((result, reason)).or_default() += 1;
    }
    let file = csv
        .into_inner()
        .map_err(|error| error.into_error())
        .with_context(doing)?;
    file.into_inner()
        .map_err(|error| error.into_error())
        .and_then(|file| file.sync_all())
        .with_context(doing)?;
    std::fs::rename(&beside, path).with_context(doing)?;
    Ok(tally)
}

/// A row's result, reason and order: its own rule's, and for a good row its invoice's.
fn result_of<'a>(row: &Row, outcomes: &'a HashMap<String, Outcome>) -> anyhow::Result<(&'static str, String, &'a str)> {
    if !row.reason.is_ordered() {
        return Ok(("rejected", row.reason.to_string(), ""));
    }
    match outcomes.get(&row.invoice) {
        Some(Outcome::Order(id)) => Ok(("imported", row.reason.to_string(), id)),
        Some(Outcome::Refused(code)) => Ok(("rejected", format!("invoice_refused:{code}"), "")),
        None => bail!("invoice {} was never finished", row.invoice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::rows::Reason;

    #[test]
    fn a_resumed_state_forgets_only_the_line_that_a_crash_tore() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.state");
        let (mut finished, known) = Finished::open(&path, "hash", true).expect("a new state");
        assert!(known.is_empty());
        finished.note("1", &Outcome::Order("a".to_owned())).expect("noted");
        finished.note("2", &Outcome::Refused("no".to_owned())).expect("noted");
        finished.sync().expect("synced");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"{\"invo"))
            .expect("torn");

        let (mut finished, known) = Finished::open(&path, "hash", true).expect("a resumed state");
        assert_eq!(known.len(), 2);
        finished.note("3", &Outcome::Order("c".to_owned())).expect("noted");
        let (_, known) = Finished::open(&path, "hash", true).expect("a resumed state");
        assert_eq!(known.len(), 3);
        let error = Finished::open(&path, "other", true)
            .expect_err("another input")
            .to_string();
        assert!(error.contains("another input file"), "{error}");
    }

    #[test]
    fn every_input_row_has_one_result_row() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("results.csv");
        let row = |line, invoice: &str, reason| Row {
            line,
            invoice: invoice.to_owned(),
            stock_code: "A".to_owned(),
            reason,
        };
        let rows = [
            row(2, "1", Reason::Ordered),
            row(3, "1", Reason::DuplicateLineMerged),
            row(4, "C2", Reason::CancellationInvoice),
            row(5, "3", Reason::Ordered),
        ];
        let outcomes = HashMap::from([
            ("1".to_owned(), Outcome::Order("id".to_owned())),
            ("3".to_owned(), Outcome::Refused("unknown_sku".to_owned())),
        ]);
        let tally = write(&path, &rows, &outcomes).expect("results");
        assert_eq!(tally.rows.values().sum::<usize>(), rows.len());
        assert_eq!(
            std::fs::read_to_string(&path).expect("a file"),
            "line,invoice,stock_code,result,reason,order_id\n\
             2,1,A,imported,ordered,id\n3,1,A,imported,duplicate_line_merged,id\n\
             4,C2,A,rejected,cancellation_invoice,\n5,3,A,rejected,invoice_refused:unknown_sku,\n"
        );
        assert!(
            write(&path, &rows, &HashMap::new()).is_err(),
            "an unfinished invoice is an error, not a silent gap"
        );
    }
}

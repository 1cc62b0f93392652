//! What a bench prints: medians over its rounds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

/// One measurement of one subject in one round. What does not apply is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) processes: usize,
    pub(crate) jobs_per_s: Option<f64>,
    pub(crate) ratio_to_limit: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// How many times the p99 of the run before, in which nothing was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_of_calm: Option<f64>,
    pub(crate) wal_bytes_per_job: Option<f64>,
    pub(crate) cpu_s_per_100k: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dead_rows: Option<f64>,
}

type Figure = (&'static str, fn(&mut Row) -> &mut Option<f64>);

const FIGURES: [Figure; 8] = [
    ("jobs/s", |row| &mut row.jobs_per_s),
    ("of limit", |row| &mut row.ratio_to_limit),
    ("p50 ms", |row| &mut row.p50_ms),
    ("p99 ms", |row| &mut row.p99_ms),
    ("of calm", |row| &mut row.p99_of_calm),
    ("WAL B/job", |row| &mut row.wal_bytes_per_job),
    ("CPU s/100k", |row| &mut row.cpu_s_per_100k),
    ("dead rows", |row| &mut row.dead_rows),
];

#[derive(Default)]
pub(crate) struct Table {
    order: Vec<(String, String, usize)>,
    rounds: BTreeMap<(String, String, usize), Vec<Row>>,
}

impl Table {
    /// Adds what one subject did in one round, and says it.
    pub(crate) fn add(&mut self, row: Row) {
        eprintln!("{}", line(&row));
        let key = (row.case.clone(), row.subject.clone(), row.processes);
        if !self.order.contains(&key) {
            self.order.push(key.clone());
        }
        self.rounds.entry(key).or_default().push(row);
    }

    /// The median of each figure of each subject, in the order in which they came.
    fn medians(&self) -> Vec<Row> {
        let median = |rows: &[Row]| {
            let mut middle = rows[0].clone();
            for (_, figure) in FIGURES {
                let mut values: Vec<f64> = rows.iter().filter_map(|row| *figure(&mut row.clone())).collect();
                values.sort_by(f64::total_cmp);
                *figure(&mut middle) = values.get(values.len() / 2).copied();
            }
            middle
        };
        self.order.iter().map(|key| median(&self.rounds[key])).collect()
    }

    pub(crate) fn print(&self) {
        let rounds = self.rounds.values().map(Vec::len).max().unwrap_or(0);
        println!("\nmedians of {rounds}; fsync, synchronous_commit and full_page_writes are on");
        print!("{:18}{:22}{:>10}", "case", "subject", "processes");
        for (name, _) in FIGURES {
            print!("{name:>12}");
        }
        println!();
        for row in self.medians() {
            println!("{}", line(&row));
        }
    }

    pub(crate) fn json(&self, bench: &str) -> Value {
        json!({ "bench": bench, "rows": self.medians() })
    }
}

fn line(row: &Row) -> String {
    let mut line = format!("{:18}{:22}{:>10}", row.case, row.subject, row.processes);
    for (_, figure) in FIGURES {
        line += &match *figure(&mut row.clone()) {
            Some(value) if value >= 100.0 => format!("{value:>12.0}"),
            Some(value) if value > 0.0 && value < 0.1 => format!("{value:>12.4}"),
            Some(value) => format!("{value:>12.2}"),
            None => format!("{:>12}", "-"),
        };
    }
    line
}

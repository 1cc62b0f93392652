//! Prints rows for people (aligned columns) or for programs (JSON).

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// Rows with a header, columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(header: &[&str]) -> Table {
        Table {
            rows: vec![header.iter().map(|name| (*name).to_owned()).collect()],
        }
    }

    /// Adds a row; control characters in cells are shown as spaces, so that nobody's text can steer a terminal.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| cell.replace(char::is_control, " "))
                .collect(),
        );
    }

    /// The whole table as text.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(at))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints `data` as JSON, or what `table` makes of it.
pub fn print<T: Serialize + ?Sized>(json: bool, data: &T, table: impl FnOnce(&T) -> Table) -> anyhow::Result<()> {
    let text = match json {
        true => format!("{}\n", serde_json::to_string_pretty(data).context("writing JSON")?),
        false => table(data).text(),
    };
    say(&text)
}

/// Prints text; a reader that has gone away, such as `head`, is no error.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("printing"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_control_characters_are_gone() {
        let mut table = Table::new(&["ID", "KIND"]);
        table.row(["7".to_owned(), "reserve\u{1b}[31m".to_owned()]);
        table.row(["12345".to_owned(), "x".to_owned()]);
        assert_eq!(table.text(), "ID     KIND\n7      reserve [31m\n12345  x\n");
    }
}

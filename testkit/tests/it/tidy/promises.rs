//! What docs/queue.md says is tested, is.

use std::collections::BTreeSet;

use super::Source;

/// Rows of its tables without a test, and tests it names that are none of the repository's.
pub(super) fn offences(page: &Source, sources: &[Source]) -> Vec<String> {
    let tests: BTreeSet<&str> = sources.iter().flat_map(|source| tests(&source.text)).collect();
    let mut offences = Vec::new();
    let mut is_row = false;
    for (number, line) in page.code() {
        let named = named(line);
        if is_row && line.starts_with('|') && named.is_empty() {
            offences.push(format!(
                "{}:{number}: a feature without a `test: name` that promises it",
                page.path
            ));
        }
        // The rows of a table follow the line below its head.
        is_row = line.starts_with("|---") || is_row && line.starts_with('|');
        for name in named.into_iter().filter(|name| !tests.contains(name)) {
            offences.push(format!(
                "{}:{number}: there is no test {name}: name the one that promises this, or write it",
                page.path
            ));
        }
    }
    offences
}

/// The names after each `test: `, in backticks and with commas between them.
fn named(line: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for list in line.split("test: `").skip(1) {
        let mut rest = list;
        while let Some((name, after)) = rest.split_once('`') {
            names.push(name);
            match after.strip_prefix(", `") {
                Some(next) => rest = next,
                None => break,
            }
        }
    }
    names
}

/// The functions with a test attribute above them.
fn tests(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.contains("::test");
            return None;
        }
        let name = line
            .trim_start_matches("async ")
            .strip_prefix("fn ")
            .filter(|_| is_test)
            .and_then(|rest| rest.split('(').next());
        is_test &= line.starts_with("//");
        name
    })
}

#[test]
fn a_promise_without_its_test_is_seen() {
    let tests = Source::planted(
        "queue/tests/it/keys.rs",
        "#[test]\nfn one_is() {}\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn two_is() {}\nfn a_helper() {}\n",
    );
    let page = "| feature | example | promised by |\n|---|---|---|\n| a | `x` | test: `one_is`, `two_is` |\n\
                | b | `x` | |\n| c | `x` | test: `a_helper`; in `jobs`, test: `gone` |\nin words, test: `two_is`\n";
    let offences = offences(&Source::planted("docs/queue.md", page), &[tests]);
    let expected = [
        "docs/queue.md:4: a feature without a `test: name` that promises it",
        "docs/queue.md:5: there is no test a_helper: name the one that promises this, or write it",
        "docs/queue.md:5: there is no test gone: name the one that promises this, or write it",
    ];
    assert_eq!(offences, expected);
}

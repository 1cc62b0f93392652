//! What must be true of the whole tree.
//!
//! Each check is a function of texts that returns what offends it, so that it can be shown an offence planted for it;
//! the first tests below run them on the tree itself.

mod arrows;
mod jobs;
mod promises;
mod settings;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the tree: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    #[cfg(test)]
    fn planted(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Its lines of code, with their numbers: comments may name anything.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .zip(1..)
            .filter(|(line, _)| !line.trim_start().starts_with("//"))
            .map(|(line, number)| (number, line))
    }

    /// Whether it is there for tests only.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.starts_with("testkit/") || self.path.starts_with("fleet-tests/")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The crates: the folders at the root with a manifest.
fn crates() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Every Rust file of every crate, except these checks, which have to name what they forbid, and the peers of the benches,
/// which are no part of the workspace.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for name in crates() {
        collect(&root().join(name), "rs", &mut found);
    }
    found.retain(|source| {
        !source.path.starts_with("testkit/tests/it/tidy") && !source.path.starts_with("fleet-tests/peers/")
    });
    assert!(found.len() > 50, "the tree was not found: {} files", found.len());
    found
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<Source>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source {
                path: path.strip_prefix(root()).unwrap().display().to_string(),
                text,
            });
        }
    }
}

fn read(path: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: fs::read_to_string(root().join(path)).unwrap(),
    }
}

#[track_caller]
fn assert_none(offences: &[String]) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

#[test]
fn arrows_point_one_way() {
    let manifests: Vec<Source> = crates()
        .iter()
        .map(|name| read(&format!("{name}/Cargo.toml")))
        .collect();
    assert_none(&arrows::offences(&manifests));
}

#[test]
fn one_file_names_the_worker_library() {
    assert_none(&words::named_elsewhere(
        "apalis_core",
        "workers/src/pool.rs",
        &sources(),
    ));
}

#[test]
fn nothing_is_left_unfinished_in_the_code() {
    assert_none(&words::forbidden(&sources()));
}

#[test]
fn the_engine_reads_no_clock_but_the_databases() {
    assert_none(&words::local_clocks(&sources()));
}

#[test]
fn sql_is_never_glued_together() {
    assert_none(&words::glued_sql(&sources()));
}

#[test]
fn migrations_are_named_by_their_time() {
    let names: Vec<String> = fs::read_dir(root().join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_none(&words::misnamed_migrations(&names));
}

#[test]
fn every_setting_is_in_the_example_and_the_other_way_round() {
    assert_none(&settings::offences(&sources(), &read(".env.example")));
}

#[test]
fn every_kind_of_job_is_in_the_catalogue_and_says_what_it_does() {
    let mut files = Vec::new();
    collect(&root().join("jobs/src"), "rs", &mut files);
    assert_none(&jobs::offences(&files));
}

#[test]
fn every_feature_of_the_queue_names_tests_that_exist() {
    let mut all = sources();
    all.push(read("testkit/tests/it/tidy.rs"));
    assert_none(&promises::offences(&read("docs/queue.md"), &all));
}

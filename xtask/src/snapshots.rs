//! What is committed and can be generated: `.sqlx`, `migrations/schema.sql`, `api/openapi.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use crate::{database, sh};

fn is_check(args: &[String]) -> bool {
    args.iter().any(|arg| arg == "--check")
}

/// What the macros of sqlx learnt from the database about each query, so that a build needs none.
pub(crate) fn sqlx(args: &[String]) -> anyhow::Result<()> {
    // What `cargo clippy` builds of other people's crates is what `cargo check` builds.
    let mut check = sh::cargo(["check", "--workspace", "--all-targets"]);
    if is_check(args) {
        return check_queries(&mut check);
    }
    let fresh = describe_queries(&mut check)?;
    let dir = sh::root().join(".sqlx");
    fs::create_dir_all(&dir)?;
    let old = read_dir(&dir)?;
    for name in old.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(dir.join(name))?;
    }
    for (name, text) in fresh.iter().filter(|(name, text)| old.get(*name) != Some(text)) {
        fs::write(dir.join(name), text)?;
    }
    println!("{} queries in .sqlx", fresh.len());
    Ok(())
}

/// Runs a command that compiles everything, and compares the queries it met with the committed ones.
pub(crate) fn check_queries(compile: &mut Command) -> anyhow::Result<()> {
    let fresh = describe_queries(compile)?;
    let committed = read_dir(&sh::root().join(".sqlx"))?;
    let differing: Vec<&String> = fresh
        .keys()
        .chain(committed.keys())
        .filter(|name| fresh.get(*name) != committed.get(*name))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    if let Some(first) = differing.first() {
        bail!(
            ".sqlx is not current: {} files differ, {first} among them; run `cargo xtask sqlx` and commit",
            differing.len()
        );
    }
    Ok(())
}

/// Compiles against a live database, and returns the files the macros wrote.
fn describe_queries(compile: &mut Command) -> anyhow::Result<BTreeMap<String, String>> {
    let dir = sh::target_dir().join("sqlx-fresh");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let cluster = database::migrated("xtask-sqlx-postgres")?;
    // A macro is expanded when its crate is compiled, and cargo does not know that it looks at a database.
    touch_crates()?;
    compile
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", &dir)
        .env("DATABASE_URL", cluster.url("postgres"));
    sh::run(compile)?;
    read_dir(&dir)
}

/// Makes cargo compile every crate of ours again.
fn touch_crates() -> anyhow::Result<()> {
    let now = SystemTime::now();
    for entry in fs::read_dir(sh::root())? {
        let dir = entry?.path();
        if !dir.join("Cargo.toml").is_file() {
            continue;
        }
        for file in ["src/lib.rs", "src/main.rs", "tests/it/main.rs"].map(|name| dir.join(name)) {
            if file.is_file() {
                File::options()
                    .append(true)
                    .open(&file)?
                    .set_modified(now)
                    .with_context(|| format!("touching {}", file.display()))?;
            }
        }
    }
    Ok(())
}

fn read_dir(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    if !dir.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(files)
}

/// The whole schema as the migrations leave it, so that a review sees it.
pub(crate) fn schema(args: &[String]) -> anyhow::Result<()> {
    let cluster = database::migrated("xtask-schema-postgres")?;
    let mut dump = Command::new(cluster.binaries().program("pg_dump"));
    dump.args(["--schema-only", "--no-owner", "--no-privileges", "--dbname"])
        .arg(cluster.url("postgres"));
    let fresh = normalised(&sh::read(&mut dump)?);
    settle(
        &sh::root().join("migrations/schema.sql"),
        &fresh,
        is_check(args),
        "schema",
    )
}

/// Without what differs from one version of pg_dump to the next or from day to day, and without what says nothing.
fn normalised(dump: &str) -> String {
    let mut paragraphs = vec![String::new()];
    let mut is_code = false;
    for line in dump.lines() {
        let line = line.trim_end();
        // Inside a function's body nothing is taken away: there a comment is code of ours.
        let is_noise = !is_code
            && (line.starts_with("--")
                || line.starts_with("SET ")
                || line.starts_with("SELECT pg_catalog.set_config")
                || line.starts_with("\\restrict")
                || line.starts_with("\\unrestrict"));
        if is_noise {
            continue;
        }
        if line.matches("$$").count() % 2 == 1 {
            is_code = !is_code;
        }
        if line.is_empty() && !is_code {
            paragraphs.push(String::new());
        } else if let Some(paragraph) = paragraphs.last_mut() {
            paragraph.push_str(line);
            paragraph.push('\n');
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty() && !names_a_day(paragraph));
    format!(
        "-- The schema as the migrations leave it. `cargo xtask schema` renews it.\n\n{}",
        paragraphs.join("\n")
    )
}

/// Partitions are named for their day, and which there are depends on the day the migrations ran.
fn names_a_day(paragraph: &str) -> bool {
    paragraph
        .split("finished_jobs_")
        .skip(1)
        .any(|rest| rest.bytes().take(8).filter(u8::is_ascii_digit).count() == 8)
}

/// Renews the document of the API. Whether it is current is one of the API's tests, which this runs with leave to write.
pub(crate) fn openapi(_: &[String]) -> anyhow::Result<()> {
    sh::run(
        sh::cargo(["test", "--quiet", "--package", "api", "--test", "it", "snapshot::"]).env("UPDATE_SNAPSHOTS", "1"),
    )
}

/// Writes the file, or says that it should be written.
fn settle(path: &PathBuf, fresh: &str, is_check: bool, command: &str) -> anyhow::Result<()> {
    let committed = fs::read_to_string(path).unwrap_or_default();
    if committed == fresh {
        return Ok(());
    }
    if !is_check {
        return fs::write(path, fresh).with_context(|| format!("writing {}", path.display()));
    }
    let line = committed
        .lines()
        .zip(fresh.lines())
        .take_while(|(one, other)| one == other)
        .count()
        + 1;
    bail!(
        "{} is not current, from line {line} on; run `cargo xtask {command}` and commit",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_keeps_what_we_wrote_and_loses_what_the_version_adds() {
        let dump = "--\n-- Dumped by pg_dump version 15.18\n--\n\n\\restrict abc\nSET lock_timeout = 0;\n\n\nCREATE FUNCTION f() \
                    AS $$\nbegin\n    -- ours\n\nend $$;\n\n\nCREATE TABLE queue.finished_jobs_20261122 (\n    id bigint\n);\n\
                    \n\n\\unrestrict abc\n";
        let kept = normalised(dump);
        assert!(
            kept.ends_with("\n\nCREATE FUNCTION f() AS $$\nbegin\n    -- ours\n\nend $$;\n"),
            "{kept}"
        );
    }
}

//! Words and names that must not be there.

use super::Source;

/// Code that is not finished, or was only looked at.
const UNFINISHED: [&str; 5] = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"];

/// What SQL begins with, in lower case as ours does.
const STATEMENTS: [&str; 7] = [
    "select ",
    "insert into ",
    "update ",
    "delete from ",
    "with ",
    "create ",
    "drop ",
];

pub(super) fn forbidden(sources: &[Source]) -> Vec<String> {
    let mut offences = Vec::new();
    for source in sources {
        for (line, number) in source.text.lines().zip(1..) {
            offences.extend(
                UNFINISHED
                    .iter()
                    .filter(|word| line.contains(**word))
                    .map(|word| format!("{}:{number}: {word}", source.path)),
            );
        }
    }
    offences
}

pub(super) fn named_elsewhere(word: &str, home: &str, sources: &[Source]) -> Vec<String> {
    let elsewhere = sources.iter().filter(|source| source.path != home);
    elsewhere
        .flat_map(|source| {
            source
                .code()
                .filter(|(_, line)| line.contains(word))
                .map(|(number, _)| format!("{}:{number}: {word} is named in {home} only", source.path))
        })
        .collect()
}

/// What reads this machine's clock of the day. Not `Instant`, which only says how long something took.
const CLOCKS: [&str; 6] = [
    "Utc::now",
    "Local::now",
    "SystemTime",
    "UNIX_EPOCH.elapsed",
    "OffsetDateTime::now",
    "chrono::Local",
];

/// The engine goes by the database's clock, and so does everything that writes its tables.
pub(super) fn local_clocks(sources: &[Source]) -> Vec<String> {
    let engine = sources
        .iter()
        .filter(|source| source.path.starts_with("queue/src/") || source.path.starts_with("workers/src/"));
    engine
        .flat_map(|source| {
            source.code().flat_map(move |(number, line)| {
                let clocks = CLOCKS.iter().filter(move |clock| line.contains(**clock));
                clocks.map(move |clock| format!("{}:{number}: {clock}: only the database's clock counts", source.path))
            })
        })
        .collect()
}

pub(super) fn glued_sql(sources: &[Source]) -> Vec<String> {
    let mut offences = Vec::new();
    // Tests may: they ask for plans, and make databases, whose names cannot be parameters.
    for source in sources.iter().filter(|source| !source.is_test()) {
        for (number, line) in source.code() {
            if line.contains("AssertSqlSafe") || formats_a_statement(line) {
                offences.push(format!("{}:{number}: SQL is written out, with parameters", source.path));
            }
        }
    }
    offences
}

/// Whether a `format!` on this line begins like SQL and has a hole in it.
fn formats_a_statement(line: &str) -> bool {
    let Some((_, rest)) = line.split_once("format!(") else {
        return false;
    };
    let text = rest.trim_start_matches(['r', '#']).trim_start_matches('"');
    STATEMENTS.iter().any(|statement| text.starts_with(statement)) && text.contains('{')
}

pub(super) fn misnamed_migrations(names: &[String]) -> Vec<String> {
    let is_right = |name: &str| {
        let Some((time, rest)) = name.split_once('_') else {
            return false;
        };
        let is_time = time.len() == 14 && time.bytes().all(|byte| byte.is_ascii_digit());
        let words = rest.strip_suffix(".sql").unwrap_or_default();
        is_time
            && !words.is_empty()
            && words
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let mut offences: Vec<String> = names
        .iter()
        .filter(|name| *name != "schema.sql" && !is_right(name))
        .map(|name| format!("migrations/{name}: is not YYYYMMDDHHMMSS_what_it_does.sql"))
        .collect();
    let mut times: Vec<&str> = names
        .iter()
        .filter(|name| is_right(name))
        .map(|name| &name[..14])
        .collect();
    times.sort_unstable();
    offences.extend(
        times
            .windows(2)
            .filter(|pair| pair[0] == pair[1])
            .map(|pair| format!("two migrations have the time {}", pair[0])),
    );
    offences
}

#[test]
fn unfinished_code_is_found() {
    let planted = [Source::planted(
        "jobs/src/a.rs",
        "fn a() {\n    todo!()\n}\n// FIXME later\nfn b() { dbg!(1); }\n",
    )];
    assert_eq!(
        forbidden(&planted),
        [
            "jobs/src/a.rs:2: todo!(",
            "jobs/src/a.rs:4: FIXME",
            "jobs/src/a.rs:5: dbg!("
        ]
    );
}

#[test]
fn a_second_file_that_names_the_library_is_found_and_a_comment_is_not() {
    let planted = [
        Source::planted("workers/src/pool.rs", "use apalis::prelude::*;\n"),
        Source::planted("workers/src/run.rs", "//! On apalis.\nuse apalis_core::task::Task;\n"),
    ];
    assert_eq!(
        named_elsewhere("apalis", "workers/src/pool.rs", &planted),
        ["workers/src/run.rs:2: apalis is named in workers/src/pool.rs only"]
    );
}

#[test]
fn a_local_clock_in_the_engine_is_found_and_a_stopwatch_is_not() {
    let planted = [
        Source::planted(
            "queue/src/schedule.rs",
            "// Utc::now is not for us.\nlet now = Utc::now();\n",
        ),
        Source::planted(
            "workers/src/maintain.rs",
            "let since = Instant::now();\nlet now = SystemTime::now();\n",
        ),
        Source::planted("simulator/src/gateway.rs", "let now = Utc::now();\n"),
    ];
    assert_eq!(
        local_clocks(&planted),
        [
            "queue/src/schedule.rs:2: Utc::now: only the database's clock counts",
            "workers/src/maintain.rs:2: SystemTime: only the database's clock counts",
        ]
    );
}

#[test]
fn glued_sql_is_found() {
    let planted = [Source::planted(
        "api/src/a.rs",
        "let sql = format!(\"select * from {table}\");\nsqlx::query(AssertSqlSafe(sql));\nlet said = format!(\"select one\");\n\
         let told = format!(\"{count} to update \");\n",
    )];
    let lines: Vec<String> = glued_sql(&planted)
        .iter()
        .map(|offence| offence.split(": ").next().unwrap().to_owned())
        .collect();
    assert_eq!(lines, ["api/src/a.rs:1", "api/src/a.rs:2"]);
}

#[test]
fn a_migration_without_its_time_is_found() {
    let names = [
        "20261122000001_queue.sql",
        "20261122000001_again.sql",
        "schema.sql",
        "2_more.sql",
        "20261122000002_Big.sql",
    ];
    assert_eq!(misnamed_migrations(&names.map(str::to_owned)).len(), 3);
}

//! `.env.example` lists the settings there are, and no others.

use std::collections::BTreeSet;

use super::Source;

/// What one of our processes tells another; no person sets it.
const BETWEEN_PROCESSES: [&str; 2] = ["ORDERFLEET_PARENT_PIPE", "ORDERFLEET_EXECUTABLE"];

/// Settings with a name that is not ours to choose.
const STANDARD: [&str; 4] = [
    "DATABASE_URL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_SERVICE_NAME",
];

pub(super) fn offences(sources: &[Source], example: &Source) -> Vec<String> {
    // The kit reads settings too; what its tests set for a moment is no setting.
    let product = sources.iter().filter(|source| !source.path.contains("/tests/"));
    let read: BTreeSet<&str> = product
        .flat_map(|source| source.code().flat_map(|(_, line)| named_in(line)))
        .collect();
    let listed: BTreeSet<&str> = example
        .text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('#') && !STANDARD.contains(name))
        .collect();

    let missing = read
        .difference(&listed)
        .filter(|name| !BETWEEN_PROCESSES.contains(name));
    let unread = listed.difference(&read);
    let missing = missing.map(|name| format!("{}: {name} is read and not listed", example.path));
    missing
        .chain(unread.map(|name| format!("{}: {name} is listed and nobody reads it", example.path)))
        .collect()
}

/// String literals that are names of settings.
fn named_in(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|literal| {
        literal.strip_prefix("ORDERFLEET_").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        })
    })
}

#[test]
fn a_setting_that_is_not_listed_and_one_that_nobody_reads_are_found() {
    let code = [
        Source::planted(
            "api/src/config.rs",
            "#[arg(env = \"ORDERFLEET_LISTEN\")]\n// \"ORDERFLEET_OLD\"\nvar(\"ORDERFLEET_NEW\")\n",
        ),
        Source::planted("api/tests/it/main.rs", "set(\"ORDERFLEET_FOR_A_TEST\")\n"),
    ];
    let example = Source::planted(
        ".env.example",
        "# About it.\nDATABASE_URL=\nORDERFLEET_LISTEN=127.0.0.1:8080\nORDERFLEET_OLD=1\n",
    );
    assert_eq!(
        offences(&code, &example),
        [
            ".env.example: ORDERFLEET_NEW is read and not listed",
            ".env.example: ORDERFLEET_OLD is listed and nobody reads it"
        ]
    );
}

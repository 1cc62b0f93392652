//! Which crate may depend on which: the picture in ARCHITECTURE.md, as a table.

use super::Source;

/// A crate, and ours that it may depend on.
const ARROWS: [(&str, &[&str]); 11] = [
    ("queue", &[]),
    ("domain", &[]),
    ("jobs", &["domain", "queue"]),
    ("workers", &["jobs", "domain", "queue"]),
    ("api", &["jobs", "domain", "queue"]),
    // The executable is every role, so it sees all that is a role.
    (
        "orderfleet",
        &[
            "api",
            "workers",
            "jobs",
            "domain",
            "queue",
            "simulator",
            "private-postgres",
        ],
    ),
    ("simulator", &[]),
    ("private-postgres", &[]),
    ("testkit", &["domain", "queue", "private-postgres"]),
    ("fleet-tests", &["testkit"]),
    ("xtask", &["private-postgres"]),
];

/// What tests may use besides: the kit, and the parts of the outside world.
const FOR_TESTS: [&str; 3] = ["testkit", "simulator", "private-postgres"];

/// Below everything, so their own tests stand on nothing of ours; except the whole fleet's, which look at all of it.
const TESTS_STAND_ALONE: [&str; 3] = ["private-postgres", "simulator", "xtask"];
const TESTS_SEE_ALL: [&str; 1] = ["fleet-tests"];

pub(super) fn offences(manifests: &[Source]) -> Vec<String> {
    let mut offences = Vec::new();
    for manifest in manifests {
        let toml: toml::Table = manifest.text.parse().unwrap();
        let name = manifest.path.strip_suffix("/Cargo.toml").unwrap();
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
            offences.push(format!(
                "{}: a new crate needs a line in the table of arrows and in ARCHITECTURE.md",
                manifest.path
            ));
            continue;
        };
        for (section, dependency) in ours(&toml) {
            let is_for_tests = section == "dev-dependencies"
                && (TESTS_SEE_ALL.contains(&name)
                    || (FOR_TESTS.contains(&dependency.as_str()) && !TESTS_STAND_ALONE.contains(&name)));
            if !allowed.contains(&dependency.as_str()) && !is_for_tests {
                offences.push(format!(
                    "{}: {name} -> {dependency} in [{section}] is no arrow of ours",
                    manifest.path
                ));
            }
        }
    }
    offences
}

/// The dependencies that are crates of this workspace, each with its section, also those for one platform only.
fn ours(manifest: &toml::Table) -> Vec<(&'static str, String)> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut found = Vec::new();
    for table in tables {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let names = table
                .get(section)
                .and_then(toml::Value::as_table)
                .into_iter()
                .flat_map(toml::Table::keys);
            found.extend(
                names
                    .filter(|name| ARROWS.iter().any(|(ours, _)| ours == name))
                    .map(|name| (section, name.clone())),
            );
        }
    }
    found
}

#[test]
fn an_arrow_to_the_left_is_found_wherever_it_hides() {
    let planted = [
        Source::planted(
            "queue/Cargo.toml",
            "[dependencies]\nserde.workspace = true\ndomain.workspace = true\n",
        ),
        Source::planted(
            "domain/Cargo.toml",
            "[target.'cfg(unix)'.dependencies]\nqueue = { path = \"../queue\" }\n",
        ),
        Source::planted(
            "jobs/Cargo.toml",
            "[dev-dependencies]\ntestkit.workspace = true\napi.workspace = true\n",
        ),
        Source::planted("simulator/Cargo.toml", "[dev-dependencies]\ntestkit.workspace = true\n"),
        Source::planted("helpers/Cargo.toml", "[dependencies]\n"),
    ];
    let offences = offences(&planted);
    assert_eq!(offences.len(), 5, "{offences:#?}");
    assert!(offences[0].contains("queue -> domain") && offences[1].contains("domain -> queue"));
    assert!(offences[2].contains("jobs -> api") && offences[3].contains("simulator -> testkit"));
    assert!(offences[4].contains("a new crate"));
}

#[test]
fn arrows_that_are_drawn_pass() {
    let planted = [
        Source::planted(
            "jobs/Cargo.toml",
            "[dependencies]\ndomain.workspace = true\nqueue.workspace = true\n",
        ),
        Source::planted("queue/Cargo.toml", "[dev-dependencies]\ntestkit.workspace = true\n"),
        Source::planted("fleet-tests/Cargo.toml", "[dev-dependencies]\nqueue.workspace = true\n"),
    ];
    assert_eq!(offences(&planted), Vec::<String>::new());
}

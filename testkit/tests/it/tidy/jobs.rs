//! `ls jobs/src` is the list of all that the fleet does, and the catalogue is the same list.

use std::collections::BTreeSet;

use super::Source;

/// Files in jobs/src that are no kind of job. A new one is a decision.
const NO_KINDS: [&str; 10] = [
    "lib",
    "in_steps",
    "intake",
    "limits",
    "schedule",
    "payment_call",
    "payment_outcome",
    "road_call",
    "route_search",
    "why",
];

pub(super) fn offences(files: &[Source]) -> Vec<String> {
    let mut offences = Vec::new();
    let text_of = |name: &str| {
        files
            .iter()
            .find(|file| stem(file) == name)
            .map_or("", |file| file.text.as_str())
    };
    let (catalogue, timetable) = (text_of("lib"), text_of("schedule"));

    let mut kinds = BTreeSet::new();
    // A kind that takes many jobs at once is listed like any other.
    let listing = catalogue.replace(".with_batch::<", ".with::<");
    for file in files {
        if !file.text.starts_with("//! ") {
            offences.push(format!(
                "{}: begins with a line that says what it does: //! …",
                file.path
            ));
        }
        if NO_KINDS.contains(&stem(file)) {
            continue;
        }
        let Some(kind) = implemented(&file.text) else {
            offences.push(format!(
                "{}: is no kind of job, and ls jobs/src is the list of kinds",
                file.path
            ));
            continue;
        };
        kinds.insert(kind);
        if kind != camel(stem(file)) {
            offences.push(format!("{}: holds {kind}, not {}", file.path, camel(stem(file))));
        }
        if !catalogue.contains(&format!("mod {};", stem(file))) {
            offences.push(format!(
                "{}: has no `mod {};` in jobs/src/lib.rs",
                file.path,
                stem(file)
            ));
        }
        if !entries(&listing, ".with::<").contains(&kind) {
            offences.push(format!(
                "{}: {kind} is not in the catalogue of jobs/src/lib.rs",
                file.path
            ));
        }
    }

    let listed = entries(&listing, ".with::<");
    if !listed.is_sorted() {
        offences.push("jobs/src/lib.rs: the catalogue is not in alphabetical order".to_owned());
    }
    for kind in listed.into_iter().filter(|kind| !kinds.contains(kind)) {
        offences.push(format!("jobs/src/lib.rs: {kind} of the catalogue has no file"));
    }
    for kind in entries(timetable, "&crate::")
        .into_iter()
        .filter(|kind| !kinds.contains(kind))
    {
        offences.push(format!(
            "jobs/src/schedule.rs: {kind} of the timetable is no kind of job"
        ));
    }
    offences
}

fn stem(file: &Source) -> &str {
    file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// The type that is a job in this file.
fn implemented(text: &str) -> Option<&str> {
    let (_, rest) = text
        .split_once("\nimpl Job for ")
        .or_else(|| text.split_once("\nimpl queue::Job for "))?;
    rest.split(|c: char| !c.is_ascii_alphanumeric()).next()
}

/// The names that follow each `mark`, the last part of their path.
fn entries<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    let name = |rest: &'a str| {
        let path = rest
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
            .next()
            .unwrap_or_default();
        path.rsplit("::").next().unwrap_or_default()
    };
    text.split(mark).skip(1).map(name).collect()
}

fn camel(snake: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    snake.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

#[test]
fn a_job_that_was_forgotten_somewhere_is_found() {
    let planted = [
        Source::planted(
            "jobs/src/lib.rs",
            "//! All.\nmod ship_it;\nmod send_it;\nCatalogue::new().with::<ShipIt>().with::<SendIt>().with::<Gone>()",
        ),
        Source::planted(
            "jobs/src/schedule.rs",
            "//! When.\nEntry::new(\"x\", \"* * * * *\", &crate::NoSuchJob {})\n",
        ),
        Source::planted("jobs/src/ship_it.rs", "//! Ships.\n\nimpl Job for ShipIt {}\n"),
        Source::planted("jobs/src/send_it.rs", "use x;\n\nimpl Job for SendIt {}\n"),
        Source::planted("jobs/src/lose_it.rs", "//! Loses.\n\nimpl Job for LoseIt {}\n"),
        Source::planted("jobs/src/name_it.rs", "//! Names.\n\nimpl Job for Other {}\n"),
        Source::planted("jobs/src/help_it.rs", "//! Helps.\n"),
    ];
    let found = offences(&planted).join("\n");
    for expected in [
        "send_it.rs: begins with",
        "lose_it.rs: has no `mod lose_it;`",
        "lose_it.rs: LoseIt is not in the catalogue",
        "name_it.rs: holds Other, not NameIt",
        "help_it.rs: is no kind of job",
        "not in alphabetical order",
        "Gone of the catalogue has no file",
        "NoSuchJob of the timetable",
    ] {
        assert!(found.contains(expected), "{expected:?} is missing in:\n{found}");
    }
    assert!(!found.contains("ship_it.rs"), "{found}");
}

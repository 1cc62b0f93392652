//! Every command a developer needs: `cargo xtask` lists them. CI runs the same ones.
//!
//! 1. `up` and `test` are the two commands of the README.
//! 2. `ci` is what must pass; `fmt`, `clippy`, `sqlx`, `schema` and `openapi` are its parts, alone.
//! 3. `contract` brings the official clients, and tells the tests that they must be there.
//! 4. `bench` measures.
//! 5. `snapshots` compares what is committed with what the tree generates; `database` is the server that takes.

mod bench;
mod ci;
mod contract;
mod database;
mod sh;
mod snapshots;
mod test;
mod up;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

/// A command: its name, its arguments, what it does.
struct Command {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(&[String]) -> anyhow::Result<()>,
}

const COMMANDS: [Command; 11] = [
    Command {
        name: "up",
        usage: "[ARGS of orderfleet up]",
        about: "build, and run everything on this machine",
        run: up::run,
    },
    Command {
        name: "test",
        usage: "[ARGS of cargo test]",
        about: "every test, on a PostgreSQL of its own",
        run: test::run,
    },
    Command {
        name: "ci",
        usage: "",
        about: "what CI runs: the checks below, then every test",
        run: ci::run,
    },
    Command {
        name: "contract",
        usage: "",
        about: "install the official clients, and run the tests that need them",
        run: contract::run,
    },
    Command {
        name: "fmt",
        usage: "[--check]",
        about: "format the code",
        run: ci::fmt,
    },
    Command {
        name: "clippy",
        usage: "",
        about: "lint all of it; warnings are errors",
        run: ci::clippy,
    },
    Command {
        name: "sqlx",
        usage: "[--check]",
        about: "renew .sqlx from the queries in the code",
        run: snapshots::sqlx,
    },
    Command {
        name: "schema",
        usage: "[--check]",
        about: "renew migrations/schema.sql from the migrations",
        run: snapshots::schema,
    },
    Command {
        name: "openapi",
        usage: "[--check]",
        about: "renew api/openapi.json from the endpoints",
        run: snapshots::openapi,
    },
    Command {
        name: "bench",
        usage: "[drain|enqueue|latency|limits|steady|webhooks|orders|rescue|peers|routes] [ARGS]",
        about: "measure the queue, the product and the route solver, in release, against the raw limit",
        run: bench::run,
    },
    Command {
        name: "ui",
        usage: "",
        about: "build the console (once there is a ui/)",
        run: ci::ui,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> anyhow::Result<()> {
    std::env::set_current_dir(sh::root()).context("entering the workspace")?;
    let Some((name, rest)) = args.split_first() else {
        list();
        return Ok(());
    };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        list();
        return Ok(());
    }
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => (command.run)(rest),
        None => {
            list();
            bail!("there is no command {name:?}");
        }
    }
}

fn list() {
    println!("cargo xtask COMMAND\n");
    for Command { name, usage, about, .. } in COMMANDS {
        println!("  {:34}{about}", format!("{name} {usage}"));
    }
}

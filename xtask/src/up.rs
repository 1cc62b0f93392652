//! `cargo xtask up`: build, then become `orderfleet up`.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::sh;

const PORT: u16 = 8080;

/// How many ports after the usual one are looked at.
const PORTS_MAX: u16 = 100;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    // `cargo xtask up -- …` is what the hand writes after `cargo run -- …`.
    let args = args.strip_prefix(&["--".to_owned()]).unwrap_or(args);
    // The selection of `cargo test --workspace`, so that both share what they build.
    sh::run(&mut sh::cargo(["build", "--workspace", "--bin", "orderfleet"]))?;
    let mut up = Command::new(sh::target_dir().join("debug/orderfleet"));
    up.arg("up").args(with_defaults(args, free_port()));
    // In our place: signals go straight to it, and its end is ours.
    Err(up.exec()).with_context(|| format!("running {up:?}"))
}

/// Adds what the caller left open.
fn with_defaults(args: &[String], port: u16) -> Vec<String> {
    let says = |flag: &str| {
        args.iter()
            .any(|arg| arg == flag || arg.starts_with(&format!("{flag}=")))
    };
    let mut all = args.to_vec();
    if !says("--data-dir") && std::env::var_os("ORDERFLEET_DATA_DIR").is_none() {
        all.extend([
            "--data-dir".to_owned(),
            sh::root().join(".data/up").display().to_string(),
        ]);
    }
    if !says("--api-port") {
        all.extend(["--api-port".to_owned(), port.to_string()]);
    }
    all
}

fn free_port() -> u16 {
    (PORT..PORT + PORTS_MAX)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .unwrap_or(PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_said_is_kept_and_the_rest_filled_in() {
        let all = with_defaults(&words("--no-demo --data-dir /tmp/here"), 8081);
        assert_eq!(all, words("--no-demo --data-dir /tmp/here --api-port 8081"));
        let all = with_defaults(&words("--api-port=9000 --data-dir=/tmp/here"), 8081);
        assert_eq!(all, words("--api-port=9000 --data-dir=/tmp/here"));
    }
}

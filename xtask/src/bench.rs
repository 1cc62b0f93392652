//! `cargo xtask bench`: the measurements of the queue, in release.

use crate::sh;

pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    let mut bench = sh::cargo(["bench", "--quiet", "--package", "fleet-tests", "--bench", "queue", "--"]);
    bench.args(if args.is_empty() {
        vec!["--help".to_owned()]
    } else {
        args.to_vec()
    });
    sh::run(&mut bench)
}

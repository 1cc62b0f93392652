//! How a process ends when it is told to.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Starts a receiver, which needs nothing else, and waits until it listens.
fn a_receiver(dir: &tempfile::TempDir) -> Child {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let receiver = Command::new(env!("CARGO_BIN_EXE_orderfleet"))
        .args(["webhook-receiver", "--port", &port.to_string(), "--log"])
        .arg(dir.path().join("receiver.jsonl"))
        .env("ORDERFLEET_RECEIVER_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "the receiver does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    receiver
}

#[test]
fn two_signals_at_once_are_one_and_stop_it_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let mut receiver = a_receiver(&dir);
    let pid = Pid::from_child(&receiver);
    // As `timeout` does, which signals its child and then the whole group.
    kill_process(pid, Signal::TERM).unwrap();
    _ = kill_process(pid, Signal::INT);
    let status = receiver.wait().unwrap();
    assert!(status.success(), "{status}");
}

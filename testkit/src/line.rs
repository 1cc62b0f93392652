//! The line between a process and what it talks to, which a test can freeze or cut.
//!
//! A [`Line`] carries any number of connections, to PostgreSQL and to HTTP servers, and counts the *steps* that go over it: a
//! statement that is executed, or a request that is sent. At the step a test has chosen, everything on the line stands still
//! ([`Blow::Freeze`], as if the process had been sent SIGSTOP just before the step), or the step reaches the other side and
//! its answer is lost with the connection ([`Blow::Cut`]). The process itself needs no knowledge of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What happens to a line at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Nothing moves any more, neither the step nor anything else, until the line is thawed.
    Freeze,
    /// The step arrives, and instead of its answer the connection ends. New connections work.
    Cut,
}

/// Lines of a process, frozen and cut as one. Dropping it ends them.
pub struct Line {
    switch: Arc<Switch>,
    listeners: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// What a line carries: that says what a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Postgres,
    Http,
}

struct Switch {
    state: Mutex<State>,
    is_frozen: watch::Sender<bool>,
    is_struck: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// The blow to come, and how many steps from now: 1 is the next.
    planned: Option<(Blow, u32)>,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            switch: Arc::new(Switch {
                state: Mutex::default(),
                is_frozen: watch::Sender::new(false),
                is_struck: watch::Sender::new(false),
            }),
            listeners: Mutex::default(),
        }
    }
}

impl Line {
    /// Leads to a PostgreSQL server, by a host, which may be the directory of its socket; returns how to reach it through the line.
    pub async fn to_postgres(&self, server: &PgConnectOptions) -> PgConnectOptions {
        assert!(
            server.get_socket().is_none(),
            "a socket in the query of the URL goes past any line: give PGHOST instead"
        );
        let (host, port) = (server.get_host(), server.get_port());
        let target = match host.starts_with('/') {
            true => Target::Socket(format!("{host}/.s.PGSQL.{port}")),
            false => Target::Tcp(format!("{host}:{port}")),
        };
        let addr = self.listen(target, Protocol::Postgres).await;
        server
            .clone()
            .host(&addr.ip().to_string())
            .port(addr.port())
            .ssl_mode(PgSslMode::Disable)
    }

    /// Leads to an HTTP server.
    pub async fn to_http(&self, server: SocketAddr) -> SocketAddr {
        self.listen(Target::Tcp(server.to_string()), Protocol::Http).await
    }

    /// Lets the blow fall at the `step`-th step from now, the next being the first.
    pub fn strike_at(&self, step: u32, blow: Blow) {
        self.switch.is_struck.send_replace(false);
        self.switch.state().planned = Some((blow, step));
    }

    /// Calls off the blow that has not fallen yet.
    pub fn spare(&self) {
        self.switch.state().planned = None;
    }

    /// Freezes it now.
    pub fn freeze(&self) {
        self.switch.is_frozen.send_replace(true);
        self.switch.is_struck.send_replace(true);
    }

    /// Lets everything go on that stands still.
    pub fn thaw(&self) {
        self.switch.is_frozen.send_replace(false);
    }

    /// Ends when the blow has fallen.
    pub async fn struck(&self) {
        // The sender lives as long as we do.
        _ = self.switch.is_struck.subscribe().wait_for(|is_struck| *is_struck).await;
    }

    /// Whether the blow has fallen.
    pub fn is_struck(&self) -> bool {
        *self.switch.is_struck.borrow()
    }

    async fn listen(&self, target: Target, protocol: Protocol) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let switch = Arc::clone(&self.switch);
        let listening = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(carry(client, target.clone(), protocol, Arc::clone(&switch)));
            }
        });
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.push(AbortOnDropHandle::new(listening));
        addr
    }
}

#[derive(Clone)]
enum Target {
    Tcp(String),
    Socket(String),
}

/// Carries one connection until either side ends it or it is cut.
async fn carry(client: TcpStream, target: Target, protocol: Protocol, switch: Arc<Switch>) {
    _ = client.set_nodelay(true);
    switch.pass().await;
    let cut = watch::Sender::new(false);
    match target {
        Target::Tcp(addr) => {
            let Ok(server) = TcpStream::connect(addr).await else {
                return;
            };
            _ = server.set_nodelay(true);
            let (client, server) = (client.into_split(), server.into_split());
            tokio::select! {
                _ = ask(client.0, server.1, protocol, &switch, &cut) => {}
                _ = answer(server.0, client.1, &switch, &cut) => {}
            }
        }
        Target::Socket(path) => {
            let Ok(server) = UnixStream::connect(path).await else {
                return;
            };
            let (client, server) = (client.into_split(), server.into_split());
            tokio::select! {
                _ = ask(client.0, server.1, protocol, &switch, &cut) => {}
                _ = answer(server.0, client.1, &switch, &cut) => {}
            }
        }
    }
}

/// From the client to the server, a message at a time.
async fn ask(
    mut client: impl AsyncRead + Unpin,
    mut server: impl AsyncWrite + Unpin,
    protocol: Protocol,
    switch: &Switch,
    cut: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let mut is_started = false;
    loop {
        while let Some(length) = message(&buffer, protocol, is_started) {
            let is_step = match protocol {
                Protocol::Http => true,
                // Execute, or a simple query.
                Protocol::Postgres => is_started && matches!(buffer[0], b'E' | b'Q'),
            };
            is_started = true;
            if is_step && switch.step().await == Some(Blow::Cut) {
                cut.send_replace(true);
            }
            switch.pass().await;
            server.write_all(&buffer[..length]).await?;
            buffer.drain(..length);
        }
        if client.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

/// How long the first whole message is; none while it is not there yet.
fn message(buffer: &[u8], protocol: Protocol, is_started: bool) -> Option<usize> {
    if protocol == Protocol::Http {
        // A small request comes as one.
        return (!buffer.is_empty()).then_some(buffer.len());
    }
    // The first message of a connection has no type.
    let at = usize::from(is_started);
    let length = u32::from_be_bytes(buffer.get(at..at + 4)?.try_into().ok()?) as usize + at;
    (buffer.len() >= length).then_some(length)
}

/// From the server to the client; an answer that is to be lost ends it.
async fn answer(
    mut server: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    switch: &Switch,
    cut: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = server.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        if *cut.borrow() {
            switch.is_struck.send_replace(true);
            return Ok(());
        }
        switch.pass().await;
        client.write_all(&buffer[..length]).await?;
    }
}

impl Switch {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a step, and says which blow falls at it.
    async fn step(&self) -> Option<Blow> {
        self.pass().await;
        let mut state = self.state();
        let (blow, steps) = state.planned?;
        if steps > 1 {
            state.planned = Some((blow, steps - 1));
            return None;
        }
        state.planned = None;
        if blow == Blow::Freeze {
            self.is_frozen.send_replace(true);
            self.is_struck.send_replace(true);
        }
        Some(blow)
    }

    /// Waits while the line is frozen.
    async fn pass(&self) {
        _ = self.is_frozen.subscribe().wait_for(|is_frozen| !is_frozen).await;
    }
}

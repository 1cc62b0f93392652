//! One private cluster, from its directory to its end.
//!
//! The data directory holds `pgdata` (PostgreSQL's own), `password` (0600, of the superuser `postgres`), `log` and
//! `lock`, which the process that has the cluster keeps locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::error::{Error, Symptom, diagnose};
use crate::pid_file::{self, PidFile};

const KEEPER: &str = include_str!("keeper.sh");

/// How often the ready question is asked.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a server may take to end: the keeper's own bounds (fast, immediate, kill) lie within it.
const END_MAX: Duration = Duration::from_secs(30);

/// A free port can be taken between our finding it and PostgreSQL's binding it: then another one is tried.
const PORT_TRIES_MAX: u32 = 5;

/// A log longer than this is put aside at the next start.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// How a cluster is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything of it lies; made when it is not there.
    pub data_dir: PathBuf,
    /// The port on the loopback address; none is any free one.
    pub port: Option<u16>,
    /// Off only where losing the data costs nothing.
    pub fsync: bool,
    /// More settings of PostgreSQL, such as `("max_connections", "300")`.
    pub settings: Vec<(String, String)>,
    /// The directory of the binaries; none is to look for them.
    pub bin_dir: Option<PathBuf>,
    /// When it ends by itself.
    pub lifetime: Lifetime,
    /// How long it may take to get ready, recovery from a crash and the end of a server before it included.
    pub ready_max: Duration,
}

impl Options {
    /// A durable cluster on any free port that ends with this process.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            port: None,
            fsync: true,
            settings: Vec::new(),
            bin_dir: None,
            lifetime: Lifetime::Parent,
            ready_max: Duration::from_secs(60),
        }
    }
}

/// When a cluster ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// With the process that started it, also when that one is killed with -9.
    Parent,
    /// After so long without a client, whoever started it.
    Idle(Duration),
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Clients are cut off, everything is written.
    Fast,
    /// As a crash would end it; the next start recovers.
    Immediate,
}

/// A running server. Dropping it ends it, unless its lifetime says otherwise.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    place: Place,
    binaries: Binaries,
    account: Account,
    password: String,
    port: u16,
    running: Running,
    /// Kept locked.
    _lock: File,
}

/// The paths inside the data directory.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    pgdata: PathBuf,
    password: PathBuf,
    log: PathBuf,
    lock: PathBuf,
}

/// The keeper and what it keeps.
#[derive(Debug)]
struct Running {
    keeper: Child,
    /// The keeper's standard input. Closing it, by whatever means, ends the server.
    told: Option<ChildStdin>,
    pid: u32,
    sockets: PathBuf,
}

impl Cluster {
    /// Starts the cluster, making it first if need be; returns once it answers `select 1`.
    pub fn start(options: Options) -> Result<Self, Error> {
        let dir = std::path::absolute(&options.data_dir).map_err(Error::io("finding", &options.data_dir))?;
        let place = Place::prepare(dir)?;
        let lock = place.take_lock()?;
        let version = place.data_version()?;
        let binaries = find_binaries(&options, &place, version)?;
        let account = Account::choose(&place.pgdata, &binaries.dir)?;
        let password = place.read_or_make_password()?;
        if version.is_none() {
            place.init(&binaries, account, options.fsync)?;
        }
        let (running, port) = launch(&options, &place, &binaries, account, &password, options.port)?;
        Ok(Self {
            options,
            place,
            binaries,
            account,
            password,
            port,
            running,
            _lock: lock,
        })
    }

    /// Where a client finds one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{}@127.0.0.1:{}/{database}",
            self.password, self.port
        )
    }

    /// The port it listens on, the same after every restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// PostgreSQL's own data directory.
    pub fn pgdata(&self) -> &Path {
        &self.place.pgdata
    }

    /// The log it writes.
    pub fn log(&self) -> &Path {
        &self.place.log
    }

    /// The directory of its Unix socket, open to its user only.
    pub fn socket_dir(&self) -> &Path {
        &self.running.sockets
    }

    /// The programs it runs from.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Whether the server lives; a killed one is [`Cluster::restart`]ed.
    pub fn is_running(&mut self) -> bool {
        matches!(self.running.keeper.try_wait(), Ok(None))
    }

    /// Ends the server that way and starts it again on the same port, with the same URL.
    pub fn restart(&mut self, how: Shutdown) -> Result<(), Error> {
        self.running.end(how);
        (self.running, self.port) = launch(
            &self.options,
            &self.place,
            &self.binaries,
            self.account,
            &self.password,
            Some(self.port),
        )?;
        Ok(())
    }

    /// Ends the server and returns when it is gone.
    pub fn stop(mut self, how: Shutdown) {
        self.running.end(how);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.options.lifetime == Lifetime::Parent {
            self.running.end(Shutdown::Fast);
        }
    }
}

impl Running {
    /// Tells the keeper, which has its own deadlines, and waits for it.
    fn end(&mut self, how: Shutdown) {
        if let Some(mut told) = self.told.take() {
            let word: &[u8] = match how {
                Shutdown::Fast => b"fast\n",
                Shutdown::Immediate => b"immediate\n",
            };
            // A keeper that is gone has nothing left to end.
            let _ = told.write_all(word);
        }
        let deadline = Instant::now() + END_MAX;
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                tracing::error!(pid = self.pid, "PostgreSQL does not end");
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Place {
    fn prepare(dir: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&dir).map_err(Error::io("making the data directory", &dir))?;
        if dir.join("PG_VERSION").exists() {
            return Err(Error::Permissions {
                path: dir,
                reason: "it is a data directory of PostgreSQL itself; name one that Orderfleet may make its own in"
                    .to_owned(),
            });
        }
        // Enter, not list: whoever runs the server has to reach `pgdata` below.
        let mut permissions = fs::metadata(&dir).map_err(Error::io("looking at", &dir))?.permissions();
        if permissions.mode() & 0o777 != 0o711 {
            permissions.set_mode(0o711);
            fs::set_permissions(&dir, permissions).map_err(Error::io("setting the permissions of", &dir))?;
        }
        let at = |name: &str| dir.join(name);
        Ok(Self {
            pgdata: at("pgdata"),
            password: at("password"),
            log: at("log"),
            lock: at("lock"),
            dir,
        })
    }

    fn take_lock(&self) -> Result<File, Error> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&self.lock)
            .map_err(Error::io("opening", &self.lock))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(fs::TryLockError::WouldBlock) => Err(Error::InUse { dir: self.dir.clone() }),
            Err(fs::TryLockError::Error(error)) => Err(Error::io("locking", &self.lock)(error)),
        }
    }

    /// The major version of the data, if there is any.
    fn data_version(&self) -> Result<Option<u32>, Error> {
        let path = self.pgdata.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map(Some).map_err(|_| Error::Failed {
                what: format!("reading {}", path.display()),
                output: format!("{:?} is no version", text.trim()),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("reading", &path)(error)),
        }
    }

    fn read_or_make_password(&self) -> Result<String, Error> {
        match fs::read_to_string(&self.password) {
            Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("reading", &self.password)(error)),
        }
        let password = random_hex(24)?;
        write_private(&self.password, &password)?;
        Ok(password)
    }

    /// Makes the cluster beside its place and moves it there last: `pgdata` is whole or not there.
    fn init(&self, binaries: &Binaries, account: Account, fsync: bool) -> Result<(), Error> {
        let unfinished = self.dir.join("pgdata.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::io("removing", &unfinished))?;
        }
        DirBuilder::new()
            .mode(0o700)
            .create(&unfinished)
            .map_err(Error::io("making", &unfinished))?;
        account
            .own(&unfinished)
            .map_err(Error::io("giving away", &unfinished))?;
        let password = fs::read_to_string(&self.password).map_err(Error::io("reading", &self.password))?;
        // Whoever runs initdb has to read it.
        let given = self.dir.join("password.given");
        write_private(&given, &password)?;
        account.own(&given).map_err(Error::io("giving away", &given))?;

        let mut command = account.command(&binaries.program("initdb"));
        command.args([
            "--username=postgres",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
        ]);
        command.arg("--pgdata").arg(&unfinished);
        command.arg(format!("--pwfile={}", given.display()));
        if !fsync {
            command.arg("--no-sync");
        }
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io("running", &binaries.program("initdb")));
        let _ = fs::remove_file(&given);
        let output = output?;
        if !output.status.success() {
            let said = format!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            let _ = fs::remove_dir_all(&unfinished);
            return Err(self.explain(diagnose(&said), None).unwrap_or(Error::Failed {
                what: "initdb".to_owned(),
                output: said,
            }));
        }
        fs::rename(&unfinished, &self.pgdata).map_err(Error::io("moving the new data to", &self.pgdata))
    }

    /// The error that a symptom stands for, as far as it is an error by itself.
    fn explain(&self, symptom: Option<Symptom>, port: Option<u16>) -> Option<Error> {
        match symptom? {
            Symptom::PortInUse => Some(Error::PortInUse { port: port? }),
            Symptom::NoSpace => Some(Error::NoSpace { dir: self.dir.clone() }),
            Symptom::Permissions => Some(Error::Permissions {
                path: self.pgdata.clone(),
                reason: format!(
                    "PostgreSQL may not read or write it; the end of its log:\n{}",
                    tail(&self.log, 0)
                ),
            }),
            Symptom::OtherVersion => Some(Error::OtherVersion {
                dir: self.pgdata.clone(),
                found: self
                    .data_version()
                    .ok()
                    .flatten()
                    .map_or("another version".to_owned(), |major| major.to_string()),
                at_hand: "another".to_owned(),
            }),
            Symptom::OtherServer | Symptom::NotGoneYet => None,
        }
    }
}

fn find_binaries(options: &Options, place: &Place, version: Option<u32>) -> Result<Binaries, Error> {
    let setting = options.bin_dir.as_deref();
    Binaries::find(setting, version).map_err(|error| match (version, Binaries::find(setting, None)) {
        (Some(found), Ok(other)) => Error::OtherVersion {
            dir: place.pgdata.clone(),
            found: found.to_string(),
            at_hand: other.major.to_string(),
        },
        _ => error,
    })
}

/// Starts the server and waits until it answers. What only time cures is tried again until the deadline.
fn launch(
    options: &Options,
    place: &Place,
    binaries: &Binaries,
    account: Account,
    password: &str,
    port: Option<u16>,
) -> Result<(Running, u16), Error> {
    let deadline = Instant::now() + options.ready_max;
    wait_for_the_last_one(place, deadline)?;

    let mut port_tries = 0;
    loop {
        let log_start = open_log(place)?.1;
        let chosen = match port {
            Some(port) => port,
            None => free_port()?,
        };
        let mut running = spawn(options, place, binaries, account, password, chosen)?;
        match wait_until_ready(
            &mut running,
            options,
            place,
            binaries,
            password,
            chosen,
            log_start,
            deadline,
        ) {
            Ok(()) => return Ok((running, chosen)),
            Err(Refusal::Final(error)) => {
                running.end(Shutdown::Immediate);
                return Err(error);
            }
            Err(Refusal::PortTaken) => {
                port_tries += 1;
                if port.is_some() || port_tries == PORT_TRIES_MAX {
                    return Err(Error::PortInUse { port: chosen });
                }
            }
            Err(Refusal::NotGoneYet) => {
                if Instant::now() > deadline {
                    return Err(not_ready(options, place, log_start));
                }
                std::thread::sleep(PAUSE * 4);
            }
        }
    }
}

/// A server before ours may be on its way out, told so by its keeper or killed. Its pid file is never touched while it
/// lives; one whose process id belongs to another program by now is removed, since PostgreSQL would believe it.
fn wait_for_the_last_one(place: &Place, deadline: Instant) -> Result<(), Error> {
    // One that was told to end is gone by then; one that was not will not be.
    const PATIENCE: Duration = Duration::from_secs(15);
    let deadline = deadline.min(Instant::now() + PATIENCE);
    loop {
        let file = place.pgdata.join("postmaster.pid");
        match pid_file::judge(&place.pgdata).map_err(Error::io("reading", &file))? {
            PidFile::Free => return Ok(()),
            PidFile::Reused => {
                tracing::warn!(file = %file.display(), "removing a pid file whose process is another program by now");
                return fs::remove_file(&file).map_err(Error::io("removing", &file));
            }
            PidFile::Live { pid } if Instant::now() > deadline => {
                return Err(Error::OtherServer {
                    dir: place.pgdata.clone(),
                    pid,
                });
            }
            PidFile::Live { .. } => std::thread::sleep(PAUSE),
        }
    }
}

fn spawn(
    options: &Options,
    place: &Place,
    binaries: &Binaries,
    account: Account,
    password: &str,
    port: u16,
) -> Result<Running, Error> {
    let (log, _) = open_log(place)?;
    let sockets = make_socket_dir(account)?;
    let (mode, seconds) = match options.lifetime {
        Lifetime::Parent => ("parent", 0),
        Lifetime::Idle(limit) => ("idle", limit.as_secs().max(1)),
    };
    let mut command = account.command(Path::new("/bin/sh"));
    command
        .arg("-c")
        .arg(keeper_script())
        .args(["keeper", mode])
        .arg(seconds.to_string());
    command
        .arg(&sockets)
        .arg(binaries.program("psql"))
        .arg(binaries.program("postgres"));
    command
        .arg("-D")
        .arg(&place.pgdata)
        .arg("-p")
        .arg(port.to_string())
        .arg("-k")
        .arg(&sockets);
    for setting in [
        "listen_addresses=127.0.0.1",
        "logging_collector=off",
        "log_destination=stderr",
        "unix_socket_permissions=0700",
    ] {
        command.arg("-c").arg(setting);
    }
    command
        .arg("-c")
        .arg(if options.fsync { "fsync=on" } else { "fsync=off" });
    for (name, value) in &options.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    if mode == "idle" {
        command.env("PGPASSWORD", password).env("PGPORT", port.to_string());
        command.stdin(Stdio::null());
    } else {
        command.stdin(Stdio::piped());
    }
    // A group of its own: a signal to ours, such as a terminal's, leaves it alone.
    let mut keeper = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(Error::io("starting the keeper of", &place.dir))?;
    let told = keeper.stdin.take();
    let mut line = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(Error::io("listening to the keeper of", &place.dir))?;
    }
    let pid = line.trim().parse().unwrap_or(0);
    Ok(Running {
        keeper,
        told,
        pid,
        sockets,
    })
}

/// Without its comments, which `ps` would show to everyone who looks.
fn keeper_script() -> String {
    let is_code = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    KEEPER.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

enum Refusal {
    Final(Error),
    PortTaken,
    NotGoneYet,
}

#[expect(
    clippy::too_many_arguments,
    reason = "one caller; a struct for it would only name them twice"
)]
fn wait_until_ready(
    running: &mut Running,
    options: &Options,
    place: &Place,
    binaries: &Binaries,
    password: &str,
    port: u16,
    log_start: u64,
    deadline: Instant,
) -> Result<(), Refusal> {
    loop {
        let ended = running
            .keeper
            .try_wait()
            .map_err(|error| Refusal::Final(Error::io("watching", &place.dir)(error)))?;
        if let Some(status) = ended {
            let said = tail(&place.log, log_start);
            return Err(match diagnose(&said) {
                Some(Symptom::PortInUse) => Refusal::PortTaken,
                Some(Symptom::NotGoneYet) => Refusal::NotGoneYet,
                symptom => Refusal::Final(place.explain(symptom, Some(port)).unwrap_or(Error::Failed {
                    what: format!("postgres ({status})"),
                    output: said,
                })),
            });
        }
        // The socket in its private directory cannot be another server's, as the port could. It comes after the port.
        if running.sockets.join(format!(".s.PGSQL.{port}")).exists() {
            match ask(binaries, &running.sockets, password, port) {
                Ok(()) => return Ok(()),
                Err(said) if said.contains("password authentication failed") => {
                    return Err(Refusal::Final(Error::Permissions {
                        path: place.password.clone(),
                        reason: "its password does not open the cluster beside it; restore the file, or choose another data directory"
                            .to_owned(),
                    }));
                }
                // Starting up, or recovering.
                Err(_) => {}
            }
        }
        if Instant::now() > deadline {
            return Err(Refusal::Final(not_ready(options, place, log_start)));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Ready is what answers, not what listens: a server in recovery listens too.
fn ask(binaries: &Binaries, sockets: &Path, password: &str, port: u16) -> Result<(), String> {
    let output = Account::Ourselves
        .command(&binaries.program("psql"))
        .args(["-X", "-w", "-q", "-A", "-t", "-U", "postgres", "-d", "postgres"])
        .arg("-h")
        .arg(sockets)
        .arg("-p")
        .arg(port.to_string())
        .args(["-c", "select 1"])
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "5")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() && output.stdout.trim_ascii() == b"1" {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn not_ready(options: &Options, place: &Place, log_start: u64) -> Error {
    Error::NotReady {
        seconds: options.ready_max.as_secs(),
        log: place.log.clone(),
        tail: tail(&place.log, log_start),
    }
}

fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| Error::Io {
            doing: "looking for a free port".to_owned(),
            source,
        })
}

/// A Unix socket's path has at most 107 bytes, so it cannot lie in the data directory, wherever that is.
fn make_socket_dir(account: Account) -> Result<PathBuf, Error> {
    let dir = Path::new("/tmp").join(format!("orderfleet-{}", random_hex(8)?));
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(Error::io("making", &dir))?;
    account.own(&dir).map_err(Error::io("giving away", &dir))?;
    Ok(dir)
}

/// Opens the log to append to, and says where what is written from now on begins.
fn open_log(place: &Place) -> Result<(File, u64), Error> {
    let size = fs::metadata(&place.log).map_or(0, |meta| meta.len());
    if size > LOG_BYTES_MAX {
        let _ = fs::rename(&place.log, place.dir.join("log.old"));
    }
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&place.log)
        .map_err(Error::io("opening", &place.log))?;
    let end = log.seek(SeekFrom::End(0)).map_err(Error::io("opening", &place.log))?;
    Ok((log, end))
}

/// The last lines of the log after that place.
fn tail(log: &Path, from: u64) -> String {
    const LINES_MAX: usize = 20;
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.seek(SeekFrom::Start(from));
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    let unfinished = path.with_extension("unfinished");
    let _ = fs::remove_file(&unfinished);
    let write = || {
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(Error::io("writing", path))
}

fn random_hex(bytes: usize) -> Result<String, Error> {
    let path = Path::new("/dev/urandom");
    let mut random = vec![0; bytes];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(Error::io("reading", path))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

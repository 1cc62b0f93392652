//! An append-only file of JSON lines that is on the disk before anybody is told.
//!
//! Lines are handed over in the order in which they must stand in the file; a writer thread takes all that have
//! gathered, writes them at once and syncs once (group commit), so that hundreds of requests a second can each wait for
//! their own line. A write that fails is final: memory is then ahead of the disk, and every later wait fails too.
//!
//! The file is locked while it is open, so two processes never write one journal. A last line that was torn by a crash
//! was never acknowledged; opening cuts it off and says so.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use tokio::sync::watch;

/// Lines that may wait for the writer thread; above it, handing over blocks.
const WAITING_MAX: usize = 8_192;
/// Lines that one write and one sync may cover.
const BATCH_MAX: usize = 1_024;

/// A journal open for appending.
#[derive(Debug)]
pub struct Journal {
    reader: Arc<File>,
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    progress: watch::Receiver<Progress>,
    appended: u64,
    end: u64,
}

/// What the writer thread has achieved.
#[derive(Debug, Clone)]
enum Progress {
    Durable(u64),
    Failed(Arc<str>),
}

/// Where a line stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Its bytes, without the line's end.
    pub length: usize,
}

/// Waits until a line is on the disk.
#[derive(Debug, Clone)]
pub struct Durable {
    progress: watch::Receiver<Progress>,
    count: u64,
}

/// What opening a journal found.
#[derive(Debug)]
pub struct Opened {
    /// The journal, positioned at its end.
    pub journal: Journal,
    /// The torn last line that was cut off, if there was one.
    pub torn: Option<String>,
}

impl Journal {
    /// Opens or creates the file, locks it, and hands every line in it to `each`.
    pub fn open(path: &Path, mut each: impl FnMut(&str, Place) -> anyhow::Result<()>) -> anyhow::Result<Opened> {
        let mut file = locked(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .with_context(|| format!("reading {}", path.display()))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut offset = 0_usize;
        for (index, line) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let text = &line[..line.len() - 1];
            let place = Place {
                offset: offset as u64,
                length: text.len(),
            };
            std::str::from_utf8(text)
                .map_err(anyhow::Error::from)
                .and_then(|text| each(text, place))
                .with_context(|| format!("line {} of {} is damaged", index + 1, path.display()))?;
            offset += line.len();
        }
        let torn = (whole < bytes.len()).then(|| String::from_utf8_lossy(&bytes[whole..]).into_owned());
        if torn.is_some() {
            file.set_len(whole as u64)
                .with_context(|| format!("cutting the torn end off {}", path.display()))?;
            file.sync_all()?;
        }
        sync_folder(path)?;

        let reader = Arc::new(file.try_clone()?);
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let (told, progress) = watch::channel(Progress::Durable(0));
        let name = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                write_all(&mut file, &name, &waiting, &told);
                // Copies of the handle may live on for readers; the lock goes now.
                let _ = file.unlock();
            })
            .context("starting the journal's writer thread")?;
        let (queue, writer) = (Some(queue), Some(writer));
        let journal = Journal {
            reader,
            queue,
            writer,
            progress,
            appended: 0,
            end: whole as u64,
        };
        Ok(Opened { journal, torn })
    }

    /// Hands one line over. It stands behind every earlier one; [`Self::durable`] tells when it is on the disk.
    pub fn append(&mut self, mut line: Vec<u8>) -> Place {
        let place = Place {
            offset: self.end,
            length: line.len(),
        };
        line.push(b'\n');
        self.end += line.len() as u64;
        self.appended += 1;
        // The thread is gone only after a failed write, which every waiter learns from `progress`.
        let _ = self.queue.as_ref().map(|queue| queue.send(line));
        place
    }

    /// Writes what is waiting, unlocks the file and takes no more lines.
    pub fn close(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }

    /// Waits for everything appended up to now.
    pub fn durable(&self) -> Durable {
        Durable {
            progress: self.progress.clone(),
            count: self.appended,
        }
    }

    /// The file, for reading lines at their place.
    pub fn lines(&self) -> Lines {
        Lines(Arc::clone(&self.reader))
    }
}

impl Durable {
    /// Returns when the lines are on the disk, or with the reason why they never will be.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let count = self.count;
        let progress = self
            .progress
            .wait_for(|progress| match progress {
                Progress::Durable(done) => *done >= count,
                Progress::Failed(_) => true,
            })
            .await;
        match progress.as_deref() {
            Ok(Progress::Durable(_)) => Ok(()),
            Ok(Progress::Failed(reason)) => bail!("{reason}"),
            Err(_) => bail!("the journal's writer thread has ended"),
        }
    }

    /// Returns only when writing has failed for good, with the reason.
    pub async fn failed(mut self) -> anyhow::Error {
        match self
            .progress
            .wait_for(|progress| matches!(progress, Progress::Failed(_)))
            .await
            .as_deref()
        {
            Ok(Progress::Failed(reason)) => anyhow::anyhow!("{reason}"),
            _ => anyhow::anyhow!("the journal's writer thread has ended"),
        }
    }
}

/// Reads single lines of a journal that is open for appending.
#[derive(Debug, Clone)]
pub struct Lines(Arc<File>);

impl Lines {
    /// The line at `place`; it must be durable.
    pub fn read(&self, place: Place) -> anyhow::Result<String> {
        let mut bytes = vec![0; place.length];
        self.0
            .read_exact_at(&mut bytes, place.offset)
            .context("reading a line back")?;
        Ok(String::from_utf8(bytes)?)
    }
}

/// The lines of a journal that another process may be writing: whole lines only.
pub fn read(path: &Path) -> anyhow::Result<Vec<serde_json::Value>> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    text[..whole]
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).with_context(|| format!("a line of {}", path.display())))
        .collect()
}

fn locked(path: &Path) -> anyhow::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("creating the folder {}", folder.display()))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "{} is in use by another process: stop that one, or choose another file",
                path.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// Makes the file's own name durable.
fn sync_folder(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("syncing the folder {}", folder.display()))
}

/// The writer thread: gather, write, sync, tell. Ends with the journal, or at the first failure.
fn write_all(file: &mut File, path: &Path, waiting: &Receiver<Vec<u8>>, told: &watch::Sender<Progress>) {
    let mut durable = 0_u64;
    let mut batch = Vec::new();
    while let Ok(first) = waiting.recv() {
        batch.clear();
        batch.extend_from_slice(&first);
        let mut lines = 1_u64;
        for line in waiting.try_iter().take(BATCH_MAX - 1) {
            batch.extend_from_slice(&line);
            lines += 1;
        }
        if let Err(error) = file.write_all(&batch).and_then(|()| file.sync_data()) {
            let reason = format!(
                "writing {} failed: {error}; free some space and start again",
                path.display()
            );
            tracing::error!(%reason, "the journal can't be written any more");
            told.send_replace(Progress::Failed(reason.into()));
            return;
        }
        durable += lines;
        told.send_replace(Progress::Durable(durable));
    }
}

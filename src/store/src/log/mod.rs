//! The log: batches in one total order, durable before they are acknowledged.
//!
//! A batch is enqueued under one lock: its guards are checked, it gets its positions, it is appended to the log file and applied
//! to the engine. Then it waits for a flush that it shares with all batches enqueued meanwhile (group commit).
//!
//! The files are in [`segment`], their contents in [`frame`], what happens at start in [`recover`], the threads behind an open log in
//! [`flush`]. Nothing here replicates: a log beyond one machine would take this module's place.

mod flush;
mod frame;
mod progress;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use parking_lot::{Condvar, Mutex, RwLock};

use self::{
    flush::Work,
    progress::Progress,
    recover::Active,
    segment::{Directory, Files},
};
use crate::{
    batch::{Batch, Domain, Topic},
    engine::{Engine, EngineError, Write},
    ids::Position,
    record::{Value, ValueWriter},
    store::StoreError,
    tables::domains::{APPLIED, DOMAINS},
};

/// How long a segment grows before the next one is begun.
const SEGMENT_BYTES: u64 = 64 << 20;

/// When a batch counts as kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// After an fsync: it survives a power cut.
    Fsync,
    /// After it was handed to the operating system: it survives the process, not a power cut.
    Os,
}

/// A batch that was not committed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Somebody else committed under one of the batch's domains: read again, compute again, commit again.
    #[error("the data this write relied on has changed")]
    Conflict,
    /// There is no room on the disk. Nothing was written; later commits may succeed.
    #[error("the disk is full")]
    Full,
    /// Writes have stopped: a flush failed, or the store is closed.
    #[error("writes have stopped: {0}")]
    Stopped(String),
    /// The batch itself cannot be written (a key with a zero byte, a read that failed).
    #[error("{0}")]
    Invalid(String),
}

impl CommitError {
    /// Whether the same write may succeed later, with nothing changed about it.
    pub fn is_passing(&self) -> bool {
        !matches!(self, Self::Invalid(_))
    }
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("log {path}: {cause}")]
    Io { path: String, cause: std::io::Error },
    /// The log is damaged where batches had been acknowledged, or does not fit the database.
    #[error("log {path}: {what}")]
    Corrupt { path: String, what: String },
    #[error("{path} is locked: another process is using this data directory; stop it first")]
    Locked { path: String },
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        Self::Store(error.into())
    }
}

/// Called with the new durable position and the topics to wake.
pub type Observer = Box<dyn Fn(Position, &[Topic]) + Send + Sync>;

/// A place in the queue for durability: of one batch, or of everything before a barrier.
#[derive(Clone)]
#[must_use = "a batch counts only once its ticket is durable"]
pub struct Ticket {
    shared: Arc<Shared>,
    first: Position,
    last: Position,
}

impl Ticket {
    /// The batch's first position (for a batch without positions of its own: the one it was committed at).
    pub fn position(&self) -> Position {
        self.first
    }

    /// Waits until the batch is durable, and gives its first position. Dropping the future loses nothing but the answer.
    pub async fn durable(self) -> Result<Position, CommitError> {
        let Self { shared, first, last } = self;
        match shared.progress.wait_for(last).await {
            Ok(()) => Ok(first),
            Err(cause) => Err(CommitError::Stopped(cause.to_string())),
        }
    }
}

const CLOSED: &str = "the store is closed";

/// The one log of a store. Dropping it flushes and closes it.
pub struct Log {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Holds the lock on the directory while the log is open.
    lock: Mutex<Option<File>>,
}

/// What the log's threads share.
struct Shared {
    engine: Arc<dyn Engine>,
    /// `None`: a volatile log.
    files: Option<Box<dyn Files>>,
    durability: Durability,
    segment_bytes: u64,
    writer: Mutex<Writer>,
    /// Wakes the thread that retries a refused batch, at closing.
    closing: Condvar,
    /// What waits for the flusher and the trimmer.
    work: Work,
    /// The durable position for readers: a little ahead of what tickets see.
    durable: AtomicU64,
    progress: Progress,
    observers: RwLock<Vec<Observer>>,
}

/// The log's head. Held for the whole of an enqueue, which makes the order total.
struct Writer {
    /// The last position given out.
    last: Position,
    /// `None`: a volatile log.
    active: Option<Active>,
    /// Complete segments that are still there, ascending.
    complete: Vec<Position>,
    /// A batch that is in the log, but that the engine has refused so far. No other batch is taken meanwhile.
    pending: Option<Pending>,
    /// Why the last append failed, if it did.
    trouble: Option<String>,
}

struct Pending {
    writes: Vec<Write>,
    topics: Vec<Topic>,
    cause: EngineError,
}

impl Log {
    /// Opens the log in `dir` (made if missing), and brings the engine up to its end.
    ///
    /// # Errors
    /// Fails if another process has it open, if it cannot be read, and if acknowledged batches are damaged or missing.
    pub fn open(engine: Arc<dyn Engine>, dir: &Path, durability: Durability) -> Result<Self, OpenError> {
        let io_error = |cause| OpenError::Io { path: dir.display().to_string(), cause };
        let files = Directory::create(dir).map_err(io_error)?;
        Self::open_with(engine, Box::new(files), dir, durability, SEGMENT_BYTES)
    }

    fn open_with(
        engine: Arc<dyn Engine>,
        files: Box<dyn Files>,
        dir: &Path,
        durability: Durability,
        segment_bytes: u64,
    ) -> Result<Self, OpenError> {
        let lock = lock_directory(dir)?;
        let recovered = recover::recover(engine.as_ref(), files.as_ref(), segment_bytes)?;
        let writer = Writer {
            last: recovered.last,
            active: Some(recovered.active),
            complete: recovered.complete,
            pending: None,
            trouble: None,
        };
        let shared = Arc::new(Shared::new(engine, Some(files), durability, segment_bytes, writer));
        let mut threads = vec![flush::spawn("log-trim", shared.clone(), flush::run_trimmer)];
        if durability == Durability::Fsync {
            threads.push(flush::spawn("log-flush", shared.clone(), flush::run_flusher));
        }
        let threads = threads.into_iter().collect::<Result<_, _>>();
        let threads = threads.map_err(|cause| OpenError::Io { path: dir.display().to_string(), cause })?;
        if !shared.writer.lock().complete.is_empty() {
            shared.work.request_trim();
        }
        Ok(Self { shared, threads: Mutex::new(threads), lock: Mutex::new(Some(lock)) })
    }

    /// A log that keeps nothing beside what the engine keeps: for tests and simulation. Batches are durable at once.
    pub fn volatile(engine: Arc<dyn Engine>) -> Self {
        let applied = recover::get_applied(engine.as_ref());
        let last = applied.as_ref().copied().unwrap_or_default();
        let writer = Writer { last, active: None, complete: Vec::new(), pending: None, trouble: None };
        let shared = Arc::new(Shared::new(engine, None, Durability::Os, 0, writer));
        if let Err(error) = applied {
            shared.stop(&error.to_string());
        }
        Self { shared, threads: Mutex::default(), lock: Mutex::default() }
    }

    /// Appends and applies a batch. See [`Store::enqueue`](crate::Store::enqueue).
    ///
    /// # Errors
    /// Nothing has been written on any error.
    pub fn enqueue(&self, batch: Batch) -> Result<Ticket, CommitError> {
        if let Some(table) = batch.invalid {
            return Err(CommitError::Invalid(format!(
                "a row for table {table} cannot be encoded, or has a key with a zero byte"
            )));
        }
        let shared = &self.shared;
        let mut writer = shared.writer.lock();
        shared.check_writable(&writer)?;
        let _guard = StopOnPanic(shared);
        shared.check_guards(&batch.guards)?;

        let count = u32::try_from(batch.positions.max(1))
            .map_err(|_| CommitError::Invalid("a batch of too many positions".to_owned()))?;
        let first = writer.last.next();
        let last = Position(writer.last.0 + u64::from(count));
        let Batch { writes, guards, topics, .. } = batch;
        let mut writes = Batch::resolve(writes, first);
        writes.extend(guards.iter().map(|(domain, _)| position_row(DOMAINS.key(&domain.name()).bytes, last)));
        writes.push(position_row(APPLIED.key(&()).bytes, last));

        if writer.active.is_some() {
            let appended = shared.append(&mut writer, first, count, &writes);
            writer.trouble = match &appended {
                Err(error @ (CommitError::Full | CommitError::Stopped(_))) => Some(error.to_string()),
                _ => None,
            };
            appended?;
        }
        match shared.engine.apply(&writes) {
            Ok(()) => {
                writer.last = last;
                shared.applied(&writer, topics);
            }
            // The engine is all that a volatile log has: nothing has happened.
            Err(error) if writer.active.is_none() => return Err(refusal(&error)),
            Err(cause) => {
                tracing::error!(position = first.0, error = %cause, "the database refuses a batch that is in the log; retrying, no writes until then");
                writer.last = last;
                writer.pending = Some(Pending { writes, topics, cause });
                self.spawn_retry();
            }
        }
        Ok(Ticket { shared: shared.clone(), first, last })
    }

    /// A ticket for everything enqueued so far.
    pub fn barrier(&self) -> Ticket {
        let last = self.shared.writer.lock().last;
        Ticket { shared: self.shared.clone(), first: last, last }
    }

    /// The position up to which everything is durable.
    pub fn durable_position(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    /// Calls `observer` each time the log becomes durable further, in order. It must only set flags and wake wakers: the log waits for it.
    pub fn observe(&self, observer: Observer) {
        self.shared.observers.write().push(observer);
    }

    /// Why writes are not taken at the moment, or not any more.
    pub fn write_fault(&self) -> Option<String> {
        if let Some(stopped) = self.shared.progress.stopped() {
            return Some(stopped.to_string());
        }
        let writer = self.shared.writer.lock();
        writer.pending.as_ref().map(|pending| pending.cause.to_string()).or_else(|| writer.trouble.clone())
    }

    /// Flushes log and engine, and closes the log: later commits fail, and the directory may be opened again. A second call does nothing.
    ///
    /// # Errors
    /// Fails if something could not be flushed. What was acknowledged is in the log all the same.
    pub fn close(&self) -> Result<(), EngineError> {
        if self.stop_threads()? {
            self.shared.engine.flush()?;
            *self.lock.lock() = None;
        }
        Ok(())
    }

    /// Whether there was anything to stop.
    fn stop_threads(&self) -> Result<bool, EngineError> {
        {
            let writer = self.shared.writer.lock();
            if !self.shared.work.close() {
                return Ok(false);
            }
            self.shared.closing.notify_all();
            if let Some(active) = writer.active.as_ref().filter(|_| self.shared.durability == Durability::Os)
                && let Err(error) = active.file.sync()
            {
                tracing::error!(%error, "the log could not be flushed at closing");
            }
        }
        // The flusher goes through what is enqueued before it ends.
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A panic has stopped the log already.
            drop(thread.join());
        }
        let fault = self.shared.progress.stopped();
        self.shared.stop(CLOSED);
        match fault {
            Some(fault) => Err(EngineError(fault.to_string())),
            None => Ok(true),
        }
    }

    fn spawn_retry(&self) {
        match flush::spawn("log-retry", self.shared.clone(), flush::run_retry) {
            Ok(thread) => {
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => self.shared.stop(&format!("no thread to retry a refused batch: {error}")),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(error) = self.stop_threads() {
            tracing::error!(%error, "the log was dropped after a fault");
        }
    }
}

impl Shared {
    fn new(
        engine: Arc<dyn Engine>,
        files: Option<Box<dyn Files>>,
        durability: Durability,
        segment_bytes: u64,
        writer: Writer,
    ) -> Self {
        let durable = AtomicU64::new(writer.last.0);
        let progress = Progress::new(writer.last);
        Self {
            engine,
            files,
            durability,
            segment_bytes,
            work: Work::new(writer.last),
            writer: Mutex::new(writer),
            closing: Condvar::new(),
            durable,
            progress,
            observers: RwLock::default(),
        }
    }

    fn check_writable(&self, writer: &Writer) -> Result<(), CommitError> {
        if let Some(stopped) = self.progress.stopped() {
            return Err(CommitError::Stopped(stopped.to_string()));
        }
        if self.work.is_closed() {
            return Err(CommitError::Stopped(CLOSED.to_owned()));
        }
        writer.pending.as_ref().map_or(Ok(()), |pending| Err(refusal(&pending.cause)))
    }

    fn check_guards(&self, guards: &[(Domain, Position)]) -> Result<(), CommitError> {
        for (domain, seen) in guards {
            let key = DOMAINS.key(&domain.name());
            if key.invalid {
                return Err(CommitError::Invalid("the name of a guarded domain holds a zero byte".to_owned()));
            }
            let current = match self.engine.get(&key.bytes).map_err(StoreError::from)? {
                Some(bytes) => {
                    Position::decode(&bytes).map_err(|cause| StoreError::Decode { table: DOMAINS.name, cause })?
                }
                None => Position::ZERO,
            };
            if current != *seen {
                return Err(CommitError::Conflict);
            }
        }
        Ok(())
    }

    /// Writes a batch to the active segment, whole or not at all.
    fn append(&self, writer: &mut Writer, first: Position, count: u32, writes: &[Write]) -> Result<(), CommitError> {
        let frame = frame::encode(first, count, self.work.synced(), writes)
            .ok_or_else(|| CommitError::Invalid(format!("a batch of more than {} bytes", frame::WRITES_LEN_MAX)))?;
        let full = |active: &Active| {
            active.offset > 0 && active.offset + frame.len() as u64 + frame::SEAL_LEN > self.segment_bytes
        };
        if writer.active.as_ref().is_some_and(full) {
            self.rotate(writer)?;
        }
        let Some(active) = &mut writer.active else { return Ok(()) };
        let Err(error) = active.file.write_at(&frame, active.offset) else {
            active.offset += frame.len() as u64;
            self.work.mark_dirty(&active.file);
            return Ok(());
        };
        // Half a frame may be there. It must not stay: the next append might be shorter, and leave its end behind.
        if let Err(worse) = active.file.erase_from(active.offset) {
            let fault = format!("an append to the log failed ({error}), and could not be undone ({worse})");
            self.stop(&fault);
            return Err(CommitError::Stopped(fault));
        }
        if segment::is_full(&error) {
            tracing::warn!(%error, "no space for the log");
            return Err(CommitError::Full);
        }
        let fault = format!("an append to the log failed: {error}");
        self.stop(&fault);
        Err(CommitError::Stopped(fault))
    }

    /// Completes the active segment and begins the next one.
    fn rotate(&self, writer: &mut Writer) -> Result<(), CommitError> {
        let (Some(files), Some(active)) = (&self.files, &mut writer.active) else { return Ok(()) };
        // All of a segment is durable before the next one exists: only the last segment can have a torn tail.
        active.file.sync().map_err(|error| {
            let fault = format!("a flush of the log failed: {error}");
            self.stop(&fault);
            CommitError::Stopped(fault)
        })?;
        self.work.mark_synced(writer.last);
        let next = writer.last.next();
        let file = files.create(next, self.segment_bytes).map_err(|error| {
            tracing::warn!(%error, "the next log file cannot be made");
            if segment::is_full(&error) {
                CommitError::Full
            } else {
                CommitError::Stopped(format!("the next log file cannot be made: {error}"))
            }
        })?;
        // The seal is an extra: with it, a later loss of the next file is noticed.
        if let Err(error) = active.file.write_at(&frame::encode_seal(next, writer.last), active.offset) {
            tracing::warn!(%error, "a complete log file could not be sealed");
        }
        self.work.mark_dirty(&active.file);
        writer.complete.push(active.first);
        *active = Active { file, first: next, offset: 0 };
        self.work.request_trim();
        Ok(())
    }

    /// Goes on with a batch that the engine has applied: to the flusher, or straight to its readers.
    fn applied(&self, writer: &Writer, topics: Vec<Topic>) {
        match self.durability {
            Durability::Fsync => self.work.request_flush(writer.last, topics),
            Durability::Os => self.publish(writer.last, &topics),
        }
    }

    /// Makes a new durable position known: to readers, then to observers, then to tickets. So whoever is woken can read up to it, and a
    /// commit returns only once its topics have been woken.
    fn publish(&self, durable: Position, topics: &[Topic]) {
        self.durable.store(durable.0, Ordering::Release);
        for observer in self.observers.read().iter() {
            observer(durable, topics);
        }
        self.progress.advance(durable);
    }

    /// Stops writes for good. The first cause stays.
    fn stop(&self, cause: &str) {
        if self.progress.stop(cause) && cause != CLOSED {
            tracing::error!(cause, "writes have stopped; nothing is acknowledged any more until a restart");
        }
    }
}

/// Stops writes if the thread panics while this lives: half of an enqueue or of a flush is nothing to go on from.
struct StopOnPanic<'a>(&'a Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop("the log has panicked");
        }
    }
}

/// What a writer is told when the engine does not take a batch.
fn refusal(error: &EngineError) -> CommitError {
    if error.is_full() { CommitError::Full } else { CommitError::Stopped(error.to_string()) }
}

fn position_row(key: Vec<u8>, position: Position) -> Write {
    let mut value = ValueWriter::default();
    position.encode(&mut value);
    Write::Put { key, value: value.bytes }
}

fn lock_directory(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("LOCK");
    let io_error = |cause| OpenError::Io { path: path.display().to_string(), cause };
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(io_error)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { path: path.display().to_string() }),
        Err(TryLockError::Error(cause)) => Err(io_error(cause)),
    }
}

//! The threads behind an open log: the flusher, the trimmer, and the retry of a batch that the engine has refused.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{Pending, Shared, StopOnPanic, segment::SegmentFile};
use crate::{batch::Topic, ids::Position};

/// How soon a batch that the engine refused is tried again at first, and at the latest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Where this many batches came in one round, more are on their way: the next flush is put off a little, to be for more of them. Each flush
/// costs processor time (the system call, waking the flusher, waking who waits) that requests could use.
pub(super) const CROWD: u64 = 4;
const CROWD_PAUSE: Duration = Duration::from_micros(500);

/// How soon a failed removal of old segments is tried again.
const TRIM_RETRY: Duration = Duration::from_secs(30);

/// What waits for the flusher and the trimmer. Its lock is taken after the writer's, never before.
pub(super) struct Work {
    queue: Mutex<Queue>,
    /// There is something to flush, or the log closes.
    flush: Condvar,
    /// There is something to trim, or the log closes.
    trim: Condvar,
    /// The position up to which the log is fsynced.
    synced: AtomicU64,
}

struct Queue {
    /// Written to since they were last flushed, in order.
    dirty: Vec<Arc<dyn SegmentFile>>,
    /// The last position that is applied and waits for its flush.
    applied: Position,
    flushed: Position,
    /// How many batches have been applied since the last round.
    batches: u64,
    topics: HashSet<Topic>,
    trim: bool,
    closed: bool,
}

impl Work {
    pub(super) fn new(last: Position) -> Self {
        Self {
            queue: Mutex::new(Queue {
                dirty: Vec::new(),
                applied: last,
                flushed: last,
                batches: 0,
                topics: HashSet::new(),
                trim: false,
                closed: false,
            }),
            flush: Condvar::new(),
            trim: Condvar::new(),
            synced: AtomicU64::new(last.0),
        }
    }

    pub(super) fn synced(&self) -> Position {
        Position(self.synced.load(Ordering::Acquire))
    }

    pub(super) fn mark_synced(&self, position: Position) {
        self.synced.fetch_max(position.0, Ordering::AcqRel);
    }

    pub(super) fn mark_dirty(&self, file: &Arc<dyn SegmentFile>) {
        let mut queue = self.queue.lock();
        if !queue.dirty.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
            queue.dirty.push(file.clone());
        }
    }

    pub(super) fn request_flush(&self, applied: Position, topics: Vec<Topic>) {
        let mut queue = self.queue.lock();
        queue.applied = applied;
        queue.batches += 1;
        queue.topics.extend(topics);
        self.flush.notify_one();
    }

    pub(super) fn request_trim(&self) {
        self.queue.lock().trim = true;
        self.trim.notify_one();
    }

    /// Whether it was open.
    pub(super) fn close(&self) -> bool {
        let mut queue = self.queue.lock();
        let was_open = !queue.closed;
        queue.closed = true;
        self.flush.notify_all();
        self.trim.notify_all();
        was_open
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }
}

pub(super) fn spawn(name: &str, shared: Arc<Shared>, run: fn(&Shared)) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _guard = StopOnPanic(&shared);
        run(&shared);
    })
}

/// Flushes whatever has been appended since its last round, and publishes it: one fsync for all batches that came in meanwhile.
pub(super) fn run_flusher(shared: &Shared) {
    let mut batches = 0;
    loop {
        if batches >= CROWD {
            thread::sleep(CROWD_PAUSE);
        }
        let (applied, dirty, topics) = {
            let mut queue = shared.work.queue.lock();
            while queue.applied == queue.flushed && !queue.closed {
                shared.work.flush.wait(&mut queue);
            }
            if queue.applied == queue.flushed {
                return;
            }
            queue.flushed = queue.applied;
            batches = std::mem::take(&mut queue.batches);
            (queue.applied, std::mem::take(&mut queue.dirty), std::mem::take(&mut queue.topics))
        };
        for file in dirty {
            if let Err(error) = file.sync() {
                shared.stop(&format!("a flush of the log failed: {error}"));
                return;
            }
        }
        shared.work.mark_synced(applied);
        let topics: Vec<_> = topics.into_iter().collect();
        shared.publish(applied, &topics);
    }
}

/// Removes segments that the engine does not need any more, once it has flushed what they hold.
pub(super) fn run_trimmer(shared: &Shared) {
    let mut again_at: Option<Instant> = None;
    loop {
        {
            let mut queue = shared.work.queue.lock();
            while !queue.trim && !queue.closed {
                match again_at {
                    Some(deadline) if shared.work.trim.wait_until(&mut queue, deadline).timed_out() => break,
                    Some(_) => {}
                    None => shared.work.trim.wait(&mut queue),
                }
            }
            if queue.closed {
                return;
            }
            queue.trim = false;
        }
        again_at = trim(shared).err().map(|error| {
            tracing::warn!(%error, "old log files cannot be removed yet");
            Instant::now() + TRIM_RETRY
        });
    }
}

fn trim(shared: &Shared) -> Result<(), String> {
    let Some(files) = &shared.files else { return Ok(()) };
    let old = {
        let writer = shared.writer.lock();
        if let Some(pending) = &writer.pending {
            return Err(pending.cause.to_string());
        }
        // Every complete segment is wholly applied: batches are applied before the next is appended.
        writer.complete.clone()
    };
    if old.is_empty() {
        return Ok(());
    }
    shared.engine.flush().map_err(|error| error.to_string())?;
    for first in old {
        files.remove(first).map_err(|error| format!("{}: {error}", files.path(first).display()))?;
        shared.writer.lock().complete.retain(|other| *other != first);
    }
    Ok(())
}

/// Tries again to apply the batch that the engine has refused, until it succeeds or the log closes. If it closes, the batch is applied from
/// the log at the next start.
pub(super) fn run_retry(shared: &Shared) {
    let mut delay = RETRY_FIRST;
    loop {
        let mut writer = shared.writer.lock();
        if !shared.work.is_closed() {
            shared.closing.wait_for(&mut writer, delay);
        }
        if shared.work.is_closed() {
            return;
        }
        let Some(Pending { writes, topics, .. }) = writer.pending.take() else { return };
        match shared.engine.apply(&writes) {
            Ok(()) => {
                tracing::info!(position = writer.last.0, "the database takes batches again");
                shared.applied(&writer, topics);
                return;
            }
            Err(cause) => {
                tracing::debug!(error = %cause, "the database still refuses a batch");
                writer.pending = Some(Pending { writes, topics, cause });
            }
        }
        delay = (delay * 2).min(RETRY_MAX);
    }
}

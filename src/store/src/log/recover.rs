//! Bringing the engine up to the log's end at start, and finding out where that end is.
//!
//! After a power cut the log's last segment may end in frames that were never fsynced, and so never acknowledged: these are cut
//! off, with a warning. Anything else that is not as it should be refuses the start: an acknowledged batch may be gone, and only a
//! person can decide what to do about that.

use std::sync::Arc;

use super::{
    OpenError,
    frame::{self, Parsed},
    segment::{Files, SegmentFile},
};
use crate::{engine::Engine, ids::Position, record::Value, store::StoreError, tables::domains::APPLIED};

/// A log ready for appending.
pub(super) struct Recovered {
    /// The last position that is taken. Everything up to here is applied and durable.
    pub(super) last: Position,
    /// First positions of the complete segments, ascending.
    pub(super) complete: Vec<Position>,
    pub(super) active: Active,
}

/// The segment that is appended to.
pub(super) struct Active {
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) first: Position,
    /// Where the next frame goes.
    pub(super) offset: u64,
}

/// The position up to which the engine has applied the log.
pub(super) fn get_applied(engine: &dyn Engine) -> Result<Position, StoreError> {
    let Some(bytes) = engine.get(&APPLIED.key(&()).bytes)? else { return Ok(Position::ZERO) };
    Position::decode(&bytes).map_err(|cause| StoreError::Decode { table: APPLIED.name, cause })
}

pub(super) fn recover(engine: &dyn Engine, files: &dyn Files, segment_bytes: u64) -> Result<Recovered, OpenError> {
    let applied = get_applied(engine)?;
    let firsts = files.list().map_err(|cause| io_error(files, Position::ZERO, cause))?;
    let Some(oldest) = firsts.first().copied() else {
        if applied > Position::ZERO {
            return Err(corrupt(
                files,
                applied.next(),
                format!(
                    "the log's files are gone, but the database has applied the log up to position {applied}: put the log's files back, \
                     or restore database and log together from a backup"
                ),
            ));
        }
        return start_segment(files, Vec::new(), Position::ZERO, segment_bytes);
    };
    if oldest > applied.next() {
        return Err(corrupt(
            files,
            oldest,
            format!(
                "the log begins at position {oldest}, but the database has applied it only up to {applied}: log files are missing, or the \
                 database is older than the log; restore database and log together from a backup"
            ),
        ));
    }

    // Segments that lie wholly before what the engine has are not read: the engine has flushed them.
    let begin = firsts.iter().rposition(|first| *first <= applied.next()).unwrap_or_default();
    let mut end = None;
    for (index, first) in firsts.iter().enumerate().skip(begin) {
        let next_segment = firsts.get(index + 1).copied();
        end = Some(replay_segment(engine, files, *first, next_segment, applied)?);
    }
    let Some(active) = end else {
        return Err(corrupt(files, oldest, "no segment to append to".to_owned()));
    };
    let (active, log_end) = active;
    active.file.sync().map_err(|cause| io_error(files, active.first, cause))?;
    if log_end >= applied {
        let mut complete = firsts;
        complete.pop();
        return Ok(Recovered { last: log_end, complete, active });
    }
    // The engine had made durable what the log had not yet when the power went: whole batches, all applied in order.
    tracing::warn!(
        log_end = log_end.0,
        applied = applied.0,
        "the log ends before what the database has applied (power cut before the last flush); going on behind it"
    );
    start_segment(files, firsts, applied, segment_bytes)
}

fn start_segment(
    files: &dyn Files,
    complete: Vec<Position>,
    last: Position,
    segment_bytes: u64,
) -> Result<Recovered, OpenError> {
    let first = last.next();
    let file = files.create(first, segment_bytes).map_err(|cause| io_error(files, first, cause))?;
    Ok(Recovered { last, complete, active: Active { file, first, offset: 0 } })
}

/// Applies what the engine lacks of one segment. Gives the segment and the last position in it (or before it, if it is empty).
fn replay_segment(
    engine: &dyn Engine,
    files: &dyn Files,
    first: Position,
    next_segment: Option<Position>,
    applied: Position,
) -> Result<(Active, Position), OpenError> {
    let file = files.open(first).map_err(|cause| io_error(files, first, cause))?;
    let bytes = file.read().map_err(|cause| io_error(files, first, cause))?;
    let mut expected = first;
    let mut offset = 0;
    let bad = loop {
        let rest = bytes.get(offset..).unwrap_or_default();
        match frame::parse(rest) {
            Parsed::End => break None,
            Parsed::Bad(what) => break Some(what),
            Parsed::Frame(frame) => {
                if frame.first != expected {
                    let what = format!(
                        "byte {offset}: expected position {expected}, found {}: the log has a hole; restore from a backup",
                        frame.first
                    );
                    return Err(corrupt(files, first, what));
                }
                if frame.is_seal() && next_segment.is_none() {
                    let what = format!(
                        "the log goes on at position {expected}, but that file is missing: put it back, or restore from a backup"
                    );
                    return Err(corrupt(files, first, what));
                }
                if frame.is_seal() {
                    break None;
                }
                if frame.last() > applied {
                    let writes = frame.decode_writes().filter(|_| frame.first > applied).ok_or_else(|| {
                        let what = format!("byte {offset}: the batch at position {expected} does not fit a database at position {applied}");
                        corrupt(files, first, what)
                    })?;
                    engine.apply(&writes)?;
                }
                expected = frame.last().next();
                offset += frame.len;
            }
        }
    };
    match (bad, next_segment) {
        (None, None) => {}
        (_, Some(next)) if next == expected => {}
        (_, Some(next)) => {
            let what = format!(
                "byte {offset}: {}; the batches from position {expected} to {} are damaged or missing; restore from a backup",
                bad.unwrap_or("the segment ends early"),
                Position(next.0.saturating_sub(1))
            );
            return Err(corrupt(files, first, what));
        }
        (Some(bad), None) => cut_torn_tail(files, first, file.as_ref(), &bytes, offset, expected, bad)?,
    }
    let log_end = Position(expected.0.saturating_sub(1));
    Ok((Active { file, first, offset: offset as u64 }, log_end))
}

/// Cuts off a tail that was never acknowledged; refuses to if a frame behind it tells that it was.
fn cut_torn_tail(
    files: &dyn Files,
    first: Position,
    file: &dyn SegmentFile,
    bytes: &[u8],
    offset: usize,
    expected: Position,
    bad: &'static str,
) -> Result<(), OpenError> {
    let tail = bytes.get(offset..).unwrap_or_default();
    if let Some(witness) = frame::find_frames(tail).find(|frame| frame.synced >= expected) {
        let what = format!(
            "byte {offset}: {bad}; the batch at position {expected} is damaged, and it had been acknowledged: the frame of position {} behind \
             it says so. Restore database and log from a backup; the file is left as it is",
            witness.first
        );
        return Err(corrupt(files, first, what));
    }
    let cut_bytes = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    tracing::warn!(
        file = %files.path(first).display(),
        offset,
        cut_bytes,
        position = expected.0,
        "{bad}: cut off the log's torn tail, which was never acknowledged"
    );
    file.erase_from(offset as u64).map_err(|cause| io_error(files, first, cause))
}

fn corrupt(files: &dyn Files, segment: Position, what: String) -> OpenError {
    OpenError::Corrupt { path: files.path(segment).display().to_string(), what }
}

fn io_error(files: &dyn Files, segment: Position, cause: std::io::Error) -> OpenError {
    OpenError::Io { path: files.path(segment).display().to_string(), cause }
}

//! The log: batches in one total order, durable before they are acknowledged.
//!
//! A batch is enqueued under one lock: its guards are checked, it gets its positions, it is appended to the log file and applied
//! to the engine. Then it waits for a flush that it shares with all batches enqueued meanwhile (group commit).

use std::{
    path::Path,
    sync::{Arc, atomic::{AtomicU64, Ordering}},
};

use parking_lot::{Mutex, RwLock};

use crate::{
    batch::{Batch, Topic},
    engine::{Engine, EngineError, Write},
    ids::Position,
    key::KeyReader,
    record::{Value, ValueWriter},
    store::StoreError,
    tables::domains::{APPLIED, DOMAINS},
};

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
    #[error("log {path}: {what}")]
    Corrupt { path: String, what: String },
    #[error("{path} is in use by another process")]
    Locked { path: String },
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        Self::Store(error.into())
    }
}

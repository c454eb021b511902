//! What the store asks of a key-value engine.

use bytes::Bytes;

/// Which way a scan walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Forward,
    Reverse,
}

/// One change to the engine. Keys begin with the table's id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    /// Deletes every key in `start..end`.
    DeleteRange {
        start: Vec<u8>,
        end: Vec<u8>,
    },
}

impl Write {
    /// How many bytes its keys and values have.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Delete { key } => key.len(),
            Self::DeleteRange { start, end } => start.len() + end.len(),
        }
    }
}

/// A failure of the engine: I/O, corruption, no space.
#[derive(Debug, thiserror::Error)]
#[error("storage engine: {0}")]
pub struct EngineError(pub String);

/// The words by which an engine says that its disk is full; see [`EngineError::is_full`].
pub const NO_SPACE: &str = "no space left on the disk";

impl EngineError {
    /// Whether the cause is a full disk, so that the same write may succeed later.
    pub fn is_full(&self) -> bool {
        self.0.contains(NO_SPACE)
    }
}

pub type ScanItem = Result<(Bytes, Bytes), EngineError>;

/// A sorted map of bytes with atomic batches.
///
/// An engine need not make [`apply`](Engine::apply) durable by itself: the log in front of it is durable, and replays what the
/// engine had not flushed. It must recover to a state after a whole number of applied batches.
pub trait Engine: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The values of several keys, in their order. The keys are sorted: what lies side by side can be read at once.
    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, EngineError> {
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The entries with keys in `start..end`, in order or in reverse.
    ///
    /// The iterator may or may not see what is applied while it runs: bound it by position where that matters.
    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a>;

    /// Applies all the writes, or none.
    fn apply(&self, writes: &[Write]) -> Result<(), EngineError>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<(), EngineError>;
}

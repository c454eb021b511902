//! Small numbers that stand for long identifiers in keys, and positions in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

numeric_id! {
    /// A room, interned.
    RoomNid
}
numeric_id! {
    /// An event, interned: handed out in the order in which this server first stored events.
    EventNid
}
numeric_id! {
    /// A pair of event type and state key, interned.
    StateKeyNid
}

/// A place in the log, from 1 upwards; 0 is "before everything".
///
/// Within a [`Batch`](crate::Batch) that is not committed yet a position is *symbolic*: it stands for the n-th position the
/// batch will be given, and is filled in by the log in the keys and [`Stamped`](crate::Stamped) values that hold it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

const SYMBOLIC: u64 = 1 << 63;

impl Position {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(SYMBOLIC - 1);

    pub(crate) fn symbolic(index: u64) -> Self {
        Self(SYMBOLIC | index)
    }

    pub(crate) fn is_symbolic(self) -> bool {
        self.0 & SYMBOLIC != 0
    }

    /// The position this stands for in a batch whose first position is `first`.
    pub(crate) fn resolve(self, first: Position) -> Position {
        if self.is_symbolic() { Self(first.0 + (self.0 & !SYMBOLIC)) } else { self }
    }

    /// The position right after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

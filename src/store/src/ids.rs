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

/// Where an event stands among the events of the same depth in its room.
///
/// Events that arrived live are ordered by their position; events fetched from before that come before all live ones, the later they
/// were fetched the earlier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// The n-th event that was backfilled into its room, from 1.
    Backfilled(u64),
    Live(Position),
}

impl Order {
    /// Before every event of its depth.
    pub const FIRST: Self = Self::Backfilled(u64::MAX);
    /// After every event of its depth.
    pub const LAST: Self = Self::Live(Position::MAX);

    /// As a signed number, for tokens: positive for live events.
    pub fn to_signed(self) -> i64 {
        match self {
            Self::Backfilled(n) => i64::try_from(n).map_or(i64::MIN, |n| -n),
            Self::Live(position) => i64::try_from(position.0).unwrap_or(i64::MAX),
        }
    }

    pub fn from_signed(number: i64) -> Self {
        if number < 0 { Self::Backfilled(number.unsigned_abs()) } else { Self::Live(Position(number.unsigned_abs())) }
    }
}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Backfilled(a), Self::Backfilled(b)) => b.cmp(a),
            (Self::Backfilled(_), Self::Live(_)) => std::cmp::Ordering::Less,
            (Self::Live(_), Self::Backfilled(_)) => std::cmp::Ordering::Greater,
            (Self::Live(a), Self::Live(b)) => a.cmp(b),
        }
    }
}

//! The store's own rows.

use crate::{ids::Position, table::Table};

/// The log position up to which batches are applied to the engine. Key: nothing.
/// Written by the log with each batch, in the same atomic write; read at start.
pub const APPLIED: Table<(), Position> = Table::new(1, "applied");

/// Consistency domain (its name) -> the position of the last batch guarded by it. Written by the log; read by the log and by
/// authors of guarded batches. Grows with the number of domains: a row for each room, account and name ever guarded.
pub const DOMAINS: Table<String, Position> = Table::new(2, "domains").cached();

//! The store: one totally ordered log of batches, and the key-value engine the log is applied to.
//!
//! Writers fill a [`Batch`] (rows, guards, symbolic positions, topics) and hand it to [`Store::commit`]. Readers use the typed
//! [`tables`] through [`Store::get`] and [`Store::scan`]. Nothing here knows Matrix rules, HTTP or RocksDB.
//!
//! Start reading at [`store`], then [`tables`].

pub mod batch;
#[doc(hidden)]
pub mod conformance;
pub mod engine;
pub mod ids;
pub mod interner;
pub mod key;
pub mod log;
pub mod memory;
pub mod record;
mod row_cache;
pub mod store;
pub mod table;
pub mod tables;

pub use batch::{Batch, Domain, Topic};
pub use engine::{Direction, Engine, EngineError, Write};
pub use ids::{EventNid, Order, Position, RoomNid, StateKeyNid};
pub use key::{Key, KeyReader, KeyWriter};
pub use log::{CommitError, Durability, OpenError, Ticket};
pub use memory::MemoryEngine;
pub use record::{DecodeError, Json, Stamped, Value, ValueWriter};
pub use store::{Store, StoreError, StoreOptions};
pub use table::Table;

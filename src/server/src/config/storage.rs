//! `[storage]`: how the database treats the disk and memory.

use serde::{Deserialize, Serialize};

use super::Refusals;

const MIB: u64 = 1024 * 1024;

/// Durability and memory of the database in `data_dir`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    pub durability: Durability,
    /// Memory for parsed events.
    pub event_cache_bytes: u64,
    /// Memory for rows of the database that are read again and again.
    pub row_cache_bytes: u64,
    /// Memory for blocks of the database's files.
    pub block_cache_bytes: u64,
    /// Writes collected in memory before they are sorted into a file. Up to three times as much exists at a time.
    pub write_buffer_bytes: u64,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the disk has confirmed it: an acknowledged event survives a power cut.
    #[default]
    Fsync,
    /// When the operating system has it: it survives a crash of the server, not of the machine.
    Os,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            durability: Durability::Fsync,
            event_cache_bytes: 24 * MIB,
            row_cache_bytes: 12 * MIB,
            block_cache_bytes: 16 * MIB,
            write_buffer_bytes: 8 * MIB,
        }
    }
}

impl StorageSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        for (key, bytes) in [
            ("storage.event_cache_bytes", self.event_cache_bytes),
            ("storage.row_cache_bytes", self.row_cache_bytes),
            ("storage.block_cache_bytes", self.block_cache_bytes),
            ("storage.write_buffer_bytes", self.write_buffer_bytes),
        ] {
            if bytes < MIB {
                refusals.add(key, bytes.to_string(), "a number of bytes from 1048576 (1 MiB)");
            }
        }
    }
}

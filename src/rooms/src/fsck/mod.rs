//! Checks what is stored of rooms: that rows that say the same thing twice agree, that what a row names is there, and that
//! content-addressed rows have the content they are named by.
//!
//! It reads and never writes, on a store that nothing else uses. What it finds it says one by one, with what could be done: most
//! rows follow from others, and can be written anew from them.

mod graph;
mod heads;
mod members;
mod trees;

use std::fmt;

use chappe_store::{Direction, Store, Table, Value, key::Key};
use ruma::ServerName;

/// The name under which findings about the engine's files are told.
const DATABASE: &str = "database";

/// How a finding can be mended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// The row follows from other rows: it would be written anew, or deleted, by what they say.
    Derive,
    /// Other servers or clients have it: it would be fetched or uploaded again.
    Fetch,
    /// Nothing here says what it was. It is in a backup.
    Restore,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Derive => "would be written anew from other rows",
            Self::Fetch => "would be fetched again",
            Self::Restore => "restore it from a backup",
        })
    }
}

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The table, or the folder of files.
    pub place: &'static str,
    /// The row or file, and what is wrong with it.
    pub what: String,
    pub repair: Repair,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.what, self.repair)
    }
}

/// A check on its way through a store.
pub struct Check<'a> {
    pub store: &'a Store,
    pub server_name: &'a ServerName,
    found: &'a mut dyn FnMut(Finding),
    /// How many rows have been looked at.
    pub rows: u64,
}

impl<'a> Check<'a> {
    pub fn new(store: &'a Store, server_name: &'a ServerName, found: &'a mut dyn FnMut(Finding)) -> Self {
        Self { store, server_name, found, rows: 0 }
    }

    /// Notes a finding about a row of a table.
    pub fn report<K: Key, V: Value>(&mut self, table: &Table<K, V>, what: String, repair: Repair) {
        self.report_at(table.name, what, repair);
    }

    /// Notes a finding at a place that is no table.
    pub fn report_at(&mut self, place: &'static str, what: String, repair: Repair) {
        (self.found)(Finding { place, what, repair });
    }

    /// Reads every row of every table: the engine finds blocks that are not as they were written.
    pub fn read_all(&mut self) {
        let store = self.store;
        self.rows += store.read_all(|error| self.report_at(DATABASE, error.to_string(), Repair::Restore));
    }

    /// Looks at each row below a prefix. A row that cannot be read is a finding, and the rest is looked at all the same, as far as the
    /// engine can go on.
    pub fn each<K: Key, V: Value, P: Key>(
        &mut self,
        table: &Table<K, V>,
        prefix: &P,
        mut look: impl FnMut(&mut Self, K, V),
    ) {
        let store = self.store;
        for row in store.scan(table, prefix, Direction::Forward) {
            self.rows += 1;
            match row {
                Ok((key, value)) => look(self, key, value),
                Err(error) => self.report(table, error.to_string(), Repair::Restore),
            }
        }
    }

    /// The value of a row, if there is one. One that cannot be read is a finding, and is as good as none.
    pub fn get<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) -> Option<V> {
        self.find(table, key).flatten()
    }

    /// As [`Check::get`], but `None` for a row that cannot be read, and `Some(None)` where there is none.
    pub fn find<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) -> Option<Option<V>> {
        match self.store.get(table, key) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report(table, error.to_string(), Repair::Restore);
                None
            }
        }
    }
}

/// Checks everything that the rooms crate stores.
pub fn check_rooms(check: &mut Check<'_>) {
    graph::check_events(check);
    graph::check_orders(check);
    graph::check_auth_index(check);
    trees::check_nodes(check);
    heads::check_rooms(check);
    members::check_members(check);
}

#[cfg(test)]
mod tests;

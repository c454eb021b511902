//! A typed table: a name, an id, and the types of its keys and values.

use std::marker::PhantomData;

use crate::{
    key::{Key, KeyWriter},
    record::Value,
};

/// A table of the store. Tables are constants in [`crate::tables`]; the id is the first byte of each key and never changes.
pub struct Table<K, V> {
    pub id: u8,
    pub name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Key, V: Value> Table<K, V> {
    pub const fn new(id: u8, name: &'static str) -> Self {
        Self { id, name, types: PhantomData }
    }

    pub(crate) fn writer(&self) -> KeyWriter {
        let mut writer = KeyWriter::default();
        writer.bytes(&[self.id]);
        writer
    }

    pub(crate) fn key(&self, key: &impl Key) -> KeyWriter {
        let mut writer = self.writer();
        key.encode(&mut writer);
        writer
    }
}

/// The smallest key that is greater than every key with this prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

//! An engine in memory, for tests and simulation.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::engine::{Direction, Engine, EngineError, ScanItem, Write};

/// How many entries a scan copies out at a time, so that it does not hold the lock while its reader works.
const SCAN_CHUNK: usize = 64;

#[derive(Default)]
pub struct MemoryEngine {
    map: RwLock<BTreeMap<Vec<u8>, Bytes>>,
}

impl MemoryEngine {
    pub fn new() -> Self {
        Self::default()
    }

    fn chunk(&self, start: &[u8], end: &[u8], direction: Direction) -> Vec<(Bytes, Bytes)> {
        if start >= end {
            return Vec::new();
        }
        let map = self.map.read();
        let range = map.range(start.to_vec()..end.to_vec());
        let copy = |(key, value): (&Vec<u8>, &Bytes)| (Bytes::copy_from_slice(key), value.clone());
        match direction {
            Direction::Forward => range.take(SCAN_CHUNK).map(copy).collect(),
            Direction::Reverse => range.rev().take(SCAN_CHUNK).map(copy).collect(),
        }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.map.read().get(key).cloned())
    }

    fn scan<'a>(
        &'a self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        let (mut start, mut end) = (start.to_vec(), end.to_vec());
        let mut chunk = self.chunk(&start, &end, direction).into_iter();
        Box::new(std::iter::from_fn(move || {
            if chunk.len() == 0 {
                chunk = self.chunk(&start, &end, direction).into_iter();
            }
            let (key, value) = chunk.next()?;
            match direction {
                Direction::Forward => {
                    start = key.to_vec();
                    start.push(0);
                }
                Direction::Reverse => end = key.to_vec(),
            }
            Some(Ok((key, value)))
        }))
    }

    fn apply(&self, writes: &[Write]) -> Result<(), EngineError> {
        let mut map = self.map.write();
        for write in writes {
            match write {
                Write::Put { key, value } => {
                    map.insert(key.clone(), Bytes::copy_from_slice(value));
                }
                Write::Delete { key } => {
                    map.remove(key);
                }
                Write::DeleteRange { start, end } if start >= end => {}
                Write::DeleteRange { start, end } => {
                    let gone: Vec<_> = map.range(start.clone()..end.clone()).map(|(key, _)| key.clone()).collect();
                    for key in gone {
                        map.remove(&key);
                    }
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;

    crate::conformance_tests!(|_: &Path| Arc::new(MemoryEngine::new()) as Arc<dyn Engine>);
}

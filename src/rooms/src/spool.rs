//! Events of another server, put aside on disk until all have arrived: a large state need not be in memory, and its events can be taken in
//! in an order in which each comes after those that authorize it.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::Path,
};

use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::remote::RawEvents;

/// The most events that are put aside at a time.
const EVENTS_MAX: usize = 2_000_000;

/// Where an event lies.
struct Place {
    depth: i64,
    offset: u64,
    length: usize,
}

/// Events in a file that has no name, and so goes with this process.
pub(crate) struct EventSpool {
    file: BufWriter<File>,
    length: u64,
    places: Vec<Place>,
}

/// The events of a spool, from the lowest depth to the highest.
pub(crate) struct SpooledEvents {
    file: File,
    places: std::vec::IntoIter<Place>,
}

impl EventSpool {
    /// `directory`: where the file is made; the system's directory for such files if there is none.
    pub(crate) fn new(directory: Option<&Path>) -> io::Result<Self> {
        let file = match directory {
            Some(directory) => tempfile::tempfile_in(directory)?,
            None => tempfile::tempfile()?,
        };
        Ok(Self { file: BufWriter::new(file), length: 0, places: Vec::new() })
    }

    pub(crate) fn push(&mut self, event: &str) -> io::Result<()> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            depth: i64,
        }
        if self.places.len() >= EVENTS_MAX {
            return Err(io::Error::other(format!("more than {EVENTS_MAX} events")));
        }
        let depth = serde_json::from_str::<Head>(event).map_or(i64::MAX, |head| head.depth);
        self.file.write_all(event.as_bytes())?;
        self.places.push(Place { depth, offset: self.length, length: event.len() });
        self.length += event.len() as u64;
        Ok(())
    }

    pub(crate) fn into_events(mut self) -> io::Result<SpooledEvents> {
        self.places.sort_by_key(|place| place.depth);
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(SpooledEvents { file, places: self.places.into_iter() })
    }
}

impl SpooledEvents {
    /// The next events, at most `limit`; none at the end. What is no JSON is left out.
    pub(crate) fn read_next(&mut self, limit: usize) -> io::Result<RawEvents> {
        let mut events = Vec::new();
        for place in self.places.by_ref().take(limit) {
            let mut text = vec![0; place.length];
            self.file.seek(SeekFrom::Start(place.offset))?;
            self.file.read_exact(&mut text)?;
            events.extend(String::from_utf8(text).ok().and_then(|text| RawJsonValue::from_string(text).ok()));
        }
        Ok(events)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.as_slice().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_by_depth_a_few_at_a_time() {
        let mut spool = EventSpool::new(None).expect("a spool");
        for event in [r#"{"depth":7,"a":"é"}"#, r#"{"depth":2}"#, "no JSON", r#"{"depth":3}"#, "{}"] {
            spool.push(event).expect("written");
        }
        let mut events = spool.into_events().expect("readable");
        let mut next = |limit| {
            let events = events.read_next(limit).expect("read");
            events.iter().map(|event| event.get().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(next(2), ["{}", r#"{"depth":2}"#]);
        assert_eq!(next(3), [r#"{"depth":3}"#, r#"{"depth":7,"a":"é"}"#]);
        assert!(next(3).is_empty());
        assert!(events.is_empty());
    }
}

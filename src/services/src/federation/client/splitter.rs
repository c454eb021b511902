//! Takes the events out of a large answer while it arrives, so that it is never in memory as a whole.
//!
//! It follows the JSON only as far as it must to find where events begin and end. What it hands on is not checked in any way.

use chappe_rooms::remote::EachEvent;

/// The largest event, in bytes: twice what one may have, for what servers add to it in `unsigned`.
const EVENT_BYTES_MAX: usize = 128 * 1024;
/// The longest key that can be one of those looked for.
const KEY_BYTES_MAX: usize = 32;

/// Why an answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum SplitError {
    #[error("the answer is no object with lists of events")]
    Shape,
    #[error("the answer ends in the middle")]
    Cut,
    #[error("an event is larger than {EVENT_BYTES_MAX} bytes")]
    EventTooLarge,
    #[error("{0}")]
    Taken(#[from] std::io::Error),
}

/// Splits an object whose fields of certain names are lists of objects.
pub(super) struct EventSplitter<const N: usize> {
    lists: [&'static str; N],
    found: [bool; N],
    depth: usize,
    /// Inside a string; and right behind a backslash in it.
    in_string: bool,
    is_escaped: bool,
    /// The next string at the first level is a key.
    awaits_key: bool,
    key: Vec<u8>,
    /// Inside one of the lists.
    in_list: bool,
    /// The event that is being read; empty between events.
    event: Vec<u8>,
}

impl<const N: usize> EventSplitter<N> {
    pub(super) fn new(lists: [&'static str; N]) -> Self {
        Self {
            lists,
            found: [false; N],
            depth: 0,
            in_string: false,
            is_escaped: false,
            awaits_key: true,
            key: Vec::new(),
            in_list: false,
            event: Vec::new(),
        }
    }

    /// Takes in the next piece of the answer.
    pub(super) fn split(&mut self, piece: &[u8], each: &mut EachEvent<'_>) -> Result<(), SplitError> {
        for byte in piece {
            self.take(*byte, each)?;
        }
        Ok(())
    }

    /// That the answer is complete, with all its lists.
    pub(super) fn finish(&self) -> Result<(), SplitError> {
        match (self.depth, self.found.iter().all(|found| *found)) {
            (0, true) => Ok(()),
            (0, false) => Err(SplitError::Shape),
            _ => Err(SplitError::Cut),
        }
    }

    fn take(&mut self, byte: u8, each: &mut EachEvent<'_>) -> Result<(), SplitError> {
        if self.in_event() {
            if self.event.len() >= EVENT_BYTES_MAX {
                return Err(SplitError::EventTooLarge);
            }
            self.event.push(byte);
        }
        if self.in_string {
            self.take_in_string(byte);
            return Ok(());
        }
        match byte {
            b'"' => {
                if self.depth == 0 || self.in_list && self.depth == 2 {
                    return Err(SplitError::Shape);
                }
                self.in_string = true;
                if self.depth == 1 && self.awaits_key {
                    self.key.clear();
                }
            }
            b'{' | b'[' => self.open(byte)?,
            b'}' | b']' => self.close(each)?,
            b':' if self.depth == 1 => self.awaits_key = false,
            b',' if self.depth == 1 => self.awaits_key = true,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // Between events there are only commas, and outside of the object there is nothing.
            _ if self.depth == 0 || self.in_list && self.depth == 2 && byte != b',' => return Err(SplitError::Shape),
            _ => {}
        }
        Ok(())
    }

    fn take_in_string(&mut self, byte: u8) {
        let ends = byte == b'"' && !self.is_escaped;
        if ends {
            self.in_string = false;
        } else if self.depth == 1 && self.awaits_key && self.key.len() < KEY_BYTES_MAX {
            self.key.push(byte);
        }
        self.is_escaped = byte == b'\\' && !self.is_escaped;
    }

    fn in_event(&self) -> bool {
        self.in_list && self.depth > 2
    }

    fn open(&mut self, byte: u8) -> Result<(), SplitError> {
        match self.depth {
            0 if byte == b'{' && !self.found.contains(&true) => {}
            0 => return Err(SplitError::Shape),
            1 => {
                let list = self.lists.iter().position(|list| list.as_bytes() == self.key);
                if let Some(found) = list.and_then(|list| self.found.get_mut(list)) {
                    if byte != b'[' || *found {
                        return Err(SplitError::Shape);
                    }
                    *found = true;
                    self.in_list = true;
                }
            }
            2 if self.in_list => {
                if byte != b'{' {
                    return Err(SplitError::Shape);
                }
                self.event.clear();
                self.event.push(byte);
            }
            _ => {}
        }
        self.depth += 1;
        Ok(())
    }

    fn close(&mut self, each: &mut EachEvent<'_>) -> Result<(), SplitError> {
        self.depth = self.depth.checked_sub(1).ok_or(SplitError::Shape)?;
        match self.depth {
            2 if self.in_list => {
                let event = std::str::from_utf8(&self.event).map_err(|_| SplitError::Shape)?;
                each(event)?;
                self.event.clear();
            }
            1 => self.in_list = false,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Split in pieces of every size, which must not matter.
    fn split(text: &str) -> Result<Vec<String>, String> {
        let mut outcomes: Vec<Result<Vec<String>, String>> = Vec::new();
        for size in [1, 2, 3, 7, text.len().max(1)] {
            let mut events = Vec::new();
            let mut splitter = EventSplitter::new(["pdus", "auth_chain"]);
            let mut each = |event: &str| {
                events.push(event.to_owned());
                Ok(())
            };
            let mut pieces = text.as_bytes().chunks(size);
            let outcome =
                pieces.try_for_each(|piece| splitter.split(piece, &mut each)).and_then(|()| splitter.finish());
            outcomes.push(outcome.map(|()| events).map_err(|error| error.to_string()));
        }
        assert!(outcomes.windows(2).all(|two| two[0] == two[1]), "{text}: {outcomes:?}");
        outcomes.swap_remove(0)
    }

    #[test]
    fn events_of_the_lists_come_out_as_they_are() {
        let tricky = r#"{"a":"]}\\\"{[","b":[{"pdus":[{}]}],"c":{"auth_chain":"é"}}"#;
        let text = format!(
            r#" {{"other":[{{"x":1}},"pdus"],"pdus" : [ {tricky} , {{}}],"n":-1.5e3,"t":true,"auth_chain":[{tricky}],"k\"ey":null}} "#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert_eq!(split(&text), Ok(vec![tricky.to_owned(), "{}".to_owned(), tricky.to_owned()]));
        assert_eq!(split(r#"{"pdus":[],"auth_chain":[]}"#), Ok(Vec::new()));
    }

    #[test]
    fn other_answers_are_refused() {
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"pdus":[]}"#,
            r#"{"pdus":{},"auth_chain":[]}"#,
            r#"{"pdus":[1],"auth_chain":[]}"#,
            r#"{"pdus":["x"],"auth_chain":[]}"#,
            r#"{"pdus":[[]],"auth_chain":[]}"#,
            r#"{"pdus":[],"pdus":[],"auth_chain":[]}"#,
            r#"{"pdus":[],"auth_chain":[]}]"#,
            r#"{"pdus":[],"auth_chain":[]}{}"#,
            r#"{"pdus":[],"auth_chain":[{"a":1"#,
        ] {
            assert!(split(text).is_err(), "{text}");
        }
        let large = format!(r#"{{"pdus":[{{"a":"{}"}}],"auth_chain":[]}}"#, "x".repeat(EVENT_BYTES_MAX));
        let mut splitter = EventSplitter::new(["pdus"]);
        assert!(matches!(splitter.split(large.as_bytes(), &mut |_| Ok(())), Err(SplitError::EventTooLarge)));
    }
}

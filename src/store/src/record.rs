//! Encoding of values: versioned records, JSON, plain bytes, and values stamped with their position in the log.

use bytes::Bytes;
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::{Serialize, de::DeserializeOwned};

use crate::ids::{EventNid, Order, Position, RoomNid, StateKeyNid};

/// A stored key or value that cannot be read: damage, or data of a newer version of the program.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// How long most records are at the most.
const RECORD_BYTES: usize = 128;

/// Collects the bytes of one value.
#[derive(Default)]
pub struct ValueWriter {
    pub(crate) bytes: Vec<u8>,
    pub(crate) symbolic_at: Vec<usize>,
    /// Something could not be encoded: the batch is refused.
    pub(crate) invalid: bool,
}

impl ValueWriter {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn position(&mut self, position: Position) {
        if position.is_symbolic() {
            self.symbolic_at.push(self.bytes.len());
        }
        self.bytes.extend_from_slice(&position.0.to_be_bytes());
    }

    /// Writes a version byte and the record's fields after it.
    pub fn record<T: Serialize>(&mut self, version: u8, record: &T) {
        self.bytes.reserve(RECORD_BYTES);
        self.bytes.push(version);
        let buffer = std::mem::take(&mut self.bytes);
        match postcard::to_extend(record, buffer) {
            Ok(bytes) => self.bytes = bytes,
            // A record type that postcard cannot express, such as a sequence of unknown length.
            Err(_) => self.invalid = true,
        }
    }
}

/// A value of a table.
pub trait Value: Sized {
    fn encode(&self, writer: &mut ValueWriter);
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Splits a record into its version byte and its fields.
pub fn split_version(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    bytes.split_first().map(|(version, fields)| (*version, fields)).ok_or_else(|| DecodeError::new("empty record"))
}

/// Reads a record's fields.
pub fn decode_fields<T: DeserializeOwned>(fields: &[u8]) -> Result<T, DecodeError> {
    postcard::from_bytes(fields).map_err(|error| DecodeError::new(format!("record does not decode: {error}")))
}

/// Implements [`Value`] for a serde struct as a record of one version: `record!(EventRecord, 1)`.
///
/// When a second version comes, the old struct stays in `mod v1`, and `decode` is written out by hand: it matches the version
/// byte and converts what it finds to the newest struct.
#[macro_export]
macro_rules! record {
    ($type:ty, $version:literal) => {
        impl $crate::record::Value for $type {
            fn encode(&self, writer: &mut $crate::record::ValueWriter) {
                writer.record($version, self);
            }
            fn decode(bytes: &[u8]) -> Result<Self, $crate::record::DecodeError> {
                match $crate::record::split_version(bytes)? {
                    ($version, fields) => $crate::record::decode_fields(fields),
                    (other, _) => Err($crate::record::DecodeError::new(format!(
                        concat!(stringify!($type), " has version {}, this program knows up to {}"),
                        other, $version
                    ))),
                }
            }
        }
    };
}

impl Value for () {
    fn encode(&self, _: &mut ValueWriter) {}
    fn decode(_: &[u8]) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Value for Bytes {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(self);
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

impl Value for Vec<u8> {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(self);
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

impl Value for String {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(self.as_bytes());
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::new("value is not UTF-8"))
    }
}

impl<const N: usize> Value for [u8; N] {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(self);
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        bytes.try_into().map_err(|_| DecodeError::new("value has the wrong length"))
    }
}

impl Value for u64 {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(&self.to_be_bytes());
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        <[u8; 8]>::decode(bytes).map(Self::from_be_bytes)
    }
}

macro_rules! nid_value {
    ($($nid:ident),*) => {$(
        impl Value for $nid {
            fn encode(&self, writer: &mut ValueWriter) {
                self.0.encode(writer);
            }
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                u64::decode(bytes).map(Self)
            }
        }
    )*};
}
nid_value!(RoomNid, EventNid, StateKeyNid);

impl Value for Position {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.position(*self);
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        u64::decode(bytes).map(Self)
    }
}

impl Value for Order {
    fn encode(&self, writer: &mut ValueWriter) {
        match self {
            Self::Backfilled(n) => {
                writer.bytes(&[0]);
                writer.bytes(&n.to_be_bytes());
            }
            Self::Live(position) => {
                writer.bytes(&[1]);
                writer.position(*position);
            }
        }
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((0, number)) => u64::decode(number).map(Self::Backfilled),
            Some((1, number)) => Position::decode(number).map(Self::Live),
            _ => Err(DecodeError::new("unknown kind of event order")),
        }
    }
}

macro_rules! identifier_value {
    ($($id:ident),*) => {$(
        impl Value for $id {
            fn encode(&self, writer: &mut ValueWriter) {
                writer.bytes(self.as_bytes());
            }
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let text = String::decode(bytes)?;
                <$id>::try_from(text).map_err(|_| DecodeError::new(concat!("value is not a valid ", stringify!($id))))
            }
        }
    )*};
}
identifier_value!(OwnedUserId, OwnedEventId, OwnedRoomId, OwnedRoomAliasId, OwnedServerName);

/// A value with the position at which it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamped<V> {
    pub position: Position,
    pub value: V,
}

impl<V: Value> Value for Stamped<V> {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.position(self.position);
        self.value.encode(writer);
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some((position, value)) = bytes.split_first_chunk::<8>() else {
            return Err(DecodeError::new("stamped value is too short"));
        };
        Ok(Self { position: Position(u64::from_be_bytes(*position)), value: V::decode(value)? })
    }
}

/// A value kept as JSON text: for types that are JSON by nature, and for Matrix types whose serde form needs a
/// self-describing format.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize + DeserializeOwned> Value for Json<T> {
    fn encode(&self, writer: &mut ValueWriter) {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => writer.bytes(&bytes),
            // A map whose keys are not strings.
            Err(_) => writer.invalid = true,
        }
    }
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        serde_json::from_slice(bytes)
            .map(Self)
            .map_err(|error| DecodeError::new(format!("stored JSON does not decode: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    struct Row {
        name: String,
        numbers: Vec<u64>,
        note: Option<String>,
    }
    record!(Row, 3);

    fn encode(value: &impl Value) -> Vec<u8> {
        let mut writer = ValueWriter::default();
        value.encode(&mut writer);
        assert!(!writer.invalid);
        writer.bytes
    }

    fn row() -> Row {
        Row { name: "anna".to_owned(), numbers: vec![1, u64::MAX], note: None }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let bytes = encode(&row());
        assert_eq!(bytes[0], 3);
        assert_eq!(Row::decode(&bytes).unwrap(), row());
        let stamped = Stamped { position: Position(7), value: row() };
        assert_eq!(Stamped::<Row>::decode(&encode(&stamped)).unwrap(), stamped);
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name() {
        let mut bytes = encode(&row());
        bytes[0] = 4;
        let error = Row::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("Row") && error.contains("version 4") && error.contains("up to 3"), "{error}");
    }

    #[test]
    fn a_record_cut_short_is_an_error() {
        let bytes = encode(&row());
        for len in 0..bytes.len() {
            assert!(Row::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
        }
    }

    #[test]
    fn a_value_that_cannot_be_encoded_is_noticed() {
        let mut writer = ValueWriter::default();
        Json(std::collections::BTreeMap::from([((1, 2), 3)])).encode(&mut writer);
        assert!(writer.invalid);
    }
}

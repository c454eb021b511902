//! Order-preserving encoding of keys.
//!
//! Numbers are big-endian. Strings end with a zero byte, also when they come last, so that one string's keys are never a prefix
//! of another's; a string that holds a zero byte cannot be a key and is refused.

use ruma::{OwnedDeviceId, OwnedEventId, OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId};

use crate::{
    ids::{EventNid, Order, Position, RoomNid, StateKeyNid},
    record::DecodeError,
};

/// Collects the bytes of one key, and where in them positions stand that the log has yet to fill in.
#[derive(Default)]
pub struct KeyWriter {
    pub(crate) bytes: Vec<u8>,
    pub(crate) symbolic_at: Vec<usize>,
    pub(crate) invalid: bool,
}

impl KeyWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn string(&mut self, string: &str) {
        self.invalid |= string.as_bytes().contains(&0);
        self.bytes.extend_from_slice(string.as_bytes());
        self.bytes.push(0);
    }

    pub fn position(&mut self, position: Position) {
        if position.is_symbolic() {
            self.symbolic_at.push(self.bytes.len());
        }
        self.bytes.extend_from_slice(&position.0.to_be_bytes());
    }
}

/// Takes a key apart again.
pub struct KeyReader<'a> {
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::new("key is too short"));
        };
        self.rest = rest;
        Ok(*head)
    }

    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or_else(|| DecodeError::new("string in key does not end"))?;
        let (head, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        std::str::from_utf8(head).map_err(|_| DecodeError::new("string in key is not UTF-8"))
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// A key, or the first parts of one (a prefix): tuples encode their parts one after the other.
pub trait Key: Sized {
    fn encode(&self, writer: &mut KeyWriter);
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError>;
}

impl Key for () {
    fn encode(&self, _: &mut KeyWriter) {}
    fn decode(_: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

macro_rules! unsigned_key {
    ($($int:ty),*) => {$(
        impl Key for $int {
            fn encode(&self, writer: &mut KeyWriter) {
                writer.bytes(&self.to_be_bytes());
            }
            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(reader.array()?))
            }
        }
    )*};
}
unsigned_key!(u8, u16, u32, u64);

impl Key for i64 {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.bytes(&(self.cast_unsigned() ^ (1 << 63)).to_be_bytes());
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        Ok((u64::from_be_bytes(reader.array()?) ^ (1 << 63)).cast_signed())
    }
}

macro_rules! nid_key {
    ($($nid:ident),*) => {$(
        impl Key for $nid {
            fn encode(&self, writer: &mut KeyWriter) {
                self.0.encode(writer);
            }
            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
                u64::decode(reader).map(Self)
            }
        }
    )*};
}
nid_key!(RoomNid, EventNid, StateKeyNid);

impl Key for Position {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.position(*self);
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        u64::decode(reader).map(Self)
    }
}

impl Key for Order {
    fn encode(&self, writer: &mut KeyWriter) {
        match self {
            Self::Backfilled(n) => {
                writer.bytes(&[0]);
                writer.bytes(&(u64::MAX - n).to_be_bytes());
            }
            Self::Live(position) => {
                writer.bytes(&[1]);
                writer.position(*position);
            }
        }
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        let [kind] = reader.array()?;
        let number = u64::from_be_bytes(reader.array()?);
        match kind {
            0 => Ok(Self::Backfilled(u64::MAX - number)),
            1 => Ok(Self::Live(Position(number))),
            _ => Err(DecodeError::new("unknown kind of event order")),
        }
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.bytes(self);
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        reader.array()
    }
}

impl Key for String {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.string(self);
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        reader.string().map(str::to_owned)
    }
}

macro_rules! identifier_key {
    ($($id:ident),*) => {$(
        impl Key for $id {
            fn encode(&self, writer: &mut KeyWriter) {
                writer.string(self.as_str());
            }
            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
                let text = reader.string()?;
                <$id>::try_from(text).map_err(|_| DecodeError::new(concat!("not a valid ", stringify!($id), " in key")))
            }
        }
    )*};
}
identifier_key!(OwnedUserId, OwnedEventId, OwnedRoomId, OwnedRoomAliasId, OwnedServerName);

impl Key for OwnedDeviceId {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.string(self.as_str());
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        Ok(reader.string()?.into())
    }
}

impl Key for OwnedMxcUri {
    fn encode(&self, writer: &mut KeyWriter) {
        writer.string(self.as_str());
    }
    fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        Ok(reader.string()?.into())
    }
}

impl<T: Key> Key for &T
where
    T: Clone,
{
    fn encode(&self, writer: &mut KeyWriter) {
        (**self).encode(writer);
    }
    fn decode(_: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
        Err(DecodeError::new("a borrowed key part cannot be decoded"))
    }
}

macro_rules! tuple_key {
    ($($name:ident)+) => {
        impl<$($name: Key),+> Key for ($($name,)+) {
            #[allow(non_snake_case)]
            fn encode(&self, writer: &mut KeyWriter) {
                let ($($name,)+) = self;
                $($name.encode(writer);)+
            }
            fn decode(reader: &mut KeyReader<'_>) -> Result<Self, DecodeError> {
                Ok(($($name::decode(reader)?,)+))
            }
        }
    };
}
tuple_key!(A);
tuple_key!(A B);
tuple_key!(A B C);
tuple_key!(A B C D);
tuple_key!(A B C D E);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(key: &impl Key) -> Vec<u8> {
        let mut writer = KeyWriter::default();
        key.encode(&mut writer);
        assert!(!writer.invalid);
        writer.bytes
    }

    fn check_round_trip<K: Key + PartialEq + std::fmt::Debug>(key: &K) {
        let bytes = encode(key);
        let mut reader = KeyReader::new(&bytes);
        assert_eq!(&K::decode(&mut reader).unwrap(), key);
        assert!(reader.is_empty());
    }

    /// Strings without the zero character, many of them prefixes of each other.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[a-b\u{1}\u{10FFFF}]{0,4}", "[^\u{0}]{0,8}"]
    }

    proptest! {
        #[test]
        fn keys_are_ordered_like_what_they_encode(a in (text(), any::<u64>(), text()), b in (text(), any::<u64>(), text())) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
            check_round_trip(&a);
        }

        #[test]
        fn signed_numbers_are_ordered_through_zero(a: (i64, u8), b: (i64, u8)) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
            check_round_trip(&a);
        }

        #[test]
        fn a_string_is_no_prefix_of_another(a in text(), b in text()) {
            prop_assume!(a != b);
            prop_assert!(!encode(&b).starts_with(&encode(&a)));
        }

        #[test]
        fn rows_of_a_prefix_lie_within_its_bounds(a in text(), b in text(), number: u64) {
            let table: crate::Table<(String, u64), ()> = crate::Table::new(9, "test");
            let start = table.key(&(a.clone(),)).bytes;
            let row = table.key(&(b.clone(), number)).bytes;
            let within = row >= start && row < crate::table::prefix_end(&start);
            prop_assert_eq!(within, a == b);
        }

        #[test]
        fn any_bytes_decode_or_are_refused_without_a_panic(bytes: Vec<u8>) {
            drop(<(OwnedUserId, RoomNid, OwnedDeviceId)>::decode(&mut KeyReader::new(&bytes)));
            drop(<(String, i64, [u8; 16])>::decode(&mut KeyReader::new(&bytes)));
        }
    }

    #[test]
    fn a_string_with_a_zero_byte_is_no_key() {
        let mut writer = KeyWriter::default();
        "a\0b".to_owned().encode(&mut writer);
        assert!(writer.invalid);
    }

    #[test]
    fn identifiers_come_back_from_keys() {
        let user = OwnedUserId::try_from("@anna:agency.example").unwrap();
        check_round_trip(&(user, OwnedDeviceId::from("DEVICE"), Position(7)));
        assert!(OwnedUserId::decode(&mut KeyReader::new(b"not a user id\0")).is_err());
    }
}

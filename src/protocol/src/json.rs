//! Two readings of JSON: the strict one for events, and the lenient one for signed requests.
//!
//! An event is parsed once, strictly, because two servers that read the same bytes differently would disagree
//! on its id. A request is verified leniently, because one odd event inside must not make the whole transaction
//! unverifiable. The size of an event is not checked here but in [`crate::format`].

use std::fmt;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, Int};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// How many arrays and objects may be open at once in an event.
pub const MAX_NESTING: usize = 100;

/// Why a text is no acceptable event.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON, not canonical JSON, or repeats a key.
    #[error("not canonical JSON: {0}")]
    Invalid(#[from] serde_json::Error),
    /// It is JSON, but not an object.
    #[error("expected a JSON object")]
    NotAnObject,
}

/// Parses one event as canonical JSON.
///
/// Refuses repeated keys, numbers that are not integers in ±(2^53 - 1), `-0`, and more than [`MAX_NESTING`]
/// levels. Key order and white space are free.
///
/// Spec: Appendices, Canonical JSON.
pub fn parse_strict(raw: &str) -> Result<CanonicalJsonObject, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(raw);
    let value = Strict { depth_left: MAX_NESTING }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth_left: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth_left = self
            .depth_left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format_args!("more than {MAX_NESTING} levels of nesting")))?;
        Ok(Self { depth_left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = CanonicalJsonValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = CanonicalJsonValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a canonical JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Int::new(value).map(CanonicalJsonValue::Integer).ok_or_else(|| E::custom("integer out of range"))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Int::try_from(value).map(CanonicalJsonValue::Integer).map_err(|_| E::custom("integer out of range"))
    }

    fn visit_f64<E: serde::de::Error>(self, _value: f64) -> Result<Self::Value, E> {
        Err(E::custom("number that is not an integer"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(CanonicalJsonValue::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let seed = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(seed)? {
            items.push(item);
        }
        Ok(CanonicalJsonValue::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let seed = self.deeper()?;
        let mut object = CanonicalJsonObject::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("repeated key {key:?}")));
            }
            let value = map.next_value_seed(seed)?;
            object.insert(key, value);
        }
        Ok(CanonicalJsonValue::Object(object))
    }
}

/// The canonical text of an object.
pub fn canonical(object: &CanonicalJsonObject) -> Result<String, JsonError> {
    Ok(serde_json::to_string(object)?)
}

/// Canonical JSON text that keeps any number, for checking the signature of a request.
///
/// Keys are sorted by code point and white space is dropped; fractions, exponents and large integers are
/// written as parsed instead of being refused. `value` comes from a parser that bounds nesting, so the
/// recursion is bounded too.
pub fn canonical_lenient(value: &serde_json::Value) -> String {
    let mut out = String::new();
    write_lenient(value, &mut out);
    out
}

fn write_lenient(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_lenient(item, out);
            }
            out.push(']');
        }
        serde_json::Value::Object(map) => {
            // The map may keep insertion order, depending on what else is linked in.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push(':');
                write_lenient(item, out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn canonical_of(raw: &str) -> String {
        canonical(&parse_strict(raw).unwrap()).unwrap()
    }

    #[test]
    fn specification_examples_come_out_canonical() {
        for (raw, expected) in [
            ("{}", "{}"),
            ("{\"one\": 1,\n \"two\": \"Two\"}", r#"{"one":1,"two":"Two"}"#),
            (r#"{"b": "2", "a": "1"}"#, r#"{"a":"1","b":"2"}"#),
            (
                r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {
                    "display_name": "John Doe", "three_pids": [
                    {"medium": "email", "address": "john.doe@example.org"},
                    {"medium": "msisdn", "address": "123456789"}]}}}"#,
                r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
            ),
            (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
            (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
            (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
            (r#"{"a": null}"#, r#"{"a":null}"#),
            (r#"{"a": "\u0000\u001F\u007f\/\"\\"}"#, "{\"a\":\"\\u0000\\u001f\u{7f}/\\\"\\\\\"}"),
        ] {
            assert_eq!(canonical_of(raw), expected);
            let value: serde_json::Value = serde_json::from_str(raw).unwrap();
            assert_eq!(canonical_lenient(&value), expected);
        }
    }

    #[test]
    fn keys_sort_by_code_point_not_by_utf16() {
        assert_eq!(canonical_of("{\"\u{1f600}\":1,\"\u{ffee}\":2}"), "{\"\u{ffee}\":2,\"\u{1f600}\":1}");
    }

    #[test]
    fn ambiguous_or_inexact_json_is_refused() {
        for raw in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":{"a":1,"\u0061":2}}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-0}"#,
            r#"{"a":-0.0}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"a":-9007199254740992}"#,
            r#"{"a":18446744073709551615}"#,
            r#"{"a":1e999}"#,
            r#"{"a":NaN}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1}x"#,
            r#"{"a":1,}"#,
            "[]",
            "1",
            "",
        ] {
            assert!(parse_strict(raw).is_err(), "{raw}");
        }
    }

    #[test]
    fn largest_and_smallest_integers_are_kept() {
        let raw = r#"{"a":9007199254740991,"b":-9007199254740991}"#;
        assert_eq!(canonical_of(raw), raw);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse_strict(&nested(MAX_NESTING - 1)).is_ok());
        assert!(parse_strict(&nested(MAX_NESTING)).is_err());
        assert!(parse_strict(&nested(30_000)).is_err());
    }

    #[test]
    fn lenient_text_keeps_odd_numbers() {
        let value = json!({"b": 1.5, "a": [u64::MAX, i64::MIN, -0.0], "c": {"z": 1, "y": "é\n"}});
        assert_eq!(
            canonical_lenient(&value),
            r#"{"a":[18446744073709551615,-9223372036854775808,-0.0],"b":1.5,"c":{"y":"é\n","z":1}}"#
        );
    }

    pub(crate) fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-9_007_199_254_740_991i64..=9_007_199_254_740_991).prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn strict_and_lenient_agree_on_canonical_values(value in arbitrary_json()) {
            let raw = json!({ "v": value }).to_string();
            let strict = canonical_of(&raw);
            prop_assert_eq!(&strict, &canonical_lenient(&serde_json::from_str(&raw).unwrap()));
            prop_assert_eq!(&strict, &canonical_of(&strict));
        }

        #[test]
        fn parsing_never_panics(raw in "\\PC*") {
            let _ = parse_strict(&raw);
        }
    }
}

//! The format of events on the wire: field types, sizes and counts, per room version.
//!
//! ruma has such a check too, but it stops one byte early (65,535 instead of 65,536), counts bytes where rooms
//! up to version 10 count code points, and does not look at `hashes`, `signatures`, `content` or
//! `origin_server_ts`. Signatures, hashes and authorization are not checked here.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, RoomId, UserId,
    room_version_rules::{EventIdFormatVersion, EventsReferenceFormatVersion, RoomIdFormatVersion, RoomVersionRules},
};

/// Largest event, in bytes of canonical JSON with hashes and signatures, without `unsigned`.
pub const MAX_EVENT_BYTES: usize = 65_536;
/// Longest `sender`, `room_id`, `event_id`, `type` and `state_key`.
pub const MAX_FIELD_LENGTH: usize = 255;
/// Most entries in `prev_events`.
pub const MAX_PREV_EVENTS: usize = 20;
/// Most entries in `auth_events`.
pub const MAX_AUTH_EVENTS: usize = 10;

/// Why an object is no event of its room version. Such an event is dropped, not rejected.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The whole event is too large.
    #[error("event of {bytes} bytes, at most {MAX_EVENT_BYTES} are allowed")]
    TooLarge {
        /// Its size as canonical JSON.
        bytes: usize,
    },
    /// A required field is absent.
    #[error("missing field `{0}`")]
    Missing(&'static str),
    /// A field is there that must not be.
    #[error("field `{0}` is not allowed in this room version")]
    Unexpected(&'static str),
    /// A field has another JSON type.
    #[error("field `{field}` must be {expected}")]
    WrongType {
        /// Name of the field.
        field: &'static str,
        /// What the specification wants there.
        expected: &'static str,
    },
    /// A string is longer than 255 bytes, or code points up to room version 10.
    #[error("field `{0}` is longer than {MAX_FIELD_LENGTH}")]
    TooLong(&'static str),
    /// A list has too many entries.
    #[error("field `{field}` has more than {max} entries")]
    TooMany {
        /// Name of the field.
        field: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// The type is right and the value is not.
    #[error("field `{field}` is invalid: {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Not canonical JSON at all.
    #[error(transparent)]
    Json(#[from] crate::json::JsonError),
    /// The event could not be hashed.
    #[error("cannot compute the event id: {0}")]
    Hash(#[from] ruma::signatures::JsonError),
}

impl From<serde_json::Error> for FormatError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.into())
    }
}

/// Checks the size of an event, given its canonical JSON without `unsigned`.
///
/// Spec: Client-Server API, Size limits.
pub fn check_size(canonical: &str) -> Result<(), FormatError> {
    if canonical.len() > MAX_EVENT_BYTES { Err(FormatError::TooLarge { bytes: canonical.len() }) } else { Ok(()) }
}

/// Checks every field of an event except the total size, for which see [`check_size`].
///
/// Spec: room versions, Event format; Server-Server API, PDUs.
pub fn check_fields(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    let kind = required_string(event, "type", rules)?;
    let sender = required_string(event, "sender", rules)?;
    <&UserId>::try_from(sender).map_err(|error| invalid("sender", error))?;
    optional_string(event, "state_key", rules)?;
    check_event_id(event, rules)?;
    let room_id = check_room_id(event, kind, rules)?;
    check_references(event, "prev_events", MAX_PREV_EVENTS, rules)?;
    check_references(event, "auth_events", MAX_AUTH_EVENTS, rules)?;
    if !rules.event_format.allow_room_create_in_auth_events
        && let Some(room_id) = room_id
    {
        check_no_create_in_auth_events(event, room_id)?;
    }
    check_count(event, "depth")?;
    check_count(event, "origin_server_ts")?;
    if !matches!(event.get("content").ok_or(FormatError::Missing("content"))?, CanonicalJsonValue::Object(_)) {
        return Err(FormatError::WrongType { field: "content", expected: "an object" });
    }
    check_hashes(event)?;
    check_signatures(event)
}

fn invalid(field: &'static str, reason: impl ToString) -> FormatError {
    FormatError::Invalid { field, reason: reason.to_string() }
}

/// Whether lengths are counted in bytes (from version 11) or in code points (before).
///
/// ruma's rules have no name for this change, so it is read off another one that came with version 11.
fn counts_bytes(rules: &RoomVersionRules) -> bool {
    rules.authorization.use_room_create_sender
}

fn check_length(value: &str, field: &'static str, rules: &RoomVersionRules) -> Result<(), FormatError> {
    let length =
        if counts_bytes(rules) || value.len() <= MAX_FIELD_LENGTH { value.len() } else { value.chars().count() };
    if length > MAX_FIELD_LENGTH { Err(FormatError::TooLong(field)) } else { Ok(()) }
}

fn optional_string<'a>(
    event: &'a CanonicalJsonObject,
    field: &'static str,
    rules: &RoomVersionRules,
) -> Result<Option<&'a str>, FormatError> {
    match event.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(value)) => {
            check_length(value, field, rules)?;
            Ok(Some(value))
        }
        Some(_) => Err(FormatError::WrongType { field, expected: "a string" }),
    }
}

fn required_string<'a>(
    event: &'a CanonicalJsonObject,
    field: &'static str,
    rules: &RoomVersionRules,
) -> Result<&'a str, FormatError> {
    optional_string(event, field, rules)?.ok_or(FormatError::Missing(field))
}

fn check_event_id(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(), FormatError> {
    if !rules.event_format.require_event_id {
        // Redaction keeps it, so it would be part of the hash that names the event.
        return if event.contains_key("event_id") { Err(FormatError::Unexpected("event_id")) } else { Ok(()) };
    }
    let event_id = required_string(event, "event_id", rules)?;
    let parsed = <&EventId>::try_from(event_id).map_err(|error| invalid("event_id", error))?;
    if parsed.server_name().is_none() {
        return Err(invalid("event_id", "no server name"));
    }
    Ok(())
}

/// Returns the room id, or `None` for a create event that defines it by its own hash.
fn check_room_id<'a>(
    event: &'a CanonicalJsonObject,
    kind: &str,
    rules: &RoomVersionRules,
) -> Result<Option<&'a RoomId>, FormatError> {
    if kind == "m.room.create" && !rules.event_format.require_room_create_room_id {
        return if event.contains_key("room_id") { Err(FormatError::Unexpected("room_id")) } else { Ok(None) };
    }
    let room_id = required_string(event, "room_id", rules)?;
    let parsed = <&RoomId>::try_from(room_id).map_err(|error| invalid("room_id", error))?;
    if rules.room_id_format == RoomIdFormatVersion::V1 && parsed.server_name().is_none() {
        return Err(invalid("room_id", "no server name"));
    }
    Ok(Some(parsed))
}

fn check_references(
    event: &CanonicalJsonObject,
    field: &'static str,
    max: usize,
    rules: &RoomVersionRules,
) -> Result<(), FormatError> {
    let list = match event.get(field) {
        Some(CanonicalJsonValue::Array(list)) => list,
        Some(_) => {
            return Err(FormatError::WrongType { field, expected: "a list of events" });
        }
        None => return Err(FormatError::Missing(field)),
    };
    if list.len() > max {
        return Err(FormatError::TooMany { field, max });
    }
    for entry in list {
        let event_id = match (rules.events_reference_format, entry) {
            (EventsReferenceFormatVersion::V1, CanonicalJsonValue::Array(pair)) => match pair.as_slice() {
                [CanonicalJsonValue::String(event_id), CanonicalJsonValue::Object(_)] => event_id,
                _ => {
                    return Err(FormatError::WrongType { field, expected: "a list of [event id, hashes] pairs" });
                }
            },
            (EventsReferenceFormatVersion::V1, _) => {
                return Err(FormatError::WrongType { field, expected: "a list of [event id, hashes] pairs" });
            }
            (_, CanonicalJsonValue::String(event_id)) => event_id,
            _ => {
                return Err(FormatError::WrongType { field, expected: "a list of event ids" });
            }
        };
        check_length(event_id, field, rules)?;
        let parsed = <&EventId>::try_from(event_id.as_str()).map_err(|error| invalid(field, error))?;
        if rules.event_id_format == EventIdFormatVersion::V1 && parsed.server_name().is_none() {
            return Err(invalid(field, "event id without a server name"));
        }
    }
    Ok(())
}

fn check_no_create_in_auth_events(event: &CanonicalJsonObject, room_id: &RoomId) -> Result<(), FormatError> {
    let create_hash = room_id.strip_sigil();
    let named = event
        .get("auth_events")
        .and_then(|list| list.as_array())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str())
        .any(|event_id| event_id.strip_prefix('$') == Some(create_hash));
    if named { Err(invalid("auth_events", "names the create event")) } else { Ok(()) }
}

/// A non-negative integer. The upper bound, 2^53 - 1, comes with canonical JSON.
fn check_count(event: &CanonicalJsonObject, field: &'static str) -> Result<(), FormatError> {
    match event.get(field) {
        Some(CanonicalJsonValue::Integer(value)) if i64::from(*value) >= 0 => Ok(()),
        Some(CanonicalJsonValue::Integer(_)) => Err(invalid(field, "negative")),
        Some(_) => Err(FormatError::WrongType { field, expected: "an integer" }),
        None => Err(FormatError::Missing(field)),
    }
}

fn check_hashes(event: &CanonicalJsonObject) -> Result<(), FormatError> {
    const WRONG: FormatError = FormatError::WrongType { field: "hashes", expected: "an object with a string `sha256`" };
    match event.get("hashes") {
        Some(CanonicalJsonValue::Object(hashes)) => match hashes.get("sha256") {
            Some(CanonicalJsonValue::String(_)) => Ok(()),
            _ => Err(WRONG),
        },
        Some(_) => Err(WRONG),
        None => Err(FormatError::Missing("hashes")),
    }
}

fn check_signatures(event: &CanonicalJsonObject) -> Result<(), FormatError> {
    let well_formed = match event.get("signatures").ok_or(FormatError::Missing("signatures"))? {
        CanonicalJsonValue::Object(servers) => servers.values().all(|keys| match keys {
            CanonicalJsonValue::Object(keys) => keys.values().all(|signature| signature.is_string()),
            _ => false,
        }),
        _ => false,
    };
    if well_formed {
        Ok(())
    } else {
        Err(FormatError::WrongType { field: "signatures", expected: "an object of objects of strings" })
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value as JsonValue, json};

    use super::*;
    use crate::json::{canonical, parse_strict};

    fn event(version: &RoomVersionId) -> JsonValue {
        let references = match version {
            RoomVersionId::V1 | RoomVersionId::V2 => json!([["$a:x", {"sha256": "h"}]]),
            _ => json!(["$abc"]),
        };
        let mut event = json!({
            "type": "m.room.message",
            "sender": "@a:x",
            "room_id": "!r:x",
            "content": {},
            "depth": 3,
            "origin_server_ts": 4,
            "prev_events": references,
            "auth_events": references,
            "hashes": {"sha256": "h"},
            "signatures": {"x": {"ed25519:1": "s"}},
        });
        if *version == RoomVersionId::V2 {
            event["event_id"] = "$e:x".into();
        }
        event
    }

    fn check(event: &JsonValue, version: &RoomVersionId) -> Result<(), FormatError> {
        check_fields(&parse_strict(&event.to_string()).unwrap(), &version.rules().unwrap())
    }

    fn with(version: &RoomVersionId, field: &str, value: JsonValue) -> Result<(), FormatError> {
        let mut event = event(version);
        event[field] = value;
        check(&event, version)
    }

    const VERSIONS: [RoomVersionId; 5] =
        [RoomVersionId::V2, RoomVersionId::V3, RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12];

    #[test]
    fn ordinary_events_pass_in_every_version() {
        for version in &VERSIONS {
            check(&event(version), version).unwrap();
        }
    }

    #[test]
    fn every_required_field_is_required() {
        for version in &VERSIONS {
            let whole = event(version);
            for field in whole.as_object().unwrap().keys() {
                let mut event = whole.clone();
                event.as_object_mut().unwrap().remove(field);
                assert!(check(&event, version).is_err(), "{field} in {version}");
            }
        }
    }

    #[test]
    fn wrong_types_are_refused() {
        let version = RoomVersionId::V10;
        for (field, value) in [
            ("type", json!(1)),
            ("sender", json!(null)),
            ("sender", json!("alice")),
            ("room_id", json!("#r:x")),
            ("state_key", json!(null)),
            ("state_key", json!(1)),
            ("content", json!([])),
            ("content", json!("{}")),
            ("depth", json!("3")),
            ("depth", json!(-1)),
            ("origin_server_ts", json!("4")),
            ("origin_server_ts", json!(-1)),
            ("prev_events", json!({})),
            ("prev_events", json!([1])),
            ("prev_events", json!([["$a:x", {}]])),
            ("auth_events", json!(["no sigil"])),
            ("hashes", json!([])),
            ("hashes", json!({})),
            ("hashes", json!({"sha256": 1})),
            ("signatures", json!([])),
            ("signatures", json!({"x": "s"})),
            ("signatures", json!({"x": {"ed25519:1": 1}})),
            ("event_id", json!("$e:x")),
        ] {
            assert!(with(&version, field, value.clone()).is_err(), "{field}: {value}");
        }
    }

    #[test]
    fn references_are_pairs_before_version_3_and_ids_after() {
        let (pairs, ids) = (json!([["$a:x", {"sha256": "h"}]]), json!(["$a:x"]));
        assert!(with(&RoomVersionId::V2, "prev_events", pairs.clone()).is_ok());
        assert!(with(&RoomVersionId::V2, "prev_events", ids.clone()).is_err());
        assert!(with(&RoomVersionId::V3, "prev_events", pairs).is_err());
        assert!(with(&RoomVersionId::V3, "prev_events", ids).is_ok());
        assert!(with(&RoomVersionId::V2, "prev_events", json!([["$nohost", {}]])).is_err());
    }

    #[test]
    fn lists_of_events_are_bounded() {
        let list = |n: usize| JsonValue::from((0..n).map(|i| format!("${i}")).collect::<Vec<_>>());
        let version = RoomVersionId::V10;
        assert!(with(&version, "prev_events", list(20)).is_ok());
        assert!(with(&version, "prev_events", list(21)).is_err());
        assert!(with(&version, "auth_events", list(10)).is_ok());
        assert!(with(&version, "auth_events", list(11)).is_err());
    }

    #[test]
    fn lengths_count_code_points_until_version_10_and_bytes_from_11() {
        for field in ["type", "state_key"] {
            let (fits, wide, long) = ("é".repeat(127), "é".repeat(255), "é".repeat(256));
            for version in [RoomVersionId::V10, RoomVersionId::V11] {
                assert!(with(&version, field, json!(fits)).is_ok());
                assert!(with(&version, field, json!(long)).is_err());
            }
            assert!(with(&RoomVersionId::V10, field, json!(wide)).is_ok());
            assert!(matches!(with(&RoomVersionId::V11, field, json!(wide)), Err(FormatError::TooLong(_))));
        }
        let sender = format!("@{}:x", "a".repeat(252));
        assert!(with(&RoomVersionId::V11, "sender", json!(sender)).is_ok());
        assert!(with(&RoomVersionId::V11, "sender", json!(format!("@a{}", &sender[1..]))).is_err());
    }

    #[test]
    fn event_of_65536_bytes_passes_and_of_65537_does_not() {
        let rules = RoomVersionId::V10.rules().unwrap();
        let sized = |bytes: usize| {
            let mut event = event(&RoomVersionId::V10);
            event["content"]["body"] = "".into();
            let empty = canonical(&parse_strict(&event.to_string()).unwrap()).unwrap().len();
            event["content"]["body"] = "x".repeat(bytes - empty).into();
            // What is not part of the event does not count.
            event["unsigned"] = json!({"age": 1});
            crate::Pdu::from_object(parse_strict(&event.to_string()).unwrap(), &rules)
        };
        assert_eq!(sized(65_536).unwrap().json().len(), 65_536);
        assert!(matches!(sized(65_537), Err(FormatError::TooLarge { bytes: 65_537 })));
    }

    #[test]
    fn version_12_create_event_has_no_room_id() {
        let create = |version: &RoomVersionId, room_id: bool| {
            let mut event = event(version);
            event["type"] = "m.room.create".into();
            if !room_id {
                event.as_object_mut().unwrap().remove("room_id");
            }
            check(&event, version)
        };
        assert!(create(&RoomVersionId::V12, false).is_ok());
        assert!(matches!(create(&RoomVersionId::V12, true), Err(FormatError::Unexpected("room_id"))));
        assert!(create(&RoomVersionId::V11, false).is_err());
        assert!(create(&RoomVersionId::V11, true).is_ok());
    }

    #[test]
    fn version_12_auth_events_do_not_name_the_create_event() {
        let mut event = event(&RoomVersionId::V12);
        event["room_id"] = "!hash".into();
        assert!(check(&event, &RoomVersionId::V12).is_ok());
        event["auth_events"] = json!(["$other", "$hash"]);
        assert!(matches!(check(&event, &RoomVersionId::V12), Err(FormatError::Invalid { field: "auth_events", .. })));
    }

    #[test]
    fn room_ids_need_a_server_until_version_11() {
        assert!(with(&RoomVersionId::V11, "room_id", json!("!hash")).is_err());
        assert!(with(&RoomVersionId::V12, "room_id", json!("!hash")).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn whatever_passes_the_check_is_read_and_reads_back(
            version in 0..VERSIONS.len(),
            field in 0..16usize,
            value in crate::json::tests::arbitrary_json(),
        ) {
            let version = &VERSIONS[version];
            let rules = version.rules().unwrap();
            let mut event = event(version);
            let fields = ["type", "sender", "room_id", "content", "depth", "origin_server_ts", "prev_events",
                "auth_events", "hashes", "signatures", "event_id", "state_key", "redacts", "unsigned", "origin", ""];
            event[fields[field]] = value;
            let object = parse_strict(&event.to_string()).unwrap();
            let checked = check_fields(&object, &rules);
            match crate::Pdu::from_object(object, &rules) {
                Ok(pdu) => {
                    let again = crate::Pdu::from_object(pdu.object().unwrap(), &rules).unwrap();
                    proptest::prop_assert_eq!(again.event_id, pdu.event_id);
                }
                Err(error) => proptest::prop_assert!(
                    checked.is_err() || fields[field] == "unsigned" || matches!(error, FormatError::TooLarge { .. }),
                    "passed the check, then: {error}"
                ),
            }
        }
    }
}

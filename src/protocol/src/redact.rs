//! Redaction: what remains of an event, or of a content, once its author or a moderator removed the rest.
//!
//! Whether a redaction is *allowed* is decided by [`crate::power`] and the room engine, not here.

use ruma::{
    CanonicalJsonObject,
    canonical_json::{CanonicalJsonFieldError, redact, redact_content_in_place},
    room_version_rules::RoomVersionRules,
};

/// Why an object cannot be redacted: it has no usable `type`.
#[derive(Debug, thiserror::Error)]
#[error("cannot redact: {0}")]
pub struct RedactError(#[from] CanonicalJsonFieldError);

/// The redacted form of an event in federation format, without `unsigned`.
///
/// Its signatures stay valid and its event id stays the same, since both cover this form only.
///
/// Spec: room versions, Redactions.
pub fn redact_object(
    object: CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<CanonicalJsonObject, RedactError> {
    let mut redacted = redact(object, &rules.redaction, None)?;
    redacted.remove("unsigned");
    Ok(redacted)
}

/// Redacts the content of an event of type `kind` in place.
pub fn redact_content(content: &mut CanonicalJsonObject, kind: &str, rules: &RoomVersionRules) {
    redact_content_in_place(content, &rules.redaction, kind);
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;

    fn redacted(event: serde_json::Value, version: RoomVersionId) -> serde_json::Value {
        let object = crate::json::parse_strict(&event.to_string()).unwrap();
        let rules = version.rules().unwrap();
        serde_json::to_value(redact_object(object, &rules).unwrap()).unwrap()
    }

    #[test]
    fn aliases_survive_only_before_version_6() {
        let event = json!({"type": "m.room.aliases", "content": {"aliases": ["#a:x"], "b": 1}});
        assert_eq!(redacted(event.clone(), RoomVersionId::V5)["content"], json!({"aliases": ["#a:x"]}));
        assert_eq!(redacted(event, RoomVersionId::V6)["content"], json!({}));
    }

    #[test]
    fn restricted_join_fields_survive_from_versions_8_and_9() {
        let rules = json!({"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": [], "x": 1}});
        assert_eq!(redacted(rules.clone(), RoomVersionId::V7)["content"], json!({"join_rule": "restricted"}));
        assert_eq!(redacted(rules, RoomVersionId::V8)["content"], json!({"join_rule": "restricted", "allow": []}));
        let member = json!({"type": "m.room.member", "content": {
            "membership": "join", "join_authorised_via_users_server": "@a:x", "displayname": "gone"}});
        assert_eq!(redacted(member.clone(), RoomVersionId::V8)["content"], json!({"membership": "join"}));
        assert_eq!(
            redacted(member, RoomVersionId::V9)["content"],
            json!({"membership": "join", "join_authorised_via_users_server": "@a:x"})
        );
    }

    #[test]
    fn version_11_keeps_create_content_and_drops_origin() {
        let create = json!({"type": "m.room.create", "origin": "x", "unsigned": {"age": 1}, "content": {"creator": "@a:x", "m.federate": false}});
        let old = redacted(create.clone(), RoomVersionId::V10);
        assert_eq!(old, json!({"type": "m.room.create", "origin": "x", "content": {"creator": "@a:x"}}));
        let new = redacted(create, RoomVersionId::V11);
        assert_eq!(new, json!({"type": "m.room.create", "content": {"creator": "@a:x", "m.federate": false}}));
    }

    #[test]
    fn redaction_target_survives_from_version_11() {
        let event =
            json!({"type": "m.room.redaction", "redacts": "$top", "content": {"redacts": "$in", "reason": "r"}});
        assert_eq!(redacted(event.clone(), RoomVersionId::V10), json!({"type": "m.room.redaction", "content": {}}));
        assert_eq!(
            redacted(event, RoomVersionId::V11),
            json!({"type": "m.room.redaction", "content": {"redacts": "$in"}})
        );
    }

    #[test]
    fn power_levels_keep_invite_from_version_11() {
        let event = json!({"type": "m.room.power_levels", "content": {"ban": 50, "invite": 50, "notifications": {}}});
        assert_eq!(redacted(event.clone(), RoomVersionId::V10)["content"], json!({"ban": 50}));
        assert_eq!(redacted(event, RoomVersionId::V11)["content"], json!({"ban": 50, "invite": 50}));
    }
}

//! Telling by an event's type and state key alone that a user is not notified of it: so it is with most state events, which then
//! need not be prepared for the rules.

use chappe_protocol::pdu::Pdu;
use ruma::push::{AnyPushRuleRef, PushCondition, Ruleset};

/// Whether a condition or a rule matches an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Match {
    Never,
    /// That takes more than type and state key to tell.
    Perhaps,
    Always,
}

impl From<bool> for Match {
    fn from(matches: bool) -> Self {
        if matches { Self::Always } else { Self::Never }
    }
}

/// Whether the rules certainly have nobody notified of the event. `false` says nothing: they are to be asked.
///
/// The first rule that matches decides, so one that does not notify and only perhaps matches can be passed over: whatever comes
/// of it, the answer is left to the rules after it or is silence.
pub(super) fn is_silent(rules: &Ruleset, pdu: &Pdu) -> bool {
    let kind = pdu.kind.to_string();
    for rule in rules.iter().filter(|rule| rule.enabled()) {
        match match_rule(rule, pdu, &kind) {
            Match::Never => {}
            _ if rule.triggers_notification() => return false,
            Match::Perhaps => {}
            Match::Always => return true,
        }
    }
    true
}

fn match_rule(rule: AnyPushRuleRef<'_>, pdu: &Pdu, kind: &str) -> Match {
    match rule {
        AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => {
            rule.conditions.iter().map(|condition| match_condition(condition, pdu, kind)).min().unwrap_or(Match::Always)
        }
        AnyPushRuleRef::Room(rule) => (rule.rule_id == pdu.room_id).into(),
        AnyPushRuleRef::Sender(rule) => (rule.rule_id == pdu.sender).into(),
        _ => Match::Perhaps,
    }
}

fn match_condition(condition: &PushCondition, pdu: &Pdu, kind: &str) -> Match {
    let PushCondition::EventMatch(condition) = condition else { return Match::Perhaps };
    if condition.pattern.contains(['*', '?']) {
        return Match::Perhaps;
    }
    match condition.key.as_str() {
        "type" => condition.pattern.eq_ignore_ascii_case(kind).into(),
        "state_key" => pdu.state_key().is_some_and(|key| condition.pattern.eq_ignore_ascii_case(key)).into(),
        _ => Match::Perhaps,
    }
}

#[cfg(test)]
mod tests {
    use ruma::{push::NewSimplePushRule, room_version_rules::RoomVersionRules, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn event(kind: &str, state_key: Option<&str>, content: Value) -> Pdu {
        let mut event = json!({
            "type": kind, "room_id": "!room:test", "sender": "@ann:test", "content": content, "depth": 5,
            "origin_server_ts": 1, "prev_events": [], "auth_events": [], "hashes": { "sha256": "" }, "signatures": {},
        });
        if let Some(state_key) = state_key {
            event["state_key"] = state_key.into();
        }
        Pdu::from_object(serde_json::from_value(event).unwrap(), &RoomVersionRules::V11).unwrap()
    }

    #[test]
    fn of_members_only_an_invite_of_ones_own_needs_the_rules() {
        let rules = Ruleset::server_default(user_id!("@bob:test"));
        let member = |user: &str, membership: &str| {
            event("m.room.member", Some(user), json!({ "membership": membership, "displayname": "@room bob" }))
        };
        assert!(is_silent(&rules, &member("@ann:test", "join")));
        assert!(is_silent(&rules, &member("@carol:test", "invite")));
        assert!(!is_silent(&rules, &member("@bob:test", "invite")));
    }

    #[test]
    fn what_may_mention_somebody_needs_the_rules() {
        let rules = Ruleset::server_default(user_id!("@bob:test"));
        assert!(!is_silent(&rules, &event("m.room.message", None, json!({ "msgtype": "m.text", "body": "bob" }))));
        assert!(!is_silent(
            &rules,
            &event("m.room.tombstone", Some(""), json!({ "body": "", "replacement_room": "!b:c" }))
        ));
    }

    #[test]
    fn rules_of_the_users_own_count() {
        let mut rules = Ruleset::server_default(user_id!("@bob:test"));
        let join = event("m.room.member", Some("@ann:test"), json!({ "membership": "join" }));
        // The rule for members comes before rules for rooms and senders.
        let of_ann = NewSimplePushRule::new(user_id!("@ann:test").to_owned(), vec![ruma::push::Action::Notify]);
        rules.insert(ruma::push::NewPushRule::Sender(of_ann), None, None).unwrap();
        assert!(is_silent(&rules, &join));
        rules.set_enabled(ruma::push::RuleKind::Override, ".m.rule.member_event", false).unwrap();
        assert!(!is_silent(&rules, &join));
        rules.set_enabled(ruma::push::RuleKind::Override, ".m.rule.master", true).unwrap();
        assert!(is_silent(&rules, &join), "everything is silent");
    }
}

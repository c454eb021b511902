//! Push rules: each user's own ones, among the server's default ones.
//!
//! A user's ruleset is stored as the account data `m.push_rules`, whole, from the first change on, so that `/sync` tells of it as
//! of any other account data; whoever never changed anything has no row. What is read is always brought up to the server's present
//! defaults, which keep only whether the user switched them off and what they do. Nothing is evaluated here.
//!
//! Spec: Client-Server API, Push Rules.

use std::{num::NonZeroUsize, sync::Arc};

use chappe_store::{Batch, CommitError, Domain, Position, Store, StoreError, tables::account_data::ACCOUNT_DATA};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    OwnedUserId, RoomId, UserId,
    push::{
        Action, AnyPushRule, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        InsertPushRuleError, NewConditionalPushRule, NewPushRule, NewSimplePushRule, PatternedPushRule,
        PatternedPushRuleInit, PushCondition, RemovePushRuleError, RuleKind, Ruleset, Tweak,
    },
};
use serde_json::{Value, json};

use crate::{account_data, guarded::commit_guarded};

/// The type of account data under which clients see the rules.
pub const PUSH_RULES: &str = "m.push_rules";

/// The largest ruleset, in bytes of JSON.
const RULESET_BYTES_MAX: usize = 256 << 10;

/// Longest rule id, in bytes.
const RULE_ID_BYTES_MAX: usize = 512;

/// How many parsed rulesets are kept.
const CACHED_MAX: usize = 10_000;

/// A change of rules that was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeRulesError {
    #[error("there is no such rule")]
    NotFound,
    /// Defaults can be switched off and changed, not deleted.
    #[error("rules of the server cannot be deleted")]
    ServerDefault,
    #[error("the rule's id is too long")]
    IdTooLong,
    #[error(transparent)]
    Invalid(#[from] InsertPushRuleError),
    #[error("there are too many rules")]
    TooLarge,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A rule as it is to be, and where among the user's others of its kind.
#[derive(Clone, Debug)]
pub struct PlacedRule {
    pub rule: NewPushRule,
    /// Right before this one.
    pub before: Option<String>,
    /// Right after this one.
    pub after: Option<String>,
}

/// The rules of this server's users.
pub struct PushRules {
    store: Store,
    /// Parsed rulesets and the positions they were written at; zero: the defaults.
    cached: Mutex<LruCache<OwnedUserId, (Position, Arc<Ruleset>)>>,
}

impl PushRules {
    pub fn new(store: Store) -> Self {
        let capacity = NonZeroUsize::new(CACHED_MAX).unwrap_or(NonZeroUsize::MIN);
        Self { store, cached: Mutex::new(LruCache::new(capacity)) }
    }

    /// A user's rules, defaults included, in the order in which they are tried.
    pub fn get_ruleset(&self, user_id: &UserId) -> Result<Arc<Ruleset>, StoreError> {
        let stored = self.store.get(&ACCOUNT_DATA, &key(user_id))?;
        let position = stored.as_ref().map_or(Position::ZERO, |stored| stored.position);
        if let Some((cached_at, ruleset)) = self.cached.lock().get(user_id)
            && *cached_at == position
        {
            return Ok(ruleset.clone());
        }
        let ruleset = Arc::new(parse(user_id, stored.as_ref().map(|stored| stored.value.as_str())));
        self.cached.lock().put(user_id.to_owned(), (position, ruleset.clone()));
        Ok(ruleset)
    }

    /// The rules of all kinds as clients see them: what stands under `global`.
    pub fn get_global(&self, user_id: &UserId) -> Result<Value, StoreError> {
        Ok(show(&*self.get_ruleset(user_id)?))
    }

    /// One rule.
    pub fn get_rule(&self, user_id: &UserId, kind: RuleKind, rule_id: &str) -> Result<Option<AnyPushRule>, StoreError> {
        Ok(self.get_ruleset(user_id)?.get(as_written(kind), rule_id).map(|rule| rule.to_owned()))
    }

    /// Adds a rule, or changes and moves the one of the same kind and id. Whether it is enabled stays.
    pub async fn put_rule(&self, user_id: &UserId, placed: PlacedRule) -> Result<(), ChangeRulesError> {
        if placed.rule.rule_id().len() > RULE_ID_BYTES_MAX {
            return Err(ChangeRulesError::IdTooLong);
        }
        self.change(user_id, |ruleset| {
            Ok(ruleset.insert(placed.rule.clone(), placed.after.as_deref(), placed.before.as_deref())?)
        })
        .await
    }

    pub async fn delete_rule(&self, user_id: &UserId, kind: RuleKind, rule_id: &str) -> Result<(), ChangeRulesError> {
        let kind = as_written(kind);
        self.change(user_id, |ruleset| {
            ruleset.remove(kind.clone(), rule_id).map_err(|error| match error {
                RemovePushRuleError::ServerDefault => ChangeRulesError::ServerDefault,
                _ => ChangeRulesError::NotFound,
            })
        })
        .await
    }

    pub async fn set_enabled(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        enabled: bool,
    ) -> Result<(), ChangeRulesError> {
        let kind = as_written(kind);
        self.change(user_id, |ruleset| {
            ruleset.set_enabled(kind.clone(), rule_id, enabled).map_err(|_| ChangeRulesError::NotFound)
        })
        .await
    }

    pub async fn set_actions(
        &self,
        user_id: &UserId,
        kind: RuleKind,
        rule_id: &str,
        actions: &[Action],
    ) -> Result<(), ChangeRulesError> {
        let kind = as_written(kind);
        self.change(user_id, |ruleset| {
            ruleset.set_actions(kind.clone(), rule_id, actions.to_vec()).map_err(|_| ChangeRulesError::NotFound)
        })
        .await
    }

    /// Gives a user's rules about one room to another room, such as the one that replaces it. Rules that the other room already
    /// has stay as they are.
    pub async fn copy_room_rules(&self, user_id: &UserId, from: &RoomId, to: &RoomId) -> Result<(), ChangeRulesError> {
        if room_rules(&*self.get_ruleset(user_id)?, from, to).is_empty() {
            return Ok(());
        }
        self.change(user_id, |ruleset| {
            for (rule, enabled) in room_rules(ruleset, from, to) {
                let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
                ruleset.insert(rule, None, None)?;
                ruleset.set_enabled(kind, &rule_id, enabled).map_err(|_| ChangeRulesError::NotFound)?;
            }
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        user_id: &UserId,
        change: impl Fn(&mut Ruleset) -> Result<(), ChangeRulesError>,
    ) -> Result<(), ChangeRulesError> {
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch: &mut Batch| {
            let stored = self.store.get(&ACCOUNT_DATA, &key(user_id))?;
            let mut ruleset = parse(user_id, stored.as_ref().map(|stored| stored.value.as_str()));
            change(&mut ruleset)?;
            let content = content_of(&ruleset);
            if content.len() > RULESET_BYTES_MAX {
                return Err(ChangeRulesError::TooLarge);
            }
            // A write that changes nothing tells nobody.
            if stored.is_none_or(|stored| stored.value != content) {
                account_data::queue_put(&self.store, batch, user_id, None, PUSH_RULES, &content)?;
            }
            Ok(())
        })
        .await
    }
}

/// The kind of MSC4306 by the name that the proposal gives it, without the prefix that ruma wants.
fn as_written(kind: RuleKind) -> RuleKind {
    if kind.as_str() == "postcontent" { RuleKind::PostContent } else { kind }
}

/// The content of `m.push_rules` as its user sees it, by what is stored of it.
pub fn shown_content(user_id: &UserId, stored: Option<&str>) -> String {
    content_of(&parse(user_id, stored))
}

/// The rules that a new account has.
pub fn default_ruleset(user_id: &UserId) -> Ruleset {
    let mut ruleset = Ruleset::server_default(user_id);
    with_poll_matches(&mut ruleset);
    add_body_mentions(&mut ruleset, user_id);
    ruleset
}

/// The rules of MSC3930 as it writes them: with `event_match`.
fn with_poll_matches(ruleset: &mut Ruleset) {
    let rewrite = |mut rule: ConditionalPushRule| {
        if rule.rule_id.starts_with(".org.matrix.msc3930.") {
            for condition in &mut rule.conditions {
                if let PushCondition::EventPropertyIs(property) = condition
                    && let Some(value) = property.value.as_str()
                {
                    *condition = EventMatchConditionData::new(property.key.clone(), value.to_owned()).into();
                }
            }
        }
        rule
    };
    ruleset.override_ = std::mem::take(&mut ruleset.override_).into_iter().map(rewrite).collect();
    ruleset.underride = std::mem::take(&mut ruleset.underride).into_iter().map(rewrite).collect();
}

/// Mentions found in the text of a message. They apply only to events without `m.mentions`, which older clients and bridges send.
fn add_body_mentions(ruleset: &mut Ruleset, user_id: &UserId) {
    let highlight = || {
        vec![
            Action::Notify,
            Action::SetTweak(Tweak::Sound("default".into())),
            Action::SetTweak(Tweak::Highlight(true.into())),
        ]
    };
    #[allow(deprecated)]
    let display_name = ConditionalPushRuleInit {
        actions: highlight(),
        default: true,
        enabled: true,
        rule_id: ".m.rule.contains_display_name".to_owned(),
        conditions: vec![PushCondition::ContainsDisplayName],
    };
    let room = ConditionalPushRuleInit {
        actions: vec![Action::Notify, Action::SetTweak(Tweak::Highlight(true.into()))],
        default: true,
        enabled: true,
        rule_id: ".m.rule.roomnotif".to_owned(),
        conditions: vec![
            EventMatchConditionData::new("content.body".to_owned(), "@room".to_owned()).into(),
            ruma::push::SenderNotificationPermissionConditionData::new("room".into()).into(),
        ],
    };
    let user_name = PatternedPushRuleInit {
        actions: highlight(),
        default: true,
        enabled: true,
        rule_id: ".m.rule.contains_user_name".to_owned(),
        pattern: user_id.localpart().to_owned(),
    };
    // Behind the rules of `m.mentions`, before those that silence kinds of events.
    let place = ruleset.override_.get_index_of(".m.rule.tombstone").unwrap_or(ruleset.override_.len());
    ruleset.override_.shift_insert(place, ConditionalPushRule::from(display_name));
    ruleset.override_.shift_insert(place + 1, ConditionalPushRule::from(room));
    ruleset.content.insert(PatternedPushRule::from(user_name));
}

fn key(user_id: &UserId) -> (OwnedUserId, String, String) {
    (user_id.to_owned(), String::new(), PUSH_RULES.to_owned())
}

#[derive(serde::Deserialize)]
struct Content {
    global: Ruleset,
}

fn parse(user_id: &UserId, stored: Option<&str>) -> Ruleset {
    let defaults = default_ruleset(user_id);
    let Some(stored) = stored else { return defaults };
    match serde_json::from_str::<Content>(stored) {
        Ok(Content { mut global }) => {
            global.update_with_server_default(defaults);
            global
        }
        Err(error) => {
            tracing::warn!(user.id = %user_id, %error, "stored push rules cannot be read; the defaults apply");
            defaults
        }
    }
}

/// All kinds are there, also those without rules: clients expect lists.
fn show(ruleset: &Ruleset) -> Value {
    let mut shown = serde_json::to_value(ruleset).unwrap_or_else(|_| json!({}));
    if let Some(kinds) = shown.as_object_mut() {
        for kind in ["content", "override", "postcontent", "room", "sender", "underride"] {
            kinds.entry(kind).or_insert_with(|| json!([]));
        }
    }
    shown
}

fn content_of(ruleset: &Ruleset) -> String {
    json!({ "global": show(ruleset) }).to_string()
}

/// The rules about `from`, rewritten for `to`, with whether each is enabled; without those that `to` has.
fn room_rules(ruleset: &Ruleset, from: &RoomId, to: &RoomId) -> Vec<(NewPushRule, bool)> {
    let mut rules = Vec::new();
    if let Some(rule) = ruleset.room.get(from.as_str())
        && !ruleset.room.contains(to.as_str())
    {
        rules.push((NewPushRule::Room(NewSimplePushRule::new(to.to_owned(), rule.actions.clone())), rule.enabled));
    }
    let rewritten = |rule: &ConditionalPushRule| rewrite_for_room(rule, from, to).map(|new| (new, rule.enabled));
    let overrides = ruleset.override_.iter().filter_map(rewritten);
    let overrides = overrides.filter(|(rule, _)| !ruleset.override_.contains(rule.rule_id.as_str()));
    // The newest rule goes to the front: in reverse they come to stand in their order.
    let mut overrides: Vec<_> = overrides.map(|(rule, enabled)| (NewPushRule::Override(rule), enabled)).collect();
    overrides.reverse();
    let underrides = ruleset.underride.iter().filter_map(rewritten);
    let underrides = underrides.filter(|(rule, _)| !ruleset.underride.contains(rule.rule_id.as_str()));
    let mut underrides: Vec<_> = underrides.map(|(rule, enabled)| (NewPushRule::Underride(rule), enabled)).collect();
    underrides.reverse();
    rules.extend(overrides);
    rules.extend(underrides);
    rules
}

fn rewrite_for_room(rule: &ConditionalPushRule, from: &RoomId, to: &RoomId) -> Option<NewConditionalPushRule> {
    let mut conditions = rule.conditions.clone();
    let mut is_about_room = false;
    for condition in &mut conditions {
        match condition {
            PushCondition::EventMatch(matched) if matched.key == "room_id" && matched.pattern == from.as_str() => {
                matched.pattern = to.to_string();
                is_about_room = true;
            }
            _ => {}
        }
    }
    if rule.default || !is_about_room {
        return None;
    }
    let rule_id = match rule.rule_id.contains(from.as_str()) {
        true => rule.rule_id.replace(from.as_str(), to.as_str()),
        false => format!("{} {to}", rule.rule_id),
    };
    Some(NewConditionalPushRule::new(rule_id, conditions, rule.actions.clone()))
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, room_id, user_id};

    use super::*;

    fn room_rule(actions: Vec<Action>) -> PlacedRule {
        let rule = NewPushRule::Room(NewSimplePushRule::new(owned_room_id!("!old:example.org"), actions));
        PlacedRule { rule, before: None, after: None }
    }

    #[tokio::test]
    async fn stored_rules_keep_what_the_user_changed_and_take_new_defaults() {
        let store = Store::in_memory();
        let (rules, alice) = (PushRules::new(store.clone()), user_id!("@alice:example.org"));
        rules.set_enabled(alice, RuleKind::Underride, ".m.rule.message", false).await.unwrap();
        rules.put_rule(alice, room_rule(vec![])).await.unwrap();

        // As an older version of the server would have left it.
        let mut stored: Value =
            serde_json::from_str(&store.get(&ACCOUNT_DATA, &key(alice)).unwrap().unwrap().value).unwrap();
        stored["global"]["override"] = json!([]);
        let mut batch = Batch::new();
        account_data::queue_put(&store, &mut batch, alice, None, PUSH_RULES, &stored.to_string()).unwrap();
        store.commit(batch).await.unwrap();

        let ruleset = rules.get_ruleset(alice).unwrap();
        assert!(!ruleset.underride.get(".m.rule.message").unwrap().enabled);
        assert!(ruleset.room.contains("!old:example.org"));
        assert_eq!(ruleset.override_.first().unwrap().rule_id, ".m.rule.master");
        assert!(ruleset.override_.contains(".m.rule.reaction"));
    }

    #[tokio::test]
    async fn rules_about_a_room_are_copied_once_and_do_not_replace_others() {
        let (rules, alice) = (PushRules::new(Store::in_memory()), user_id!("@alice:example.org"));
        let (old, new) = (room_id!("!old:example.org"), room_id!("!new:example.org"));
        rules.copy_room_rules(alice, old, new).await.unwrap();
        assert!(rules.get_ruleset(alice).unwrap().room.is_empty(), "there was nothing to copy");

        rules.put_rule(alice, room_rule(vec![Action::Notify])).await.unwrap();
        let condition = EventMatchConditionData::new("room_id".to_owned(), old.to_string()).into();
        let mute = NewPushRule::Override(NewConditionalPushRule::new(old.to_string(), vec![condition], vec![]));
        rules.put_rule(alice, PlacedRule { rule: mute, before: None, after: None }).await.unwrap();
        rules.set_enabled(alice, RuleKind::Override, old.as_str(), false).await.unwrap();
        rules.copy_room_rules(alice, old, new).await.unwrap();

        let ruleset = rules.get_ruleset(alice).unwrap();
        assert!(ruleset.room.get(new.as_str()).unwrap().actions[0].should_notify());
        let copied = ruleset.override_.get(new.as_str()).unwrap();
        assert!(!copied.enabled);
        assert!(matches!(&copied.conditions[0], PushCondition::EventMatch(matched) if matched.pattern == new.as_str()));

        rules.set_actions(alice, RuleKind::Room, new.as_str(), &[]).await.unwrap();
        rules.copy_room_rules(alice, old, new).await.unwrap();
        assert!(rules.get_ruleset(alice).unwrap().room.get(new.as_str()).unwrap().actions.is_empty());
    }

    #[tokio::test]
    async fn rules_are_bounded() {
        let (rules, alice) = (PushRules::new(Store::in_memory()), user_id!("@alice:example.org"));
        let pattern = "x".repeat(RULESET_BYTES_MAX);
        let rule = NewPushRule::Content(ruma::push::NewPatternedPushRule::new("big".to_owned(), pattern, vec![]));
        let placed = PlacedRule { rule, before: None, after: None };
        assert!(matches!(rules.put_rule(alice, placed).await, Err(ChangeRulesError::TooLarge)));
    }
}

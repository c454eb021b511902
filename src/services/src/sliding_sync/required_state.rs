//! Which state of a room a client wants: pairs of event type and state key, with wildcards.
//!
//! `*` stands for any type or state key, `$ME` for the user, `$LAZY` for the members that the timeline needs. Beside `["*", "*"]`,
//! pairs that name a type narrow what is told of that type. A pair can also be excluded, whatever else asks for it.
//!
//! Spec: MSC4186.

use std::collections::BTreeSet;

use ruma::UserId;
use sha2::{Digest, Sha256};

const ANY: &str = "*";
const ME: &str = "$ME";
const LAZY: &str = "$LAZY";
const MEMBER: &str = "m.room.member";

/// Where pairs are listed, this stands before the types of the excluded ones. No type of an event begins with it.
const EXCLUDED: char = '\0';

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RequiredState {
    pairs: BTreeSet<(String, String)>,
    excluded: BTreeSet<(String, String)>,
}

/// A pair that is left out, as it is listed among others.
pub(super) fn excluded_pair(event_type: &str, state_key: &str) -> (String, String) {
    (format!("{EXCLUDED}{event_type}"), state_key.to_owned())
}

impl RequiredState {
    pub(super) fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut state = Self::default();
        for (event_type, state_key) in pairs {
            match event_type.strip_prefix(EXCLUDED) {
                Some(event_type) => state.excluded.insert((event_type.to_owned(), state_key)),
                None => state.pairs.insert((event_type, state_key)),
            };
        }
        state
    }

    /// Adds what another set of pairs wants. Only what both exclude stays excluded.
    pub(super) fn extend(&mut self, pairs: impl IntoIterator<Item = (String, String)>) {
        let other = Self::new(pairs);
        if *self == Self::default() {
            *self = other;
        } else if other != Self::default() {
            self.pairs.extend(other.pairs);
            self.excluded.retain(|pair| other.excluded.contains(pair));
        }
    }

    pub(super) fn pairs(&self) -> Vec<(String, String)> {
        let excluded = self.excluded.iter().map(|(event_type, state_key)| excluded_pair(event_type, state_key));
        self.pairs.iter().cloned().chain(excluded).collect()
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        self.pairs.is_superset(&other.pairs) && self.excluded.is_subset(&other.excluded)
    }

    /// Names this set of pairs, across restarts.
    pub(super) fn hash(&self) -> u64 {
        let mut digest = Sha256::new();
        for (event_type, state_key) in self.pairs() {
            // No two sets have the same text: lengths stand before the parts.
            digest.update(event_type.len().to_be_bytes());
            digest.update(event_type.as_bytes());
            digest.update(state_key.len().to_be_bytes());
            digest.update(state_key.as_bytes());
        }
        digest.finalize().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
    }

    pub(super) fn is_lazy(&self) -> bool {
        self.has(MEMBER, LAZY)
    }

    /// The wanted keys, if they can be looked up one by one.
    pub(super) fn exact_keys<'a>(&'a self, me: &'a UserId) -> Option<Vec<(&'a str, &'a str)>> {
        let mut keys = Vec::new();
        for (event_type, state_key) in &self.pairs {
            match state_key.as_str() {
                LAZY => {}
                key if self.excludes(event_type, key, me) => {}
                _ if event_type == ANY => return None,
                ANY => return None,
                ME => keys.push((event_type.as_str(), me.as_str())),
                other => keys.push((event_type.as_str(), other)),
            }
        }
        Some(keys)
    }

    /// Whether an event of the state is wanted; not of the members that are told as the timeline needs them.
    pub(super) fn wants(&self, event_type: &str, state_key: &str, me: &UserId) -> bool {
        if self.excludes(event_type, state_key, me) {
            return false;
        }
        if self.has(ANY, ANY) {
            let mut of_type = self.pairs.iter().filter(|(wanted, _)| wanted == event_type).peekable();
            return of_type.peek().is_none() || of_type.any(|(_, key)| matches_key(key, state_key, me));
        }
        self.pairs
            .iter()
            .any(|(wanted, key)| (wanted == ANY || wanted == event_type) && matches_key(key, state_key, me))
    }

    fn excludes(&self, event_type: &str, state_key: &str, me: &UserId) -> bool {
        let mut excluded = self.excluded.iter();
        excluded.any(|(named, key)| (named == ANY || named == event_type) && matches_key(key, state_key, me))
    }

    fn has(&self, event_type: &str, state_key: &str) -> bool {
        self.pairs.iter().any(|(wanted, key)| wanted == event_type && key == state_key)
    }
}

fn matches_key(wanted: &str, state_key: &str, me: &UserId) -> bool {
    match wanted {
        ANY => true,
        ME => state_key == me.as_str(),
        LAZY => false,
        other => other == state_key,
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn required(pairs: &[(&str, &str)]) -> RequiredState {
        RequiredState::new(pairs.iter().map(|(event_type, key)| ((*event_type).to_owned(), (*key).to_owned())))
    }

    #[test]
    fn wildcards_and_the_user_stand_for_what_they_should() {
        let me = user_id!("@me:x");
        let some = required(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.space.child", "*"), ("*", "k")]);
        assert!(some.wants("m.room.name", "", me) && !some.wants("m.room.name", "x", me));
        assert!(some.wants("m.room.member", "@me:x", me) && !some.wants("m.room.member", "@you:x", me));
        assert!(some.wants("m.space.child", "!any:x", me) && some.wants("anything", "k", me));
        assert!(some.exact_keys(me).is_none());
        let all_but_members = required(&[("*", "*"), ("m.room.member", "$LAZY")]);
        assert!(all_but_members.wants("anything", "k", me) && !all_but_members.wants("m.room.member", "@me:x", me));
        let exact = required(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.room.member", "$LAZY")]);
        assert_eq!(exact.exact_keys(me), Some(vec![("m.room.member", "@me:x"), ("m.room.name", "")]));
    }

    #[test]
    fn excluded_pairs_are_left_out_unless_somebody_else_wants_them() {
        let me = user_id!("@me:x");
        let all = ("*".to_owned(), "*".to_owned());
        let mut state = RequiredState::new([all.clone(), excluded_pair("m.room.create", "")]);
        assert!(state.wants("m.room.name", "", me) && !state.wants("m.room.create", "", me));
        assert_eq!(RequiredState::new(state.pairs()), state);
        let whole = RequiredState::new([all]);
        assert!(whole.contains(&state) && !state.contains(&whole));
        assert_ne!(whole.hash(), state.hash());
        state.extend(whole.pairs());
        assert!(state.wants("m.room.create", "", me));
        let exact = RequiredState::new([("a".to_owned(), "k".to_owned()), excluded_pair("*", "k")]);
        assert_eq!(exact.exact_keys(me), Some(vec![]));
    }

    #[test]
    fn sets_of_the_same_letters_have_different_hashes() {
        assert_ne!(required(&[("ab", "c")]).hash(), required(&[("a", "bc")]).hash());
        assert_eq!(required(&[("a", "b"), ("c", "d")]).hash(), required(&[("c", "d"), ("a", "b")]).hash());
    }
}

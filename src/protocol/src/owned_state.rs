//! Owned state (MSC3757): in rooms of version `org.matrix.msc3757.10`, a state key that begins with `@` names who owns the state.
//!
//! The owner is a user id, alone or followed by `_` and a suffix. The state is for the owner to write, and for whoever has a higher
//! power level. Everything else is as in version 10, where only a state key equal to the sender's id is theirs to write.

use std::{borrow::Cow, sync::Arc};

use ruma::{EventId, OwnedEventId, UserId, events::StateEventType, room_version_rules::RoomVersionRules};
use serde::Deserialize;

use crate::{auth::Rejection, pdu::Pdu, power::PowerLevels, state_res::StateMap};

/// The one room version with owned state; otherwise like version 10.
pub const ROOM_VERSION: &str = "org.matrix.msc3757.10";

/// Stands before an owned state key where ruma's rules would read it as a user's.
const ESCAPE: char = '\u{1}';

/// Whether this is the create event of a room with owned state.
pub fn is_create_event(create: &Pdu) -> bool {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    create.get_content::<Content>().is_ok_and(|content| content.room_version.as_deref() == Some(ROOM_VERSION))
}

/// Who owns the state under a key that begins with `@`; `None` if the key is malformed.
pub fn owner(state_key: &str) -> Option<&UserId> {
    let colon = state_key.get(1..)?.find(':')? + 1;
    let suffix = state_key.get(colon + 1..)?.find('_').map(|at| colon + 1 + at);
    <&UserId>::try_from(state_key.get(..suffix.unwrap_or(state_key.len()))?).ok()
}

/// Whether state of this type under this key has an owner that MSC3757 says more about than the ordinary rules do.
fn is_owned(kind: &StateEventType, state_key: &str) -> bool {
    let is_special =
        matches!(kind, StateEventType::RoomMember | StateEventType::RoomCreate | StateEventType::RoomThirdPartyInvite);
    !is_special && state_key.starts_with('@')
}

/// The event as the ordinary rules are to see it: where its sender may write the state, under the sender's own key.
pub(crate) fn judge<'a>(
    rules: &RoomVersionRules,
    pdu: &'a Pdu,
    fetch_state: impl Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
) -> Result<Cow<'a, Pdu>, Rejection> {
    let is_others = pdu.state_tuple().is_some_and(|(kind, key)| is_owned(&kind, key) && key != pdu.sender.as_str());
    if !is_others {
        return Ok(Cow::Borrowed(pdu));
    }
    let Some(create) = fetch_state(&StateEventType::RoomCreate, "").filter(|create| is_create_event(create)) else {
        return Ok(Cow::Borrowed(pdu));
    };
    let owner = pdu.state_key.as_deref().and_then(owner);
    let owner = owner.ok_or_else(|| Rejection("the state key does not begin with a user id".to_owned()))?;
    if owner != pdu.sender {
        let levels = fetch_state(&StateEventType::RoomPowerLevels, "");
        let levels = PowerLevels::from_events(rules, &create, levels.as_deref())
            .map_err(|error| Rejection(error.to_string()))?;
        if levels.user_level(&pdu.sender) <= levels.user_level(owner) {
            return Err(Rejection("the state is owned by somebody whom the sender does not outrank".to_owned()));
        }
    }
    let mut own = pdu.clone();
    own.state_key = Some(pdu.sender.as_str().into());
    Ok(Cow::Owned(own))
}

/// Owned state keys as state resolution is to see them: as ones that the ordinary rules have nothing against. Each such event has passed
/// its own check before; that its sender still outranks the owner is not asked again.
pub(crate) struct Escaped(bool);

impl Escaped {
    /// For the room whose states these are.
    pub(crate) fn for_states(
        state_maps: &[StateMap<OwnedEventId>],
        fetch: impl Fn(&EventId) -> Option<Arc<Pdu>>,
    ) -> Self {
        let create = (StateEventType::RoomCreate, String::new());
        let create = state_maps.iter().find_map(|state| state.get(&create)).and_then(|id| fetch(id));
        Self(create.is_some_and(|create| is_create_event(&create)))
    }

    pub(crate) fn event(&self, pdu: Arc<Pdu>) -> Arc<Pdu> {
        if !self.0 || !pdu.state_tuple().is_some_and(|(kind, key)| is_owned(&kind, key)) {
            return pdu;
        }
        let mut escaped = (*pdu).clone();
        escaped.state_key = pdu.state_key.as_ref().map(|key| format!("{ESCAPE}{key}").into());
        Arc::new(escaped)
    }

    pub(crate) fn states<'a>(&self, state_maps: &'a [StateMap<OwnedEventId>]) -> Cow<'a, [StateMap<OwnedEventId>]> {
        if !self.0 {
            return Cow::Borrowed(state_maps);
        }
        let escape = |((kind, key), id): (&(StateEventType, String), &OwnedEventId)| {
            let key = if is_owned(kind, key) { format!("{ESCAPE}{key}") } else { key.clone() };
            ((kind.clone(), key), id.clone())
        };
        Cow::Owned(state_maps.iter().map(|state| state.iter().map(escape).collect()).collect())
    }

    pub(crate) fn unescape(&self, resolved: StateMap<OwnedEventId>) -> StateMap<OwnedEventId> {
        if !self.0 {
            return resolved;
        }
        let unescape = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            ((kind, key.strip_prefix(ESCAPE).map_or(key.clone(), str::to_owned)), id)
        };
        resolved.into_iter().map(unescape).collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::{
        state_res,
        test_room::{ALICE, BOB, CAROL, TestRoom},
    };

    #[test]
    fn owner_is_the_user_id_that_a_key_begins_with() {
        let is_owned_by = |key, user: &str| owner(key).is_some_and(|owner| owner == user);
        assert!(is_owned_by("@a:b.example", "@a:b.example"));
        assert!(is_owned_by("@a_b:b.example_device:!@#_2", "@a_b:b.example"));
        for malformed in ["@a", "@a:b.example@x_y", "@", "@:", "@a:"] {
            assert_eq!(owner(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn state_is_for_its_owner_and_for_who_outranks_them() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::try_from(ROOM_VERSION).unwrap());
        let mut is_allowed = |sender: &str, state_key: &str| {
            let pdu = room.make(&state, "org.example.state", sender, Some(state_key), json!({}));
            room.check(&pdu, &state).is_ok()
        };
        let suffixed = format!("{BOB}_device");
        assert!(is_allowed(BOB, BOB) && is_allowed(BOB, &suffixed), "the owner");
        assert!(is_allowed(ALICE, BOB) && is_allowed(ALICE, &suffixed), "a higher level");
        assert!(!is_allowed(BOB, ALICE) && !is_allowed(BOB, &format!("{ALICE}_device")), "a lower level");
        assert!(!is_allowed(ALICE, "@malformed"), "who outranks everybody");
        let (mut plain, state) = TestRoom::populated(RoomVersionId::V10);
        let pdu = plain.make(&state, "org.example.state", BOB, Some(&suffixed), json!({}));
        assert!(plain.check(&pdu, &state).is_err(), "other versions know nothing of it");
        let pdu = plain.make(&state, "m.room.message", CAROL, None, json!({}));
        plain.check(&pdu, &state).unwrap();
    }

    #[test]
    fn conflict_over_owned_state_is_resolved_like_any_other() {
        let (mut room, base) = TestRoom::populated(RoomVersionId::try_from(ROOM_VERSION).unwrap());
        let (mut one, mut two) = (base.clone(), base);
        let key = format!("{BOB}_device");
        room.add(&mut one, "org.example.state", BOB, Some(&key), json!({ "n": 1 }));
        let later = room.add(&mut two, "org.example.state", ALICE, Some(&key), json!({ "n": 2 }));
        let fetch = |id: &EventId| room.fetch(id);
        let chains = [&one, &two].map(|state| state_res::auth_chain(state.values(), fetch)).to_vec();
        let resolved = state_res::resolve_walking(&room.rules, &[one, two], chains, fetch).unwrap();
        assert_eq!(resolved.get(&("org.example.state".into(), key)), Some(&later));
    }
}

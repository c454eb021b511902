//! Replacing a room by one of another version.
//!
//! Both rooms change in one batch: there is no moment at which the old room points to a new one that is not there, or an alias to
//! neither. Members are not moved: they follow the tombstone, and take their own settings along when they join.
//!
//! Spec: Client-Server API, Room upgrades.

use std::{collections::BTreeSet, sync::Arc};

use chappe_protocol::{power::PowerLevels, room_version};
use chappe_store::{
    Batch, RoomNid,
    tables::rooms::{ALIASES, AliasRecord, PUBLIC_ROOMS, ROOM_ALIASES},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomId,
    RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde_json::json;

use crate::{
    Event, EventDraft, RoomError, Rooms,
    aliases::alias_domain,
    create::{CreateRoom, Preset, create_content, power_levels},
    membership::{MemberProfile, member_draft},
    staging::Staging,
};

/// What the user who upgrades a room asks for.
#[derive(Clone, Debug)]
pub struct UpgradeRoom {
    pub version: RoomVersionId,
    /// Creators beside the user, where the version knows such; ignored where it does not.
    pub additional_creators: Vec<OwnedUserId>,
    /// Profile of the user, for the member event.
    pub profile: MemberProfile,
}

/// State with an empty key that the new room takes over; power levels come last, and apart.
const TRANSFERRED: &[StateEventType] = &[
    StateEventType::RoomJoinRules,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomEncryption,
    StateEventType::RoomServerAcl,
    StateEventType::RoomName,
    StateEventType::RoomTopic,
    StateEventType::RoomAvatar,
];

/// How many links to children a space takes along.
const SPACE_LINKS_MAX: usize = 10_000;

/// What it takes to speak and to invite in a room that has been replaced, at least.
const LEVEL_IN_REPLACED_ROOM: i64 = 50;

/// The level given to those who were creators with infinite power, in a version that has no such.
const LEVEL_OF_FORMER_CREATORS: i64 = 100;

impl Rooms {
    /// Replaces a room: answers the id of the new one, once both are durable.
    ///
    /// # Errors
    /// Forbidden to those who may not send the tombstone. Other powers that the user lacks in the old room only leave undone what
    /// they are needed for.
    pub async fn upgrade_room(
        &self,
        user: &UserId,
        old_id: &RoomId,
        request: UpgradeRoom,
    ) -> Result<OwnedRoomId, RoomError> {
        let Some(rules) = room_version::rules(&request.version) else {
            return Err(RoomError::UnsupportedVersion(request.version));
        };
        let _writing_old = self.locks.write(old_id).await;
        let old = self.require_room(old_id)?;
        self.require_joined(&old, &user.to_owned())?;
        let levels = self.get_power_levels(&old)?;
        if !levels.as_ref().is_some_and(|levels| levels.can_send(user, &TimelineEventType::RoomTombstone, true)) {
            return Err(RoomError::Forbidden("You don't have permission to upgrade this room".to_owned()));
        }
        let moved = self.get_aliases_of_room(old.nid)?;
        let transfer = Transfer { rooms: self, old: old.nid, levels, user, request: &request, rules: &rules };

        let mut replaced = Staging::begin(self, old.clone())?;
        let (create, _writing_new) = if rules.event_format.require_room_create_room_id {
            let new_id = RoomId::new_v1(&self.server_name);
            let tombstone = replaced.append_own(user, tombstone(&new_id)?)?;
            let content = transfer.create_content(old_id, Some(&tombstone.pdu.event_id))?;
            let create = self.build_create_event(user, &rules, &content, &new_id, self.clock.now_ms())?;
            (create, self.locks.write(&new_id).await)
        } else {
            let content = transfer.create_content(old_id, None)?;
            let mut sent_at = self.clock.now_ms();
            loop {
                let create = self.build_create_event(user, &rules, &content, old_id, sent_at)?;
                let writing = self.locks.write(&create.room_id).await;
                if self.get_event(&create.event_id)?.is_none() {
                    replaced.append_own(user, tombstone(&create.room_id)?)?;
                    break (create, writing);
                }
                // The id is the hash of this event: another upgrade in the same millisecond would make the same room.
                sent_at += 1;
            }
        };
        let new_id = create.room_id.clone();
        append_if_allowed(&mut replaced, user, self.aliases_left(old.nid, &moved)?)?;
        append_if_allowed(&mut replaced, user, self.raised_levels(old.nid)?)?;

        let (batch, closed_old) = replaced.close()?;
        let mut replacement = self.stage_new_room(create, request.version.clone(), rules.clone(), batch)?;
        for draft in transfer.drafts(&moved)? {
            replacement.append_own(user, draft)?;
        }
        let new = replacement.nid();
        self.move_aliases(&mut replacement.batch, old.nid, new, &moved)?;
        if self.is_listed(old.nid)? {
            replacement.batch.delete(&PUBLIC_ROOMS, &old.nid);
            replacement.batch.put(&PUBLIC_ROOMS, &new, &());
        }
        let (batch, closed_new) = replacement.close()?;
        let ticket = self.enqueue_closed(batch, [closed_old, closed_new])?;
        drop((_writing_new, _writing_old));
        ticket.durable().await?;
        Ok(new_id)
    }

    fn move_aliases(
        &self,
        batch: &mut Batch,
        old: RoomNid,
        new: RoomNid,
        aliases: &[OwnedRoomAliasId],
    ) -> Result<(), RoomError> {
        for alias in aliases {
            batch.guard(alias_domain(alias), self.store.domain_version(&alias_domain(alias))?);
            let Some(record) = self.get_alias(alias)?.filter(|record| record.room == old) else { continue };
            batch.put(&ALIASES, alias, &AliasRecord { room: new, creator: record.creator });
            batch.delete(&ROOM_ALIASES, &(old, alias.clone()));
            batch.put(&ROOM_ALIASES, &(new, alias.clone()), &());
        }
        Ok(())
    }

    /// The canonical alias event of the old room without the aliases that moved, if it named any.
    fn aliases_left(&self, old: RoomNid, moved: &[OwnedRoomAliasId]) -> Result<Option<EventDraft>, RoomError> {
        let Some(content) =
            self.get_state_content::<CanonicalJsonObject>(old, &StateEventType::RoomCanonicalAlias, "")?
        else {
            return Ok(None);
        };
        let left = aliases_where(&content, |alias| !moved.iter().any(|moved| moved == alias));
        Ok((left != content).then(|| EventDraft::state(StateEventType::RoomCanonicalAlias.to_string(), "", left)))
    }

    /// The power levels of the old room, with more needed to speak and to invite; `None` if that much is needed already.
    fn raised_levels(&self, old: RoomNid) -> Result<Option<EventDraft>, RoomError> {
        let Some(mut content) =
            self.get_state_content::<CanonicalJsonObject>(old, &StateEventType::RoomPowerLevels, "")?
        else {
            return Ok(None);
        };
        let level = |content: &CanonicalJsonObject, field: &str| content.get(field).and_then(level_of).unwrap_or(0);
        let needed = LEVEL_IN_REPLACED_ROOM.max(level(&content, "users_default").saturating_add(1));
        let mut is_raised = false;
        for field in ["events_default", "invite"] {
            if level(&content, field) < needed {
                content.insert(field.to_owned(), integer(needed));
                is_raised = true;
            }
        }
        Ok(is_raised.then(|| EventDraft::state(StateEventType::RoomPowerLevels.to_string(), "", content)))
    }
}

fn tombstone(replacement: &RoomId) -> Result<EventDraft, RoomError> {
    EventDraft::state_json(
        StateEventType::RoomTombstone,
        "",
        json!({ "body": "This room has been replaced", "replacement_room": replacement }),
    )
}

/// Appends an event that the upgrade can do without, if the user may send it.
fn append_if_allowed(staging: &mut Staging, user: &UserId, draft: Option<EventDraft>) -> Result<(), RoomError> {
    let Some(draft) = draft else { return Ok(()) };
    match staging.append_own(user, draft) {
        Err(RoomError::Forbidden(reason)) => {
            tracing::debug!(reason, room.id = %staging.room.id, "a replaced room keeps what its upgrader may not change");
            Ok(())
        }
        result => result.map(|_| ()),
    }
}

/// What goes from the old room into the new one.
struct Transfer<'a> {
    rooms: &'a Rooms,
    old: RoomNid,
    levels: Option<PowerLevels>,
    user: &'a UserId,
    request: &'a UpgradeRoom,
    rules: &'a RoomVersionRules,
}

impl Transfer<'_> {
    fn as_create_request(&self, creation_content: CanonicalJsonObject) -> CreateRoom {
        CreateRoom {
            version: Some(self.request.version.clone()),
            preset: Preset::PrivateChat,
            is_listed: false,
            name: None,
            topic: None,
            alias_localpart: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content,
            initial_state: Vec::new(),
            power_level_override: CanonicalJsonObject::new(),
            profile: self.request.profile.clone(),
        }
    }

    fn create_content(&self, old_id: &RoomId, tombstone: Option<&EventId>) -> Result<CanonicalJsonObject, RoomError> {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let old: CanonicalJsonObject =
            self.rooms.get_state_content(self.old, &StateEventType::RoomCreate, "")?.unwrap_or_default();
        let mut content = CanonicalJsonObject::new();
        for field in ["type", "m.federate"] {
            content.extend(old.get(field).map(|value| (field.to_owned(), value.clone())));
        }
        let mut predecessor = CanonicalJsonObject::from([("room_id".to_owned(), text(old_id.as_str()))]);
        predecessor.extend(tombstone.map(|event_id| ("event_id".to_owned(), text(event_id.as_str()))));
        content.insert("predecessor".to_owned(), CanonicalJsonValue::Object(predecessor));
        if self.rules.authorization.additional_room_creators {
            let creators = self.request.additional_creators.iter().map(|user| text(user.as_str())).collect();
            content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(creators));
        }
        create_content(self.user, &self.request.version, self.rules, &self.as_create_request(content))
    }

    /// The events after the create event. Power levels are the last: until there are any, a room's creator may do everything.
    fn drafts(&self, aliases: &[OwnedRoomAliasId]) -> Result<Vec<EventDraft>, RoomError> {
        let mut drafts = vec![member_draft(self.user, self.request.profile.content("join"))];
        for event_type in TRANSFERRED {
            let event = self.rooms.get_state_event(self.old, event_type, "")?;
            drafts.extend(event.and_then(|event| repeated(&event)));
        }
        if let Some(content) = self.rooms.get_state_content(self.old, &StateEventType::RoomCanonicalAlias, "")? {
            let content = aliases_where(&content, |alias| aliases.iter().any(|moved| moved == alias));
            if !content.is_empty() {
                drafts.push(EventDraft::state(StateEventType::RoomCanonicalAlias.to_string(), "", content));
            }
        }
        for child in self.rooms.get_space_children(self.old, SPACE_LINKS_MAX)? {
            drafts.extend(repeated(&child));
        }
        for parent in self.rooms.get_state_of_type(self.old, &StateEventType::SpaceParent)? {
            drafts.extend(repeated(&parent));
        }
        drafts.extend(self.bans()?);
        drafts.push(EventDraft::state(StateEventType::RoomPowerLevels.to_string(), "", self.power_levels()?));
        Ok(drafts)
    }

    fn bans(&self) -> Result<Vec<EventDraft>, RoomError> {
        let creators = self.privileged_creators();
        let mut drafts = Vec::new();
        for member in self.rooms.scan_members(self.old) {
            let (banned, member) = member?;
            if member.value.membership != "ban" || creators.contains(&banned) {
                continue;
            }
            let mut content = MemberProfile::default().content("ban");
            let old = match member.value.event {
                Some(event) => self.rooms.get_event_by_nid(event)?,
                None => None,
            };
            let old: CanonicalJsonObject = old.and_then(|event| event.pdu.get_content().ok()).unwrap_or_default();
            content.extend(old.get("reason").map(|reason| ("reason".to_owned(), reason.clone())));
            drafts.push(member_draft(&banned, content));
        }
        Ok(drafts)
    }

    /// Those who stand above all levels in the new room.
    fn privileged_creators(&self) -> BTreeSet<OwnedUserId> {
        if !self.rules.authorization.explicitly_privilege_room_creators {
            return BTreeSet::new();
        }
        self.request.additional_creators.iter().cloned().chain([self.user.to_owned()]).collect()
    }

    /// The old room's levels, in the form that the new room's version asks for.
    fn power_levels(&self) -> Result<CanonicalJsonObject, RoomError> {
        let Some(old) =
            self.rooms.get_state_content::<CanonicalJsonObject>(self.old, &StateEventType::RoomPowerLevels, "")?
        else {
            return power_levels(self.user, self.rules, &self.as_create_request(CanonicalJsonObject::new()));
        };
        let mut content = CanonicalJsonObject::new();
        for (field, value) in old {
            let value = match (field.as_str(), value) {
                ("events" | "notifications" | "users", CanonicalJsonValue::Object(levels)) => {
                    let levels = levels.into_iter().filter_map(|(key, level)| Some((key, integer(level_of(&level)?))));
                    CanonicalJsonValue::Object(levels.collect())
                }
                ("events" | "notifications" | "users", _) => continue,
                (_, value) => match level_of(&value) {
                    Some(level) => integer(level),
                    None => continue,
                },
            };
            content.insert(field, value);
        }
        let mut users = match content.remove("users") {
            Some(CanonicalJsonValue::Object(users)) => users,
            _ => CanonicalJsonObject::new(),
        };
        users.retain(|user, _| UserId::parse(user).is_ok());
        let creators = self.privileged_creators();
        users.retain(|user, _| !creators.iter().any(|creator| creator == user));
        if creators.is_empty() {
            let former = self.levels.iter().flat_map(PowerLevels::privileged_creators);
            let level = integer(highest_level(&content, &users).max(LEVEL_OF_FORMER_CREATORS));
            users.extend(former.map(|creator| (creator.to_string(), level.clone())));
        }
        content.insert("users".to_owned(), CanonicalJsonValue::Object(users));
        Ok(content)
    }
}

/// The highest level that is asked for or given by name.
fn highest_level(content: &CanonicalJsonObject, users: &CanonicalJsonObject) -> i64 {
    let nested = content.values().filter_map(|value| match value {
        CanonicalJsonValue::Object(levels) => Some(levels.values()),
        _ => None,
    });
    content.values().chain(nested.flatten()).chain(users.values()).filter_map(level_of).max().unwrap_or(0)
}

/// The event's content again, for another room; `None` where it says nothing.
fn repeated(event: &Arc<Event>) -> Option<EventDraft> {
    let content: CanonicalJsonObject = event.pdu.get_content().ok()?;
    let state_key = event.pdu.state_key()?.to_owned();
    (!content.is_empty()).then(|| EventDraft::state(event.pdu.kind.clone(), state_key, content))
}

/// A canonical alias event's content with only some of its aliases.
fn aliases_where(content: &CanonicalJsonObject, is_kept: impl Fn(&str) -> bool) -> CanonicalJsonObject {
    let is_kept = |value: &CanonicalJsonValue| value.as_str().is_some_and(&is_kept);
    let mut kept = CanonicalJsonObject::new();
    kept.extend(content.get("alias").filter(|alias| is_kept(alias)).map(|alias| ("alias".to_owned(), alias.clone())));
    if let Some(CanonicalJsonValue::Array(others)) = content.get("alt_aliases") {
        let others: Vec<_> = others.iter().filter(|alias| is_kept(alias)).cloned().collect();
        if !others.is_empty() {
            kept.insert("alt_aliases".to_owned(), CanonicalJsonValue::Array(others));
        }
    }
    kept
}

/// A level, which older versions also write as a string.
fn level_of(value: &CanonicalJsonValue) -> Option<i64> {
    match value {
        CanonicalJsonValue::Integer(level) => Some((*level).into()),
        CanonicalJsonValue::String(level) => level.trim().parse().ok(),
        _ => None,
    }
}

fn integer(level: i64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::new_saturating(level))
}

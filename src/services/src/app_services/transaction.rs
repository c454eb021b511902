//! One transaction for one service: which of what happened is the service's business, and how it is written down.
//!
//! Spec: Application Service API, Pushing events.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Direction, Position, RoomNid, Store, StoreError,
    tables::{
        accounts::{DEVICE_TOKENS, DEVICES},
        e2ee::DEVICE_LIST_LOG,
        to_device::TO_DEVICE,
    },
};
use lru::LruCache;
use ruma::{OwnedDeviceId, OwnedUserId, UserId, events::StateEventType};
use serde_json::{Map, Value as JsonValue, json};

use super::Registration;
use crate::{
    keys::{one_time_key_counts, shared_rooms_of_remote, unused_fallback_key_types},
    presence::Presence,
    receipts::{self, Receipts},
    typing::Typing,
};

/// How many rooms it is remembered of whether a service's users are in them.
const ROOMS_REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// How large the events of one transaction may grow, in bytes. A single event may be larger than what is left of it.
const BYTES_MAX: usize = 1 << 20;
/// How many messages to devices one transaction carries.
const TO_DEVICE_MAX: usize = 100;
/// How many changed device lists one transaction names.
const DEVICE_LISTS_MAX: usize = 1_000;
/// Of how many users one transaction counts the keys.
const KEY_COUNT_USERS_MAX: usize = 100;

type JsonObject = Map<String, JsonValue>;

/// What is in a transaction so far.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) events: Vec<JsonValue>,
    pub(super) ephemeral: Vec<JsonValue>,
    pub(super) to_device: Vec<JsonValue>,
    pub(super) changed_device_lists: BTreeSet<OwnedUserId>,
    /// The service's users whose keys may have become fewer.
    key_users: BTreeSet<OwnedUserId>,
    /// Messages to devices that no client fetches by itself, so that they go with the transaction.
    pub(super) delivered: Vec<(OwnedUserId, OwnedDeviceId, Position)>,
    bytes: usize,
}

impl Contents {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.ephemeral.is_empty()
            && self.to_device.is_empty()
            && self.changed_device_lists.is_empty()
    }
}

/// Decides what a service is told.
pub(super) struct Interest {
    service: Arc<Registration>,
    rooms: Rooms,
    /// Whether any of the service's users is joined to a room.
    has_members: LruCache<RoomNid, bool>,
}

impl Interest {
    pub(super) fn new(service: Arc<Registration>, rooms: Rooms) -> Self {
        Self { service, rooms, has_members: LruCache::new(ROOMS_REMEMBERED_MAX) }
    }

    fn store(&self) -> &Store {
        self.rooms.store()
    }

    /// Whether everything in a room is the service's business: it is in its namespaces, or its users are in it.
    pub(super) fn covers_room(&mut self, room: RoomNid) -> Result<bool, StoreError> {
        let Some(room_id) = self.rooms.get_room_id(room)? else { return Ok(false) };
        if self.service.covers_room(&room_id) {
            return Ok(true);
        }
        if self.rooms.get_aliases_of_room(room)?.iter().any(|alias| self.service.covers_alias(alias)) {
            return Ok(true);
        }
        if let Some(known) = self.has_members.get(&room) {
            return Ok(*known);
        }
        let mut found = false;
        for member in self.rooms.scan_members(room) {
            let (user_id, member) = member?;
            if member.value.membership == "join" && self.service.covers_user(&user_id) {
                found = true;
                break;
            }
        }
        self.has_members.put(room, found);
        Ok(found)
    }

    /// Whether an event is the service's business.
    fn covers_event(&mut self, event: &Event) -> Result<bool, StoreError> {
        let about = member_of(event);
        if about.is_some() {
            // Who is in the room may be another now.
            self.has_members.pop(&event.record.room);
        }
        Ok(self.service.covers_user(&event.pdu.sender)
            || about.is_some_and(|user_id| self.service.covers_user(&user_id))
            || self.covers_room(event.record.room)?)
    }

    /// Takes over events as long as there is room, and says up to where it came.
    pub(super) fn add_events(
        &mut self,
        contents: &mut Contents,
        events: &[(Position, Arc<Event>)],
    ) -> Result<Option<Position>, StoreError> {
        let mut dealt_with = None;
        for (position, event) in events {
            if self.covers_event(event)? {
                if contents.bytes > 0 && contents.bytes.saturating_add(event.pdu.json().len()) > BYTES_MAX {
                    break;
                }
                contents.bytes = contents.bytes.saturating_add(event.pdu.json().len());
                contents.events.extend(self.show(event)?);
                if event.pdu.kind.to_string() == "m.room.encrypted" {
                    contents.key_users.extend(self.users_in(event.record.room)?);
                }
            }
            dealt_with = Some(*position);
        }
        Ok(dealt_with)
    }

    /// The event as clients see it. One that invites a user of the service comes with what the user is shown of the room.
    fn show(&self, event: &Event) -> Result<Option<JsonValue>, StoreError> {
        let raw = match self.rooms.to_client(event, None, true) {
            Ok(raw) => raw,
            Err(error) => {
                tracing::error!(%error, event.id = %event.pdu.event_id, "an event cannot be shown to an application service");
                return Ok(None);
            }
        };
        let Ok(mut shown) = serde_json::from_str::<JsonValue>(raw.get()) else { return Ok(None) };
        if let Some(user_id) = member_of(event).filter(|user_id| self.service.covers_user(user_id)) {
            let stripped = self.rooms.get_stripped_state(&user_id, event.record.room)?;
            let key = match event.pdu.membership() {
                Some(ruma::events::room::member::MembershipState::Invite) => Some("invite_room_state"),
                Some(ruma::events::room::member::MembershipState::Knock) => Some("knock_room_state"),
                _ => None,
            };
            if let (Some(key), false) = (key, stripped.is_empty())
                && let Some(shown) = shown.as_object_mut()
                && let Some(unsigned) = shown.entry("unsigned").or_insert_with(|| json!({})).as_object_mut()
            {
                unsigned.insert(key.to_owned(), stripped.into());
            }
        }
        Ok(Some(shown))
    }

    fn users_in(&self, room: RoomNid) -> Result<Vec<OwnedUserId>, StoreError> {
        let mut users = Vec::new();
        for member in self.rooms.scan_members(room) {
            let (user_id, member) = member?;
            if member.value.membership == "join" && self.service.covers_user(&user_id) {
                users.push(user_id);
                if users.len() >= KEY_COUNT_USERS_MAX {
                    break;
                }
            }
        }
        Ok(users)
    }

    pub(super) fn add_typing(
        &mut self,
        contents: &mut Contents,
        typing: &Typing,
        room: RoomNid,
    ) -> Result<(), StoreError> {
        if self.covers_room(room)?
            && let Some(room_id) = self.rooms.get_room_id(room)?
        {
            let (_, user_ids) = typing.current(room);
            contents.ephemeral.push(json!({
                "type": "m.typing", "room_id": room_id, "content": { "user_ids": user_ids },
            }));
        }
        Ok(())
    }

    /// The receipts of a room in an interval: the public ones, and the private ones of the service's own users.
    pub(super) fn add_receipts(
        &mut self,
        contents: &mut Contents,
        receipts: &Receipts,
        room: RoomNid,
        (after, up_to): (Position, Position),
    ) -> Result<(), StoreError> {
        let service = self.service.clone();
        let found = receipts.scan_receipts_shown(room, |owner| service.covers_user(owner), after, up_to)?;
        if found.is_empty() || !self.covers_room(room)? {
            return Ok(());
        }
        let Some(room_id) = self.rooms.get_room_id(room)? else { return Ok(()) };
        for content in receipts::contents(&found) {
            contents.ephemeral.push(json!({ "type": "m.receipt", "room_id": room_id, "content": content }));
        }
        Ok(())
    }

    pub(super) fn add_presence(
        &mut self,
        contents: &mut Contents,
        presence: &Presence,
        user_id: &UserId,
        rooms: &BTreeSet<RoomNid>,
    ) -> Result<(), StoreError> {
        let mut is_concerned = self.service.covers_user(user_id);
        for room in rooms {
            is_concerned = is_concerned || self.covers_room(*room)?;
        }
        if !is_concerned {
            return Ok(());
        }
        // Everyone may see themselves.
        if let Ok(snapshot) = presence.get(user_id, user_id) {
            let mut content = Map::new();
            content.insert("presence".to_owned(), snapshot.state.to_string().into());
            content.insert("currently_active".to_owned(), snapshot.currently_active.into());
            content.extend(snapshot.last_active_ago_ms.map(|ago_ms| ("last_active_ago".to_owned(), ago_ms.into())));
            content.extend(snapshot.status_msg.map(|text| ("status_msg".to_owned(), text.into())));
            contents.ephemeral.push(json!({ "type": "m.presence", "sender": user_id, "content": content }));
        }
        Ok(())
    }

    /// Every user of the service for whom a message to a device waits, later than `after`.
    pub(super) fn scan_waiting_users(&self, after: Position) -> Result<BTreeSet<OwnedUserId>, StoreError> {
        let mut users = BTreeSet::new();
        for row in self.store().scan(&TO_DEVICE, &(), Direction::Forward) {
            let ((user_id, _, position), _) = row?;
            if position > after && self.service.covers_user(&user_id) {
                users.insert(user_id);
            }
        }
        Ok(users)
    }

    /// The messages to the devices of these users in an interval, the oldest first. Says up to where it came.
    pub(super) fn add_to_device(
        &self,
        contents: &mut Contents,
        users: &BTreeSet<OwnedUserId>,
        (after, up_to): (Position, Position),
    ) -> Result<Position, StoreError> {
        let mut found: BTreeMap<Position, (OwnedUserId, OwnedDeviceId, String)> = BTreeMap::new();
        for user_id in users {
            for row in self.store().scan(&TO_DEVICE, &(user_id.clone(),), Direction::Forward) {
                let ((user_id, device_id, position), event) = row?;
                if position > after && position <= up_to {
                    found.insert(position, (user_id, device_id, event));
                    if found.len() > TO_DEVICE_MAX {
                        found.pop_last();
                    }
                }
            }
        }
        let came_to = if found.len() >= TO_DEVICE_MAX { found.keys().next_back().copied() } else { None };
        for (position, (user_id, device_id, event)) in found {
            let Ok(mut event) = serde_json::from_str::<Map<String, JsonValue>>(&event) else { continue };
            event.insert("to_user_id".to_owned(), user_id.as_str().into());
            event.insert("to_device_id".to_owned(), device_id.as_str().into());
            contents.to_device.push(event.into());
            contents.key_users.insert(user_id.clone());
            if !has_tokens(self.store(), &user_id, &device_id)? {
                contents.delivered.push((user_id, device_id, position));
            }
        }
        Ok(came_to.unwrap_or(up_to))
    }

    /// The users whose device lists changed in an interval and that the service's users share rooms with. Says up to where it came.
    pub(super) fn add_device_lists(
        &mut self,
        contents: &mut Contents,
        (after, up_to): (Position, Position),
    ) -> Result<Position, StoreError> {
        let mut changes = Vec::new();
        for row in self
            .store()
            .scan_range(&DEVICE_LIST_LOG, &after.next(), &up_to.next(), Direction::Forward)
            .take(DEVICE_LISTS_MAX)
        {
            changes.push(row?);
        }
        let came_to =
            if changes.len() >= DEVICE_LISTS_MAX { changes.last().map(|(position, _)| *position) } else { None };
        for (_, user_id) in changes {
            if self.service.covers_user(&user_id) || self.shares_room(&user_id)? {
                contents.changed_device_lists.insert(user_id);
            }
        }
        Ok(came_to.unwrap_or(up_to))
    }

    fn shares_room(&mut self, user_id: &UserId) -> Result<bool, StoreError> {
        let rooms = if user_id.server_name() == self.rooms.server_name() {
            self.rooms.get_joined_rooms(user_id)?
        } else {
            let shared = shared_rooms_of_remote(self.rooms.store(), self.rooms.server_name(), user_id)?;
            shared.into_iter().map(|(room, _)| room).collect()
        };
        for room in rooms {
            if self.covers_room(room)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the transaction down.
    pub(super) fn body(&self, contents: &Contents) -> Result<String, StoreError> {
        let mut body = Map::new();
        body.insert("events".to_owned(), contents.events.clone().into());
        if self.service.receive_ephemeral && !contents.ephemeral.is_empty() {
            body.insert("ephemeral".to_owned(), contents.ephemeral.clone().into());
            if self.service.legacy_ephemeral_names {
                body.insert("de.sorunome.msc2409.ephemeral".to_owned(), contents.ephemeral.clone().into());
            }
        }
        if !contents.to_device.is_empty() {
            body.insert("to_device".to_owned(), contents.to_device.clone().into());
            body.insert("de.sorunome.msc2409.to_device".to_owned(), contents.to_device.clone().into());
        }
        if self.service.device_changes {
            if !contents.changed_device_lists.is_empty() {
                let lists = json!({ "changed": contents.changed_device_lists, "left": [] });
                body.insert("org.matrix.msc3202.device_lists".to_owned(), lists);
            }
            let (counts, fallback) = self.key_counts(&contents.key_users)?;
            if !counts.is_empty() {
                body.insert("org.matrix.msc3202.device_one_time_keys_count".to_owned(), counts.into());
                body.insert("org.matrix.msc3202.device_unused_fallback_key_types".to_owned(), fallback.into());
            }
        }
        Ok(JsonValue::Object(body).to_string())
    }

    fn key_counts(&self, users: &BTreeSet<OwnedUserId>) -> Result<(JsonObject, JsonObject), StoreError> {
        let (mut counts, mut fallback) = (Map::new(), Map::new());
        for user_id in users.iter().take(KEY_COUNT_USERS_MAX) {
            let (mut by_device, mut fallback_by_device) = (Map::new(), Map::new());
            for row in self.store().scan(&DEVICES, &(user_id.clone(),), Direction::Forward) {
                let ((_, device_id), _) = row?;
                let of_device = one_time_key_counts(self.store(), user_id, &device_id)?;
                by_device.insert(device_id.to_string(), json!(of_device));
                let types = unused_fallback_key_types(self.store(), user_id, &device_id)?;
                fallback_by_device.insert(device_id.to_string(), json!(types));
            }
            if !by_device.is_empty() {
                counts.insert(user_id.to_string(), by_device.into());
                fallback.insert(user_id.to_string(), fallback_by_device.into());
            }
        }
        Ok((counts, fallback))
    }
}

/// The user whose membership the event is about.
fn member_of(event: &Event) -> Option<OwnedUserId> {
    let (event_type, state_key) = event.pdu.state_tuple()?;
    if event_type == StateEventType::RoomMember { UserId::parse(state_key).ok() } else { None }
}

/// Whether a client of its own is logged in on the device, which fetches its messages itself.
fn has_tokens(store: &Store, user_id: &UserId, device_id: &OwnedDeviceId) -> Result<bool, StoreError> {
    let key = (user_id.to_owned(), device_id.clone());
    let mut rows = store.scan(&DEVICE_TOKENS, &key, Direction::Forward);
    Ok(rows.next().transpose()?.is_some())
}

//! The extensions: what is told beside rooms.

use std::collections::BTreeMap;

use chappe_store::{Position, RoomNid, StoreError};
use serde_json::{Value, json, value::RawValue};

use super::{
    Reading, SlidingSyncError,
    lists::{UserRooms, Wanted},
    request::{RoomExtension, SlidingSyncRequest},
    response::{
        AccountDataSection, DeviceListsSection, E2eeSection, ExtensionsSection, RoomEventsSection,
        ThreadSubscriptionsSection, ToDeviceSection,
    },
    room::Standing,
};
use crate::{
    receipts::{self, Receipt},
    sync::{response::RawEvent, show, waiters::Activity},
    thread_subscriptions::{SubscriptionSections, page_token},
    to_device::MESSAGES_PER_SYNC_MAX,
};

const THREAD_SUBSCRIPTIONS_DEFAULT: usize = 100;
const THREAD_SUBSCRIPTIONS_MAX: usize = 500;

/// The rooms of an answer, with the events of their timelines.
pub(super) struct Told<'a> {
    pub(super) rooms: &'a UserRooms,
    pub(super) wanted: &'a BTreeMap<RoomNid, Wanted>,
    pub(super) shown: &'a BTreeMap<RoomNid, std::collections::BTreeSet<String>>,
}

/// How far the device has its messages, by its own word.
pub(super) fn to_device_since(
    request: &SlidingSyncRequest,
    to: Position,
) -> Result<Option<Position>, SlidingSyncError> {
    let Some(since) = &request.extensions.to_device.since else { return Ok(None) };
    let position = since.parse().ok().map(Position).filter(|position| *position <= to);
    position.map(Some).ok_or_else(|| SlidingSyncError::Invalid("Invalid since of to_device".to_owned()))
}

impl Reading<'_> {
    pub(super) fn read_extensions(&self, told: &Told<'_>) -> Result<ExtensionsSection, SlidingSyncError> {
        let asked = &self.request.extensions;
        let is_on = |enabled: Option<bool>| enabled == Some(true);
        let mut section = ExtensionsSection::default();
        if is_on(asked.to_device.enabled) {
            section.to_device = Some(self.read_to_device()?);
        }
        if is_on(asked.e2ee.enabled) {
            section.e2ee = Some(self.read_e2ee(told.rooms)?);
        }
        if is_on(asked.account_data.enabled) {
            section.account_data = Some(self.read_account_data(told)?);
        }
        if is_on(asked.receipts.enabled) {
            section.receipts = Some(self.read_receipts(told)?);
        }
        if is_on(asked.typing.enabled) {
            section.typing = Some(self.read_typing(told)?);
        }
        if is_on(asked.thread_subscriptions.enabled) {
            section.thread_subscriptions = self.read_thread_subscriptions()?;
        }
        Ok(section)
    }

    fn read_to_device(&self) -> Result<ToDeviceSection, SlidingSyncError> {
        let asked = &self.request.extensions.to_device;
        let from = to_device_since(self.request, self.to)?.unwrap_or_default();
        let limit = asked.limit.unwrap_or(MESSAGES_PER_SYNC_MAX).clamp(1, MESSAGES_PER_SYNC_MAX);
        let inbox = self.sources.devices.scan_messages(self.user, self.device, from, self.to, limit)?;
        let events = inbox.events.into_iter().filter_map(|event| RawValue::from_string(event).ok()).collect();
        Ok(ToDeviceSection { next_batch: inbox.up_to.to_string(), events })
    }

    fn read_e2ee(&self, rooms: &UserRooms) -> Result<E2eeSection, StoreError> {
        let mut device_lists = None;
        if let Some(since) = self.since {
            let joined: Vec<RoomNid> = rooms.iter().filter(|(_, room)| room.is_joined()).map(|(nid, _)| *nid).collect();
            let active = self.sources.waiters.active_rooms(joined.iter().copied(), since.position);
            let active: Vec<RoomNid> = active.into_iter().collect();
            if !active.is_empty() || self.user_activity() == Activity::Possible {
                let lists = &self.sources.device_lists;
                let changes = lists.changed_with(self.user, since.position, self.to, &joined, &active)?;
                let is_news = !changes.changed.is_empty() || !changes.left.is_empty();
                device_lists = is_news.then_some(DeviceListsSection { changed: changes.changed, left: changes.left });
            }
        }
        let counts = self.sources.devices.get_key_counts(self.user, self.device)?;
        Ok(E2eeSection {
            device_lists,
            device_one_time_keys_count: counts.one_time_keys.clone(),
            device_unused_fallback_key_types: counts.unused_fallback_key_types.clone(),
        })
    }

    fn read_account_data(&self, told: &Told<'_>) -> Result<AccountDataSection, StoreError> {
        let account_data = &self.sources.account_data;
        let mut section = AccountDataSection::default();
        match self.since {
            None => section.global.extend(account_data.scan(self.user, None)?.iter().filter_map(show::account_data)),
            Some(_) if self.user_activity() == Activity::None => {}
            Some(since) => {
                let changed = account_data.scan_account_data_since(self.user, since.position, self.to)?;
                let global = changed.iter().filter(|item| item.room_id.is_none());
                section.global.extend(global.filter_map(show::account_data));
            }
        }
        for (nid, room) in self.rooms_of(&self.request.extensions.account_data, told) {
            let from = match self.standing(nid) {
                Standing::New => Position::ZERO,
                // As long as nothing happened to the user, none of it was written.
                Standing::Told(_) if self.user_activity() == Activity::None && !self.is_behind(nid) => continue,
                Standing::Told(from) => from,
            };
            let items = account_data.scan(self.user, Some(&room.id))?;
            let new = items.iter().filter(|item| item.position > from && item.position <= self.to);
            let events: Vec<RawEvent> = new.filter_map(show::account_data).collect();
            if !events.is_empty() {
                section.rooms.insert(room.id.clone(), events);
            }
        }
        Ok(section)
    }

    fn read_receipts(&self, told: &Told<'_>) -> Result<RoomEventsSection, StoreError> {
        let mut section = RoomEventsSection::default();
        for (nid, room) in self.rooms_of(&self.request.extensions.receipts, told).filter(|(_, room)| room.is_joined()) {
            let standing = self.standing(nid);
            let from = match standing {
                Standing::New => Position::ZERO,
                Standing::Told(from) if !self.is_active(nid, from) && self.user_activity() == Activity::None => {
                    continue;
                }
                Standing::Told(from) => from,
            };
            let mut new = self.sources.receipts.scan_receipts(nid, self.user, from, self.to)?;
            if standing == Standing::New {
                // Of a room seen for the first time: the user's own, and those at what is shown.
                let shown = told.shown.get(&nid);
                let is_shown = |receipt: &Receipt| shown.is_some_and(|shown| shown.contains(receipt.event_id.as_str()));
                new.retain(|receipt| receipt.user_id == self.user || is_shown(receipt));
            }
            let content = merged(receipts::contents(&new));
            if let Some(event) = content.and_then(|content| show::ephemeral("m.receipt", content)) {
                section.rooms.insert(room.id.clone(), event);
            }
        }
        Ok(section)
    }

    fn read_typing(&self, told: &Told<'_>) -> Result<RoomEventsSection, StoreError> {
        let mut section = RoomEventsSection::default();
        for (nid, room) in self.rooms_of(&self.request.extensions.typing, told).filter(|(_, room)| room.is_joined()) {
            let (version, users) = self.sources.typing.current(nid);
            let is_news = match (self.standing(nid), self.since) {
                (Standing::Told(_), Some(since)) => version > since.typing,
                _ => !users.is_empty(),
            };
            if is_news {
                let shown: Vec<_> = users.iter().filter(|user| !self.ignored.contains(*user)).collect();
                if let Some(event) = show::ephemeral("m.typing", json!({ "user_ids": shown })) {
                    section.rooms.insert(room.id.clone(), event);
                }
            }
        }
        Ok(section)
    }

    fn read_thread_subscriptions(&self) -> Result<Option<ThreadSubscriptionsSection>, StoreError> {
        if self.since.is_some() && self.user_activity() == Activity::None {
            return Ok(None);
        }
        let limit = self.request.extensions.thread_subscriptions.limit.unwrap_or(THREAD_SUBSCRIPTIONS_DEFAULT);
        let from = self.since.map_or(Position::ZERO, |since| since.position);
        let (changes, is_limited) = self.service.thread_subscriptions.scan_changes(
            self.user,
            from,
            self.to,
            limit.clamp(1, THREAD_SUBSCRIPTIONS_MAX),
        )?;
        let prev_batch = changes.last().filter(|_| is_limited).map(|last| page_token(last.position));
        let changes = SubscriptionSections::new(changes);
        Ok((!changes.is_empty()).then_some(ThreadSubscriptionsSection { changes, prev_batch }))
    }

    /// The rooms of an answer that an extension is asked for.
    fn rooms_of<'a>(
        &self,
        asked: &'a RoomExtension,
        told: &'a Told<'_>,
    ) -> impl Iterator<Item = (RoomNid, &'a super::lists::UserRoom)> + 'a {
        told.wanted.iter().filter_map(move |(nid, wanted)| {
            let room = told.rooms.get(nid)?;
            let names = |name: &str, named: &Option<Vec<String>>| {
                named.as_ref().is_none_or(|named| named.iter().any(|named| named == "*" || named == name))
            };
            let by_list = wanted.lists.iter().any(|list| names(list, &asked.lists));
            let by_subscription = wanted.is_subscribed && names(room.id.as_str(), &asked.rooms);
            (by_list || by_subscription).then_some((*nid, room))
        })
    }

    /// Whether a room was told less far than the rest.
    fn is_behind(&self, nid: RoomNid) -> bool {
        self.told.rooms.get(&nid).is_some_and(|sent| sent.up_to.is_some())
    }
}

/// One content of the several that one `m.receipt` event cannot hold: of a user's receipts at one event, the first.
fn merged(contents: Vec<Value>) -> Option<Value> {
    contents.into_iter().reduce(|mut all, more| {
        add(&mut all, more);
        all
    })
}

fn add(all: &mut Value, more: Value) {
    let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) else { return };
    for (key, value) in more {
        match all.get_mut(&key) {
            // Event, receipt type, user: what stands below that is one receipt.
            Some(known) if known.get("ts").is_none() => add(known, value),
            Some(_) => {}
            None => {
                all.insert(key, value);
            }
        }
    }
}

//! The answer to `/sync`, ready to be serialised. Events are raw JSON, or become it with the answer.
//!
//! Spec: Client-Server API, `GET /sync`.

use std::collections::{BTreeMap, BTreeSet};

use chappe_protocol::client_format::ClientEvent;
use ruma::{OneTimeKeyAlgorithm, OwnedEventId, OwnedRoomId, OwnedUserId, UInt};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::push::unread::Count;

pub type RawEvent = Box<RawValue>;

/// An event of a room in an answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ShownEvent {
    /// As its client wants it.
    Text(RawEvent),
    /// As it is written into the answer.
    Event(Box<ClientEvent>),
}

#[derive(Debug, Default, Serialize)]
pub struct SyncResponse {
    pub next_batch: String,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub account_data: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub presence: Events,
    #[serde(skip_serializing_if = "Events::is_empty")]
    pub to_device: Events,
    #[serde(skip_serializing_if = "RoomsSection::is_empty")]
    pub rooms: RoomsSection,
    #[serde(skip_serializing_if = "DeviceListsSection::is_empty")]
    pub device_lists: DeviceListsSection,
    pub device_one_time_keys_count: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    pub device_unused_fallback_key_types: Vec<OneTimeKeyAlgorithm>,
}

impl SyncResponse {
    /// Whether it tells nothing new. The counts of keys are always there and do not count.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.rooms.is_empty()
            && self.device_lists.is_empty()
    }
}

#[derive(Debug, Serialize)]
pub struct Events<E = RawEvent> {
    pub events: Vec<E>,
}

impl<E> Default for Events<E> {
    fn default() -> Self {
        Self { events: Vec::new() }
    }
}

impl<E> Events<E> {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[derive(Debug, Default, Serialize)]
pub struct DeviceListsSection {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceListsSection {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

#[derive(Debug, Default, Serialize)]
pub struct RoomsSection {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

impl RoomsSection {
    pub fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

#[derive(Debug, Serialize)]
pub struct JoinedRoom {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<SummarySection>,
    #[serde(flatten)]
    pub state: StateSection,
    pub timeline: TimelineSection,
    pub ephemeral: Events,
    pub account_data: Events,
    pub unread_notifications: Count,
    /// By the roots of the threads; only if the client asks for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<OwnedEventId, Count>,
}

impl JoinedRoom {
    /// Whether it tells nothing new. The unread counts are always there and do not count.
    pub fn is_empty(&self) -> bool {
        self.summary.is_none()
            && self.state.is_empty()
            && self.timeline.is_empty()
            && self.ephemeral.is_empty()
            && self.account_data.is_empty()
    }
}

#[derive(Debug, Serialize)]
pub struct LeftRoom {
    #[serde(flatten)]
    pub state: StateSection,
    pub timeline: TimelineSection,
    pub account_data: Events,
}

#[derive(Debug, Serialize)]
pub struct InvitedRoom {
    pub invite_state: Events,
}

#[derive(Debug, Serialize)]
pub struct KnockedRoom {
    pub knock_state: Events,
}

#[derive(Debug, Default, Serialize)]
pub struct TimelineSection {
    pub events: Vec<ShownEvent>,
    pub limited: bool,
    pub prev_batch: String,
}

impl TimelineSection {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.limited
    }
}

/// The state before the timeline, or after it under the name that the client asked for.
#[derive(Debug, Serialize)]
pub enum StateSection {
    #[serde(rename = "state")]
    Before(Events<ShownEvent>),
    #[serde(rename = "state_after")]
    After(Events<ShownEvent>),
    #[serde(rename = "org.matrix.msc4222.state_after")]
    AfterUnstable(Events<ShownEvent>),
}

impl StateSection {
    pub fn events(&self) -> &[ShownEvent] {
        let (Self::Before(events) | Self::After(events) | Self::AfterUnstable(events)) = self;
        &events.events
    }

    fn is_empty(&self) -> bool {
        self.events().is_empty()
    }
}

#[derive(Debug, Serialize)]
pub struct SummarySection {
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<OwnedUserId>>,
    #[serde(rename = "m.joined_member_count")]
    pub joined: u64,
    #[serde(rename = "m.invited_member_count")]
    pub invited: u64,
}

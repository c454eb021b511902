//! Requests and answers of sliding sync in the form in which the proposal was accepted: other names for the same things, and required state
//! as objects.
//!
//! Differs from the proposal in what is shared with the form that came before: rooms are in the order of their bump stamps, state that was
//! taken away is not told as such, and rooms that the user was banned from come while the connection has them.
//!
//! Spec: MSC4186.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, RoomId, presence::PresenceState};
use serde::{Deserialize, Serialize};

use super::{
    request::{ExtensionsRequest, ListFilters, ListRequest, RoomRequest, SlidingSyncRequest},
    required_state::excluded_pair,
    response::{ExtensionsSection, HeroSection, ListSection, RoomSection, SlidingSyncResponse},
};
use crate::{push::unread::Count, sync::response::RawEvent};

/// A request; it becomes a [`SlidingSyncRequest`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StableRequest {
    pos: Option<String>,
    conn_id: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<PresenceState>,
    lists: BTreeMap<String, StableList>,
    room_subscriptions: BTreeMap<OwnedRoomId, StableSubscription>,
    extensions: ExtensionsRequest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StableList {
    timeline_limit: u32,
    required_state: StableState,
    range: Option<(usize, usize)>,
    filters: ListFilters,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StableSubscription {
    timeline_limit: u32,
    required_state: StableState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StableState {
    include: Vec<StateElement>,
    exclude: Vec<StateElement>,
    lazy_members: bool,
}

/// What is left out stands for anything.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StateElement {
    #[serde(rename = "type")]
    event_type: Option<String>,
    state_key: Option<String>,
}

impl StateElement {
    fn parts(&self) -> (&str, &str) {
        (self.event_type.as_deref().unwrap_or("*"), self.state_key.as_deref().unwrap_or("*"))
    }

    fn is_everything(&self) -> bool {
        self.event_type.is_none() && self.state_key.is_none()
    }
}

impl StableState {
    /// The same as pairs. Among these one that names a type would narrow what is told of that type beside everything.
    fn pairs(&self) -> Vec<(String, String)> {
        let has_everything = self.include.iter().any(StateElement::is_everything);
        let included = self.include.iter().filter(|element| !has_everything || element.is_everything());
        let mut pairs: Vec<_> =
            included.map(StateElement::parts).map(|(kind, key)| (kind.into(), key.into())).collect();
        pairs.extend(self.exclude.iter().map(StateElement::parts).map(|(kind, key)| excluded_pair(kind, key)));
        if self.lazy_members {
            pairs.push(("m.room.member".to_owned(), "$LAZY".to_owned()));
        }
        pairs
    }
}

impl From<StableRequest> for SlidingSyncRequest {
    fn from(request: StableRequest) -> Self {
        let lists = request.lists.into_iter().map(|(name, list)| {
            let list = ListRequest {
                ranges: list.range.map(|range| vec![range]),
                slow_get_all_rooms: false,
                required_state: list.required_state.pairs(),
                timeline_limit: list.timeline_limit,
                filters: list.filters,
            };
            (name, list)
        });
        let subscriptions = request.room_subscriptions.into_iter().map(|(room, subscription)| {
            let required_state = subscription.required_state.pairs();
            (room, RoomRequest { required_state, timeline_limit: subscription.timeline_limit })
        });
        Self {
            pos: request.pos,
            conn_id: request.conn_id,
            txn_id: None,
            timeout: request.timeout,
            set_presence: request.set_presence,
            lists: lists.collect(),
            room_subscriptions: subscriptions.collect(),
            extensions: request.extensions,
        }
    }
}

/// An answer, ready to be serialised.
#[derive(Serialize)]
pub struct StableResponse<'a> {
    pos: &'a str,
    lists: &'a BTreeMap<String, ListSection>,
    rooms: BTreeMap<&'a RoomId, StableRoom<'a>>,
    extensions: &'a ExtensionsSection,
}

#[derive(Serialize)]
struct StableRoom<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    membership: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    lists: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heroes: Option<&'a [HeroSection]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_dm: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    initial: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expanded_timeline: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    required_state: &'a [RawEvent],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    timeline_events: &'a [RawEvent],
    #[serde(skip_serializing_if = "Option::is_none")]
    stripped_state: Option<&'a [RawEvent]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_live: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bump_stamp: Option<u64>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    unread: Option<&'a Count>,
}

impl<'a> From<&'a SlidingSyncResponse> for StableResponse<'a> {
    fn from(response: &'a SlidingSyncResponse) -> Self {
        let rooms = response.rooms.iter().map(|(id, room)| (&**id, StableRoom::from(room)));
        Self { pos: &response.pos, lists: &response.lists, rooms: rooms.collect(), extensions: &response.extensions }
    }
}

impl<'a> From<&'a RoomSection> for StableRoom<'a> {
    fn from(room: &'a RoomSection) -> Self {
        Self {
            membership: room.membership.as_deref(),
            lists: &room.lists,
            name: room.name.as_deref(),
            avatar: room.avatar.as_ref().map(Option::as_deref),
            heroes: room.heroes.as_deref(),
            is_dm: room.is_dm,
            initial: room.initial,
            expanded_timeline: room.unstable_expanded_timeline,
            required_state: &room.required_state,
            timeline_events: &room.timeline,
            stripped_state: room.invite_state.as_deref(),
            prev_batch: room.prev_batch.as_deref(),
            limited: room.limited,
            num_live: room.num_live,
            joined_count: room.joined_count,
            invited_count: room.invited_count,
            bump_stamp: room.bump_stamp,
            unread: room.unread.as_ref(),
        }
    }
}

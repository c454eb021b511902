//! The parts of an answer about rooms that the user is not joined to: left, invited to, knocked on.

use chappe_rooms::{Room, Rooms, state::EMPTY};
use chappe_store::{Order, Position, RoomNid, StoreError};
use ruma::{RoomId, UserId, events::StateEventType};
use serde_json::Value;

use super::{
    StateStyle, SyncError, View,
    joined::StateQuery,
    response::{Events, LeftRoom, RawEvent, StateSection},
    rooms::Membership,
    show,
    state::{StateSpan, is_joined_at, root_at},
    timeline::{Timeline, TimelineQuery, read_timeline},
};
use crate::account_data::AccountDataItem;

/// What clients are shown of a stripped state event. The create event comes with more than the four fields that are required.
const STRIPPED_FIELDS: [&str; 6] = ["type", "state_key", "sender", "content", "event_id", "origin_server_ts"];

impl View<'_> {
    /// As [`read_stripped`].
    pub(super) fn read_stripped(&self, room: RoomNid, member: &Membership) -> Result<Vec<RawEvent>, StoreError> {
        read_stripped(&self.sources.rooms, &self.request.user_id, room, member)
    }

    /// A room that the user has left, or been removed from: up to that. `None` if nothing is known of how it ended.
    pub(super) fn read_left(
        &self,
        nid: RoomNid,
        room_id: &RoomId,
        member: &Membership,
        account_data: Option<&Vec<AccountDataItem>>,
    ) -> Result<Option<LeftRoom>, SyncError> {
        let Some(event) = &member.event else { return Ok(None) };
        let rooms = &self.sources.rooms;
        let (timeline, state) = match (rooms.get_room_by_nid(nid)?, rooms.get_event_order(event.nid)?) {
            (Some(room), Some(Order::Live(left_at))) => self.read_until(&room, left_at, member)?,
            // Over federation, from a room whose state this server does not have.
            _ => {
                let wanted = !self.filter.timeline.refuses_all(room_id) && self.filter.timeline.admits(&event.pdu);
                let timeline = Timeline::of_outlier(event.clone(), self.to);
                (if wanted { self.show_timeline(&timeline)? } else { Default::default() }, self.no_state())
            }
        };
        let filter = &self.filter.room_account_data;
        let data = account_data
            .into_iter()
            .flatten()
            .filter(|item| filter.admits_room(room_id) && filter.admits_type(&item.event_type));
        let account_data = Events { events: data.filter_map(show::account_data).collect() };
        Ok(Some(LeftRoom { state, timeline, account_data }))
    }

    fn read_until(
        &self,
        room: &Room,
        left_at: Position,
        member: &Membership,
    ) -> Result<(super::response::TimelineSection, StateSection), SyncError> {
        let (rooms, user) = (&self.sources.rooms, &self.request.user_id);
        let Some(event) = &member.event else { return Ok((Default::default(), self.no_state())) };
        let was_joined = match event.record.state_before {
            Some(root) => is_joined_at(rooms, room.nid, root, user)?,
            None => false,
        };
        let known = self.since.map_or(Ok(EMPTY), |since| root_at(rooms, room.nid, since.position))?;
        let was_known = is_joined_at(rooms, room.nid, known, user)?;
        // Joined and left between two syncs, with nothing of the room shown in between.
        let is_new = was_joined && !was_known;
        let query = TimelineQuery {
            user,
            from: if is_new { Position::ZERO } else { self.from() },
            to: left_at,
            filter: &self.filter.timeline,
            limit: self.filter.timeline_limit,
            ignored: self.ignored,
        };
        let mut timeline = read_timeline(rooms, room, &query)?;
        timeline.limited |= is_new && self.since.is_some();
        // Who was not in the room has no right to its state.
        let state = match event.record.state_after {
            Some(to) if was_joined => {
                let span = StateSpan {
                    room: room.nid,
                    from: if was_known { known } else { EMPTY },
                    to,
                    skips_new_members: false,
                };
                self.read_state_section(StateQuery { room, span, timeline: &timeline, members: vec![user.clone()] })?
            }
            _ => self.no_state(),
        };
        Ok((self.show_timeline(&timeline)?, state))
    }

    fn no_state(&self) -> StateSection {
        match self.request.state_style {
            StateStyle::Before => StateSection::Before(Events::default()),
            StateStyle::After => StateSection::After(Events::default()),
            StateStyle::AfterUnstable => StateSection::AfterUnstable(Events::default()),
        }
    }
}

/// What somebody who is invited, or has knocked, is shown of a room; with the invite or knock itself.
///
/// Spec: Client-Server API, Stripped state.
pub(crate) fn read_stripped(
    rooms: &Rooms,
    user: &UserId,
    room: RoomNid,
    member: &Membership,
) -> Result<Vec<RawEvent>, StoreError> {
    let stripped = rooms.get_stripped_state(user, room)?;
    let is_own = |event: &Value| {
        event.get("type").and_then(Value::as_str) == Some(&StateEventType::RoomMember.to_string())
            && event.get("state_key").and_then(Value::as_str) == Some(user.as_str())
    };
    let mut events: Vec<RawEvent> = stripped.iter().filter(|event| !is_own(event)).filter_map(show_stripped).collect();
    // Who invites is shown with a name, where this server knows the room.
    if member.sender != *user
        && let Some(sender) = rooms.get_state_event(room, &StateEventType::RoomMember, member.sender.as_str())?
    {
        events.extend(sender.pdu.to_stripped().ok());
    }
    events.extend(member.event.as_ref().and_then(|event| event.pdu.to_stripped().ok()));
    Ok(events)
}

fn show_stripped(event: &Value) -> Option<RawEvent> {
    let fields = event.as_object()?.iter().filter(|(key, _)| STRIPPED_FIELDS.contains(&key.as_str()));
    show::raw(&fields.collect::<std::collections::BTreeMap<_, _>>())
}

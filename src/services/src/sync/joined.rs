//! A joined room's part of an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chappe_rooms::{
    Event, Room,
    state::{EMPTY, StateRoot},
};
use chappe_store::{EventNid, Position, StoreError};
use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::json;

use super::{
    StateStyle, SyncError, View,
    filter::LazyLoad,
    lazy_members::DeviceRoom,
    response::{Events, JoinedRoom, RawEvent, StateSection, SummarySection, TimelineSection},
    show,
    state::{StateSpan, Until, member_at, read_state, root_at},
    timeline::{Timeline, TimelineQuery, read_timeline},
};
use crate::{account_data::AccountDataItem, receipts};

/// How much of a joined room a client is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope {
    /// The timeline after this place.
    pub(super) timeline_from: Position,
    /// Receipts and the like after this place.
    pub(super) other_from: Position,
    /// The state that the client has.
    pub(super) state_from: StateRoot,
    pub(super) is_newly_joined: bool,
    /// Members became known that were there all the time: they are told when they are needed.
    pub(super) skips_new_members: bool,
}

impl Scope {
    pub(super) fn initial() -> Self {
        Self {
            timeline_from: Position::ZERO,
            other_from: Position::ZERO,
            state_from: EMPTY,
            is_newly_joined: false,
            skips_new_members: false,
        }
    }

    pub(super) fn newly_joined() -> Self {
        Self { is_newly_joined: true, ..Self::initial() }
    }

    /// Whether the client is told the whole state.
    pub(super) fn is_full(&self) -> bool {
        self.state_from == EMPTY
    }
}

/// What a room's state section is made for.
pub(super) struct StateQuery<'a> {
    pub(super) room: &'a Room,
    pub(super) span: StateSpan,
    pub(super) timeline: &'a Timeline,
    /// Whose member events are needed whoever speaks in the timeline.
    pub(super) members: Vec<OwnedUserId>,
}

impl View<'_> {
    /// `None` if there is nothing to tell.
    pub(super) fn read_joined(
        &self,
        room: &Room,
        scope: Scope,
        account_data: Option<&Vec<AccountDataItem>>,
        newly_seen: &mut BTreeSet<OwnedUserId>,
    ) -> Result<Option<JoinedRoom>, SyncError> {
        let rooms = &self.sources.rooms;
        let mut timeline = read_timeline(
            rooms,
            room,
            &TimelineQuery {
                user: &self.request.user_id,
                from: scope.timeline_from,
                to: self.to,
                filter: &self.filter.timeline,
                limit: self.filter.timeline_limit,
                ignored: self.ignored,
            },
        )?;
        // The client may hold an older stretch of the room: it must not take this one for its continuation.
        timeline.limited |= scope.is_newly_joined;
        let span = StateSpan {
            room: room.nid,
            from: scope.state_from,
            to: root_at(rooms, room.nid, self.to)?,
            skips_new_members: scope.skips_new_members,
        };
        let summary = self.read_summary(scope, span)?;
        let mut members: Vec<_> = summary.iter().filter_map(|summary| summary.heroes.clone()).flatten().collect();
        if scope.is_full() {
            members.push(self.request.user_id.clone());
        }
        let state = self.read_state_section(StateQuery { room, span, timeline: &timeline, members })?;
        if self.since.is_some() {
            self.collect_newly_seen(room, scope, &timeline, newly_seen)?;
        }
        let unread = self.sources.unread.get_counts(&self.request.user_id, room, self.to)?;
        let has_news_of_unread = unread.changed_at > self.from();
        let (unread_notifications, unread_thread_notifications) = match self.filter.unread_by_thread {
            true => (unread.main, unread.threads),
            false => (unread.total(), BTreeMap::new()),
        };
        let part = JoinedRoom {
            summary,
            state,
            ephemeral: Events { events: self.read_ephemeral(room, scope)? },
            account_data: Events { events: self.read_room_account_data(room, scope, account_data)? },
            timeline: self.show_timeline(&timeline)?,
            unread_notifications,
            unread_thread_notifications,
        };
        Ok((!part.is_empty() || has_news_of_unread || scope.is_full()).then_some(part))
    }

    pub(super) fn show_timeline(&self, timeline: &Timeline) -> Result<TimelineSection, SyncError> {
        Ok(TimelineSection {
            events: self.show_timeline_events(timeline)?,
            limited: timeline.limited,
            prev_batch: timeline.prev_batch.to_string(),
        })
    }

    /// The state that goes with a timeline, as the client's filter wants it.
    pub(super) fn read_state_section(&self, query: StateQuery<'_>) -> Result<StateSection, SyncError> {
        let mut events =
            if self.filter.state.refuses_all(&query.room.id) { Vec::new() } else { self.read_wanted_state(&query)? };
        events.retain(|event| self.filter.state.admits(&event.pdu));
        if self.filter.lazy_load.is_on() {
            let of = DeviceRoom { user: &self.request.user_id, device: &self.request.device_id, room: query.room.nid };
            let told = events.iter().chain(query.timeline.events.iter().map(|(_, event)| event));
            let members: BTreeMap<&str, EventNid> =
                told.filter_map(|event| Some((member_of(event)?, event.nid))).collect();
            self.lazy_members.note(of, members, self.to);
        }
        let events = Events { events: self.show_events(events.iter().map(|event| &**event))? };
        Ok(match self.request.state_style {
            StateStyle::Before => StateSection::Before(events),
            StateStyle::After => StateSection::After(events),
            StateStyle::AfterUnstable => StateSection::AfterUnstable(events),
        })
    }

    fn read_wanted_state(&self, query: &StateQuery<'_>) -> Result<Vec<Arc<Event>>, StoreError> {
        let rooms = &self.sources.rooms;
        let until = match self.request.state_style {
            StateStyle::Before => Until::StartOf(query.timeline),
            StateStyle::After | StateStyle::AfterUnstable => Until::End,
        };
        let is_lazy = self.filter.lazy_load.is_on();
        let is_full = query.span.from == EMPTY;
        // Of the whole state only the members that are needed; of what changed every member: the client may show it.
        let wants = |event_type: &StateEventType, _: &str| {
            !(is_lazy && is_full && *event_type == StateEventType::RoomMember)
                && self.filter.state.admits_type(&event_type.to_string())
        };
        let mut events = read_state(rooms, query.span, until, wants)?.events;
        if is_lazy {
            self.add_needed_members(query, until, &mut events)?;
        }
        Ok(events)
    }

    /// Adds the member events of who speaks in the timeline, as far as the device does not have them.
    fn add_needed_members(
        &self,
        query: &StateQuery<'_>,
        until: Until<'_>,
        events: &mut Vec<Arc<Event>>,
    ) -> Result<(), StoreError> {
        let rooms = &self.sources.rooms;
        let of = DeviceRoom { user: &self.request.user_id, device: &self.request.device_id, room: query.room.nid };
        let root = match until {
            Until::StartOf(timeline) => timeline.state_before().unwrap_or(query.span.to),
            Until::End => query.span.to,
        };
        let told: BTreeSet<EventNid> = events.iter().map(|event| event.nid).collect();
        let senders = query.timeline.events.iter().map(|(_, event)| &event.pdu.sender);
        let needed: BTreeSet<&OwnedUserId> = senders.chain(&query.members).collect();
        for user in needed {
            let member = match member_at(rooms, query.room.nid, root, user)? {
                Some(member) => member,
                // Not all members are known yet: the event that the user sent brought the user's membership along.
                None => match self.member_from_timeline(query.timeline, user)? {
                    Some(member) => member,
                    None => continue,
                },
            };
            let is_in_timeline = matches!(until, Until::StartOf(timeline) if timeline.contains(member.nid));
            // Only what was told on top of the same state can be known to the device.
            let is_redundant = query.span.from != EMPTY
                && self.filter.lazy_load == LazyLoad::NotRedundant
                && self.lazy_members.has(of, user.as_str(), member.nid, self.from());
            if !told.contains(&member.nid) && !is_in_timeline && !is_redundant {
                events.push(member);
            }
        }
        Ok(())
    }

    fn member_from_timeline(&self, timeline: &Timeline, user: &OwnedUserId) -> Result<Option<Arc<Event>>, StoreError> {
        let mut sent = timeline.events.iter().filter(|(_, event)| event.pdu.sender == *user);
        match sent.next() {
            Some((_, event)) => self.sources.rooms.get_sender_from_auth_events(event),
            None => Ok(None),
        }
    }

    fn read_summary(&self, scope: Scope, span: StateSpan) -> Result<Option<SummarySection>, StoreError> {
        let rooms = &self.sources.rooms;
        // Nothing is wanted of the events: only whether there are any.
        if !scope.is_full()
            && (span.from == span.to || !read_state(rooms, span, Until::End, |_, _| false)?.touches_summary)
        {
            return Ok(None);
        }
        let summary = self.summaries.get(rooms, span.room, span.to)?;
        Ok(Some(SummarySection {
            heroes: summary.is_nameless.then(|| summary.heroes(&self.request.user_id)),
            joined: summary.joined,
            invited: summary.invited,
        }))
    }

    fn read_ephemeral(&self, room: &Room, scope: Scope) -> Result<Vec<RawEvent>, StoreError> {
        let filter = &self.filter.ephemeral;
        let mut events = Vec::new();
        if filter.refuses_all(&room.id) {
            return Ok(events);
        }
        if filter.admits_type("m.typing") {
            let (version, users) = self.sources.typing.current(room.nid);
            let is_news = match self.since {
                Some(since) if scope.other_from > Position::ZERO => version > since.typing,
                _ => !users.is_empty(),
            };
            if is_news {
                let shown: Vec<_> = users.iter().filter(|user| !self.ignored.contains(*user)).collect();
                events.extend(show::ephemeral("m.typing", json!({ "user_ids": shown })));
            }
        }
        if filter.admits_type("m.receipt") {
            let new =
                self.sources.receipts.scan_receipts(room.nid, &self.request.user_id, scope.other_from, self.to)?;
            events.extend(
                receipts::contents(&new).into_iter().filter_map(|content| show::ephemeral("m.receipt", content)),
            );
        }
        events.truncate(filter.limit());
        Ok(events)
    }

    fn read_room_account_data(
        &self,
        room: &Room,
        scope: Scope,
        changed: Option<&Vec<AccountDataItem>>,
    ) -> Result<Vec<RawEvent>, StoreError> {
        let filter = &self.filter.room_account_data;
        if filter.refuses_all(&room.id) {
            return Ok(Vec::new());
        }
        let show =
            |item: &AccountDataItem| filter.admits_type(&item.event_type).then(|| show::account_data(item)).flatten();
        // Of a room that was not shown before, also what was written before.
        let mut events: Vec<_> = if self.since.is_some() && scope.other_from == Position::ZERO {
            self.sources.account_data.scan(&self.request.user_id, Some(&room.id))?.iter().filter_map(show).collect()
        } else {
            changed.into_iter().flatten().filter_map(show).collect()
        };
        events.truncate(filter.limit());
        Ok(events)
    }

    fn collect_newly_seen(
        &self,
        room: &Room,
        scope: Scope,
        timeline: &Timeline,
        newly_seen: &mut BTreeSet<OwnedUserId>,
    ) -> Result<(), StoreError> {
        if !self.sources.presence.is_enabled() {
            return Ok(());
        }
        if scope.is_newly_joined {
            for row in self.sources.rooms.scan_members(room.nid) {
                let (user, member) = row?;
                if member.value.membership == "join" && user != self.request.user_id {
                    newly_seen.insert(user);
                }
            }
            return Ok(());
        }
        let joins = timeline.events.iter().filter(|(_, event)| event.pdu.membership() == Some(MembershipState::Join));
        let users = joins.filter_map(|(_, event)| OwnedUserId::try_from(event.pdu.state_key()?).ok());
        newly_seen.extend(users.filter(|user| *user != self.request.user_id));
        Ok(())
    }
}

/// Whose membership an event is about.
fn member_of(event: &Event) -> Option<&str> {
    match event.pdu.state_tuple()? {
        (StateEventType::RoomMember, user) => Some(user),
        _ => None,
    }
}

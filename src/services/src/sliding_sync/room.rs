//! One room's part of an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chappe_rooms::{
    Event, Room,
    client_event::Viewer,
    relations::Audience,
    state::{EMPTY, StateRoot},
};
use chappe_store::{EventNid, Order, Position, RoomNid, StoreError, tables::sliding_sync::SentRoom};
use ruma::{DeviceId, OwnedUserId, UserId, events::StateEventType};
use serde_json::Value;

use super::{
    Reading, SlidingSyncError,
    facts::text,
    lists::{UserRoom, Wanted},
    required_state::RequiredState,
    response::{HeroSection, RoomSection},
};
use crate::sync::{
    filter::EventFilter,
    lazy_members::DeviceRoom,
    outside::read_stripped,
    response::RawEvent,
    state::{StateSpan, Until, is_joined_at, member_at, read_state, root_at},
    timeline::{Timeline, TimelineQuery, read_timeline},
};

/// How a connection stands to a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Never told of it.
    New,
    /// Told everything up to here.
    Told(Position),
}

/// A room's part, and what the connection is to remember.
pub(super) struct RoomAnswer {
    /// `None`: there is nothing to tell.
    pub(super) section: Option<RoomSection>,
    /// `None`: as it was. `Some(None)`: the room counts as never told.
    pub(super) sent: Option<Option<SentRoom>>,
    pub(super) config: Option<RequiredState>,
    /// The events of the timeline, for receipts.
    pub(super) shown: BTreeSet<String>,
}

impl RoomAnswer {
    fn nothing() -> Self {
        Self { section: None, sent: None, config: None, shown: BTreeSet::new() }
    }
}

/// What part of a room is read.
struct Span<'a> {
    room: &'a Room,
    state: StateSpan,
    is_initial: bool,
    wanted: &'a RequiredState,
    known: &'a RequiredState,
}

impl Reading<'_> {
    pub(super) fn standing(&self, nid: RoomNid) -> Standing {
        match (self.told.rooms.get(&nid), self.since) {
            (Some(sent), Some(since)) => Standing::Told(sent.up_to.map_or(since.position, Position)),
            _ => Standing::New,
        }
    }

    pub(super) fn read_room(
        &self,
        nid: RoomNid,
        user_room: &UserRoom,
        wanted: &Wanted,
    ) -> Result<RoomAnswer, SlidingSyncError> {
        if user_room.is_pending() {
            return Ok(self.read_pending(nid, user_room, wanted)?);
        }
        let Some(room) = self.sources.rooms.get_room_by_nid(nid)? else { return self.read_gone(user_room) };
        if user_room.is_joined() {
            self.read_joined(&room, user_room, wanted)
        } else {
            self.read_left(&room, user_room)
        }
    }

    /// A room that the user is invited to, or knocks on.
    fn read_pending(&self, nid: RoomNid, user_room: &UserRoom, wanted: &Wanted) -> Result<RoomAnswer, StoreError> {
        let standing = self.standing(nid);
        if matches!(standing, Standing::Told(from) if user_room.changed_at <= from) {
            return Ok(self.without_news(nid));
        }
        let mut stripped = read_stripped(&self.sources.rooms, self.user, nid, &user_room.membership)?;
        stripped.truncate(STRIPPED_MAX);
        let section = RoomSection {
            name: user_room.facts.name.clone(),
            initial: true,
            is_dm: self.direct.contains(&user_room.id),
            invite_state: Some(stripped),
            bump_stamp: Some(user_room.bump().0),
            ..RoomSection::default()
        };
        // Nothing of the room itself has been told: joining it begins anew, by the change of the membership.
        let sent =
            SentRoom { config: RequiredState::default().hash(), timeline_limit: wanted.timeline_limit, up_to: None };
        Ok(RoomAnswer { section: Some(section), sent: Some(Some(sent)), ..RoomAnswer::nothing() })
    }

    /// A room that was told up to some place, and is told up to now with nothing new.
    fn without_news(&self, nid: RoomNid) -> RoomAnswer {
        let sent = self.told.rooms.get(&nid).filter(|sent| sent.up_to.is_some());
        let sent = sent.map(|sent| Some(SentRoom { up_to: None, ..sent.clone() }));
        RoomAnswer { sent, ..RoomAnswer::nothing() }
    }

    fn read_joined(&self, room: &Room, user_room: &UserRoom, wanted: &Wanted) -> Result<RoomAnswer, SlidingSyncError> {
        let rooms = &self.sources.rooms;
        let standing = match self.standing(room.nid) {
            // Joined since: what was told before, as an invite or in a former stay, is no ground to build on.
            Standing::Told(from) if user_room.changed_at > from && !self.was_joined_throughout(room.nid, from)? => {
                Standing::New
            }
            standing => standing,
        };
        let sent = self.told.rooms.get(&room.nid).filter(|_| standing != Standing::New);
        let known = sent.map(|sent| self.told.config(sent.config)).unwrap_or_default();
        let is_expanded = sent.is_some_and(|sent| sent.timeline_limit < wanted.timeline_limit);
        let (from, is_initial) = match standing {
            Standing::New => (Position::ZERO, true),
            Standing::Told(from) => (from, false),
        };
        let unread = self.sources.unread.get_counts(self.user, room, self.to)?;
        let has_news_of_unread = unread.changed_at > from;
        let is_active = is_initial || self.is_active(room.nid, from);
        if !is_active && !has_news_of_unread && !is_expanded && known.contains(&wanted.required_state) {
            return Ok(self.without_news(room.nid));
        }
        let mut config = known.clone();
        config.extend(wanted.required_state.pairs());
        let state = StateSpan {
            room: room.nid,
            from: if is_initial { EMPTY } else { root_at(rooms, room.nid, from)? },
            to: root_at(rooms, room.nid, self.to)?,
            skips_new_members: false,
        };
        let timeline_from = if is_expanded { Position::ZERO } else { from };
        let timeline = self.timeline(room, timeline_from, self.to, wanted.timeline_limit)?;
        let span = Span { room, state, is_initial, wanted: &config, known: &known };
        let mut section = self.read_section(&span, timeline.as_ref())?;
        section.unstable_expanded_timeline = is_expanded;
        section.is_dm = self.direct.contains(&user_room.id);
        section.unread = Some(unread.total());
        let is_news = is_initial
            || has_news_of_unread
            || is_expanded
            || !section.timeline.is_empty()
            || section.limited
            || !section.required_state.is_empty()
            || section.joined_count.is_some()
            || section.avatar.is_some();
        if is_initial || user_room.bump() > from {
            section.bump_stamp = Some(user_room.bump().0);
        }
        let limit_told = match sent {
            // What was told stays told, unless there is a gap now.
            Some(sent) if !section.limited => sent.timeline_limit.max(wanted.timeline_limit),
            _ => wanted.timeline_limit,
        };
        let sent_now = SentRoom { config: config.hash(), timeline_limit: limit_told, up_to: None };
        let is_changed = is_initial || sent != Some(&sent_now);
        let shown = timeline.iter().flat_map(|timeline| &timeline.events);
        Ok(RoomAnswer {
            shown: shown.map(|(_, event)| event.pdu.event_id.to_string()).collect(),
            section: is_news.then_some(section),
            sent: is_changed.then_some(Some(sent_now)),
            config: is_changed.then_some(config),
        })
    }

    /// A room that the user has left, or been removed from, since it was told: up to that, and no more.
    fn read_left(&self, room: &Room, user_room: &UserRoom) -> Result<RoomAnswer, SlidingSyncError> {
        let rooms = &self.sources.rooms;
        let (Standing::Told(from), Some(event)) = (self.standing(room.nid), &user_room.membership.event) else {
            return Ok(RoomAnswer { sent: Some(None), ..RoomAnswer::nothing() });
        };
        let was_joined = is_joined_at(rooms, room.nid, root_at(rooms, room.nid, from)?, self.user)?;
        let (Some(Order::Live(left_at)), Some(root), true) =
            (rooms.get_event_order(event.nid)?, event.record.state_after, was_joined)
        else {
            return self.read_gone(user_room);
        };
        let sent = self.told.rooms.get(&room.nid);
        let known = sent.map(|sent| self.told.config(sent.config)).unwrap_or_default();
        let state =
            StateSpan { room: room.nid, from: root_at(rooms, room.nid, from)?, to: root, skips_new_members: false };
        let limit = sent.map_or(1, |sent| sent.timeline_limit);
        let timeline = self.timeline(room, from, left_at, limit)?;
        let span = Span { room, state, is_initial: false, wanted: &known, known: &known };
        let mut section = self.read_section(&span, timeline.as_ref())?;
        self.add_own_member(&mut section, event)?;
        section.bump_stamp = Some(user_room.changed_at.0);
        Ok(RoomAnswer { section: Some(section), sent: Some(None), ..RoomAnswer::nothing() })
    }

    /// A room of which nothing is left to tell but that the user is out of it: a refused invite, for one.
    fn read_gone(&self, user_room: &UserRoom) -> Result<RoomAnswer, SlidingSyncError> {
        let mut section = RoomSection { bump_stamp: Some(user_room.changed_at.0), ..RoomSection::default() };
        if let Some(event) = &user_room.membership.event {
            self.add_own_member(&mut section, event)?;
        }
        Ok(RoomAnswer { section: Some(section), sent: Some(None), ..RoomAnswer::nothing() })
    }

    /// The user's own member event tells that it is over: it is there whatever state was asked for.
    fn add_own_member(&self, section: &mut RoomSection, event: &Event) -> Result<(), SlidingSyncError> {
        let raw = self.show(event, false)?;
        if !section.required_state.iter().any(|shown| shown.get() == raw.get()) {
            section.required_state.push(raw);
        }
        Ok(())
    }

    fn was_joined_throughout(&self, room: RoomNid, from: Position) -> Result<bool, StoreError> {
        let rooms = &self.sources.rooms;
        let changes = crate::sync::rooms::scan_membership_changes(rooms, self.user, from, self.to)?;
        let changes = changes.get(&room).into_iter().flatten();
        for position in std::iter::once(&from).chain(changes) {
            if !is_joined_at(rooms, room, root_at(rooms, room, *position)?, self.user)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn timeline(
        &self,
        room: &Room,
        from: Position,
        to: Position,
        limit: u32,
    ) -> Result<Option<Timeline>, SlidingSyncError> {
        if limit == 0 {
            return Ok(None);
        }
        let filter = EventFilter::default();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let query = TimelineQuery { user: self.user, from, to, filter: &filter, limit, ignored: &self.ignored };
        Ok(Some(read_timeline(&self.sources.rooms, room, &query)?))
    }

    fn read_section(&self, span: &Span<'_>, timeline: Option<&Timeline>) -> Result<RoomSection, SlidingSyncError> {
        let rooms = &self.sources.rooms;
        let mut section = RoomSection { initial: span.is_initial, ..RoomSection::default() };
        if let Some(timeline) = timeline {
            let is_bundled = timeline.limited || span.is_initial;
            for (_, event) in &timeline.events {
                section.timeline.push(self.show(event, is_bundled)?);
            }
            section.limited = timeline.limited;
            section.prev_batch = Some(timeline.prev_batch.to_string());
            let is_live = |position: Position| self.since.is_some_and(|since| position > since.position);
            section.num_live = Some(timeline.events.iter().filter(|(position, _)| is_live(*position)).count());
        }
        let (state, touches_summary) = self.read_required_state(span, timeline)?;
        for event in &state {
            section.required_state.push(self.show(event, false)?);
        }
        let changed = |event_type: StateEventType| -> Result<bool, StoreError> {
            let at = |root| rooms.get_from_root(span.room.nid, root, &event_type, "");
            Ok(span.is_initial
                || at(span.state.from)?.map(|event| event.nid) != at(span.state.to)?.map(|event| event.nid))
        };
        let content = |event_type: StateEventType| -> Result<Option<Value>, StoreError> {
            let event = rooms.get_from_root(span.room.nid, span.state.to, &event_type, "")?;
            Ok(event.and_then(|event| event.pdu.get_content().ok()))
        };
        if span.state.from != span.state.to {
            if changed(StateEventType::RoomName)? {
                section.name = text(content(StateEventType::RoomName)?.as_ref(), "name");
            }
            if changed(StateEventType::RoomAvatar)? {
                let avatar = text(content(StateEventType::RoomAvatar)?.as_ref(), "url");
                section.avatar = (avatar.is_some() || !span.is_initial).then_some(avatar);
            }
        }
        if span.is_initial || touches_summary {
            let summary = self.service.summaries.get(rooms, span.room.nid, span.state.to)?;
            section.joined_count = Some(summary.joined);
            section.invited_count = Some(summary.invited);
            if text(content(StateEventType::RoomName)?.as_ref(), "name").is_none() {
                section.heroes = Some(self.read_heroes(span, summary.heroes(self.user))?);
            }
        }
        Ok(section)
    }

    fn read_heroes(&self, span: &Span<'_>, heroes: Vec<OwnedUserId>) -> Result<Vec<HeroSection>, StoreError> {
        let mut shown = Vec::new();
        for user_id in heroes {
            let member = member_at(&self.sources.rooms, span.room.nid, span.state.to, &user_id)?;
            let content: Option<Value> = member.and_then(|member| member.pdu.get_content().ok());
            shown.push(HeroSection {
                user_id,
                displayname: text(content.as_ref(), "displayname"),
                avatar_url: text(content.as_ref(), "avatar_url"),
            });
        }
        Ok(shown)
    }

    /// The state that is wanted and not told yet; and whether what the room's summary is made of changed.
    fn read_required_state(
        &self,
        span: &Span<'_>,
        timeline: Option<&Timeline>,
    ) -> Result<(Vec<Arc<Event>>, bool), StoreError> {
        let rooms = &self.sources.rooms;
        let nid = span.room.nid;
        let mut events: BTreeMap<EventNid, Arc<Event>> = BTreeMap::new();
        let mut add = |found: Vec<Arc<Event>>| events.extend(found.into_iter().map(|event| (event.nid, event)));
        let mut touches_summary = span.is_initial;
        if !span.is_initial && span.state.from != span.state.to {
            // Of members that are told as needed, also whose membership changed: the client may show them.
            let wants = |event_type: &StateEventType, key: &str| {
                let is_member = *event_type == StateEventType::RoomMember;
                (is_member && span.wanted.is_lazy()) || span.wanted.wants(&event_type.to_string(), key, self.user)
            };
            let changes = read_state(rooms, span.state, Until::End, wants)?;
            touches_summary = changes.touches_summary;
            add(changes.events);
        }
        if !span.known.contains(span.wanted) || span.is_initial {
            let root = span.state.to;
            let is_new = |event_type: &str, key: &str| span.is_initial || !span.known.wants(event_type, key, self.user);
            match span.wanted.exact_keys(self.user) {
                Some(keys) => {
                    for (event_type, key) in keys.into_iter().filter(|(event_type, key)| is_new(event_type, key)) {
                        add(rooms
                            .get_from_root(nid, root, &StateEventType::from(event_type), key)?
                            .into_iter()
                            .collect());
                    }
                }
                None => {
                    let wants = |event_type: &StateEventType, key: &str| {
                        let event_type = event_type.to_string();
                        span.wanted.wants(&event_type, key, self.user) && is_new(&event_type, key)
                    };
                    let whole = StateSpan { room: nid, from: EMPTY, to: root, skips_new_members: false };
                    add(read_state(rooms, whole, Until::End, wants)?.events);
                }
            }
        }
        if let Some(timeline) = timeline.filter(|_| span.wanted.is_lazy()) {
            add(self.lazy_members(nid, span.state.to, span.is_initial, timeline)?);
        }
        let told = events.values().filter_map(|event| match event.pdu.state_tuple() {
            Some((StateEventType::RoomMember, user)) => Some((user, event.nid)),
            _ => None,
        });
        let told: Vec<(&str, EventNid)> = told.collect();
        self.service.lazy_members.note(self.device_room(nid), told, self.to);
        Ok((events.into_values().collect(), touches_summary))
    }

    /// The members who speak in a timeline, or whom it is about, as far as the connection does not have them.
    fn lazy_members(
        &self,
        room: RoomNid,
        root: StateRoot,
        is_initial: bool,
        timeline: &Timeline,
    ) -> Result<Vec<Arc<Event>>, StoreError> {
        let mut users: BTreeSet<&UserId> = timeline.events.iter().map(|(_, event)| &*event.pdu.sender).collect();
        for (_, event) in &timeline.events {
            if let Some((StateEventType::RoomMember, user)) = event.pdu.state_tuple() {
                users.extend(<&UserId>::try_from(user).ok());
            }
        }
        let since = self.since.map_or(Position::ZERO, |since| since.position);
        let mut members = Vec::new();
        for user in users {
            let Some(member) = member_at(&self.sources.rooms, room, root, user)? else { continue };
            let has =
                !is_initial && self.service.lazy_members.has(self.device_room(room), user.as_str(), member.nid, since);
            if !has {
                members.push(member);
            }
        }
        Ok(members)
    }

    fn device_room(&self, room: RoomNid) -> DeviceRoom<'_> {
        DeviceRoom { user: self.user, device: &self.connection_device, room }
    }

    fn show(&self, event: &Event, is_bundled: bool) -> Result<RawEvent, SlidingSyncError> {
        let viewer = Viewer::new(self.user, Some(self.device));
        let rooms = &self.sources.rooms;
        Ok(match is_bundled {
            true => rooms.to_client_bundled(event, Audience { viewer, ignored: &self.ignored }, false)?,
            false => rooms.to_client(event, Some(viewer), false)?,
        })
    }
}

/// The most stripped events of one room.
const STRIPPED_MAX: usize = 100;

/// The device that members are noted as sent to: each connection has its own.
pub(super) fn connection_device(device: &DeviceId, connection_id: &str) -> ruma::OwnedDeviceId {
    format!("{device} {connection_id}").into()
}

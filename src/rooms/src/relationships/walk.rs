//! Walking through relationships from one event, up or down, as far as the asker may see.
//!
//! For users what is missing on the way is asked of other servers, a few times in one walk. For servers only what is here is walked, so
//! that no two servers keep asking each other.
//!
//! Spec: MSC2836, Querying relationships.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use chappe_protocol::client_format::Unsigned;
use chappe_store::{Direction, tables::relationships::RELATIONSHIPS};
use ruma::{EventId, OwnedEventId, ServerName, UserId};
use serde_json::{Value, value::RawValue as RawJsonValue};

use super::{Heading, RelatedAnswer, RelatedEvents, RelationshipQuery, relationships_key};
use crate::{Event, Room, RoomError, Rooms, handshake::raws_of, relations::Audience, visibility::UserEyes};

/// The most events of one answer.
const LIMIT_MAX: usize = 100;
/// How many hops a walk goes at the most.
const DEPTH_MAX: usize = 100;
/// How many of an event's children are looked at.
const CHILDREN_MAX: usize = 1_000;
/// How many times other servers are asked for what is missing in one walk.
const QUESTIONS_MAX: usize = 10;

/// Who looks.
enum Eyes<'a> {
    User { audience: Audience<'a>, eyes: Box<UserEyes<'a>> },
    Server(&'a ServerName),
}

impl Eyes<'_> {
    fn see(&mut self, rooms: &Rooms, event: &Event) -> Result<bool, RoomError> {
        Ok(match self {
            Self::User { audience, eyes } => {
                let is_ignored = !event.pdu.is_state() && audience.ignored.contains(&event.pdu.sender);
                !is_ignored && (eyes.sees(event)? || eyes.sees_unplaced(event)?)
            }
            Self::Server(server) => event.is_accepted() && rooms.is_visible_to_server(event, server)?,
        })
    }
}

struct Walk<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    query: &'a RelationshipQuery,
    eyes: Eyes<'a>,
    /// How many more times other servers may be asked.
    questions_left: usize,
    taken: HashSet<OwnedEventId>,
    found: RelatedEvents,
}

impl Rooms {
    /// The events around one, for a user.
    ///
    /// # Errors
    /// Not found, if the event is neither known nor to be had, or the user may not see it.
    pub async fn get_related(
        &self,
        audience: Audience<'_>,
        query: &RelationshipQuery,
    ) -> Result<RelatedEvents, RoomError> {
        check(query)?;
        let user = audience.viewer.user;
        let anchor = match self.get_event(&query.event_id)? {
            Some(event) => event,
            None => self.fetch_anchor(user, query).await?.ok_or_else(unknown)?,
        };
        let room = self.get_room_by_nid(anchor.record.room)?.ok_or_else(unknown)?;
        let eyes = Eyes::User { audience, eyes: Box::new(self.eyes_of(room.nid, user)?) };
        self.walk(&room, query, eyes, QUESTIONS_MAX, anchor).await
    }

    /// Asks for an event that is not known here, in the room where the user says it is.
    async fn fetch_anchor(&self, user: &UserId, query: &RelationshipQuery) -> Result<Option<Arc<Event>>, RoomError> {
        let Some(room_id) = &query.room_id else { return Ok(None) };
        let Some(room) = self.get_room(room_id)? else { return Ok(None) };
        if !self.is_joined(room.nid, user)? {
            return Ok(None);
        }
        self.fetch_related(&room, &query.event_id, Heading::Up).await?;
        Ok(self.get_event(&query.event_id)?)
    }

    /// The events around one, for a server that is in the room.
    pub async fn get_related_for_server(
        &self,
        origin: &ServerName,
        query: &RelationshipQuery,
    ) -> Result<RelatedAnswer, RoomError> {
        check(query)?;
        let anchor = self.get_event(&query.event_id)?.ok_or_else(unknown)?;
        let room = self.get_room_by_nid(anchor.record.room)?.ok_or_else(unknown)?;
        self.require_shared_room(origin, &room.id).map_err(|_| unknown())?;
        let RelatedEvents { events, limited } = self.walk(&room, query, Eyes::Server(origin), 0, anchor).await?;
        let mut auth_events: Vec<_> =
            events.iter().flat_map(|event| event.record.auth_events.iter().copied()).collect();
        auth_events.sort_unstable();
        auth_events.dedup();
        let auth_chain = raws_of(&self.get_auth_chain(&auth_events)?)?;
        let events = events.iter().map(|event| self.with_children(event)).collect::<Result<_, _>>()?;
        Ok(RelatedAnswer { events, limited, auth_chain })
    }

    /// An event as servers send it, and in `unsigned` how many others relate to it.
    fn with_children(&self, event: &Event) -> Result<Box<RawJsonValue>, RoomError> {
        let broken = |error: serde_json::Error| RoomError::broken(error.to_string());
        let mut shown: Value = serde_json::from_str(event.pdu.json()).map_err(broken)?;
        if let Some(shown) = shown.as_object_mut() {
            let mut unsigned = Unsigned::default();
            self.get_children(event)?.put_into(&mut unsigned);
            shown.insert("unsigned".to_owned(), serde_json::to_value(unsigned).map_err(broken)?);
        }
        serde_json::value::to_raw_value(&shown).map_err(broken)
    }

    async fn walk(
        &self,
        room: &Room,
        query: &RelationshipQuery,
        eyes: Eyes<'_>,
        questions_left: usize,
        anchor: Arc<Event>,
    ) -> Result<RelatedEvents, RoomError> {
        let found = RelatedEvents::default();
        let mut walk = Walk { rooms: self, room, query, eyes, questions_left, taken: HashSet::new(), found };
        if !walk.eyes.see(self, &anchor)? {
            return Err(unknown());
        }
        walk.take(&anchor);
        if query.include_parent
            && let Some(parent) = walk.get_parent(&anchor).await?
        {
            walk.take(&parent);
        }
        if query.include_children {
            for child in walk.get_children(&anchor, usize::MAX).await? {
                walk.take(&child);
            }
        }
        match query.direction {
            Heading::Up => walk.go_up(anchor).await?,
            Heading::Down => walk.go_down(anchor).await?,
        }
        Ok(walk.found)
    }
}

impl Walk<'_> {
    /// Puts an event into the answer, once; `false` if the answer is full.
    fn take(&mut self, event: &Arc<Event>) -> bool {
        if self.taken.contains(&event.pdu.event_id) {
            return true;
        }
        let limit = usize::try_from(self.query.limit).unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
        if self.found.events.len() >= limit {
            self.found.limited = true;
            return false;
        }
        self.taken.insert(event.pdu.event_id.clone());
        self.found.events.push(event.clone());
        true
    }

    fn depth_max(&self) -> usize {
        usize::try_from(self.query.max_depth).map_or(DEPTH_MAX, |depth| depth.min(DEPTH_MAX))
    }

    async fn go_up(&mut self, anchor: Arc<Event>) -> Result<(), RoomError> {
        let mut passed = HashSet::from([anchor.pdu.event_id.clone()]);
        let mut event = anchor;
        for _ in 0..self.depth_max() {
            let Some(parent) = self.get_parent(&event).await? else { break };
            if !passed.insert(parent.pdu.event_id.clone()) || !self.take(&parent) {
                break;
            }
            event = parent;
        }
        Ok(())
    }

    async fn go_down(&mut self, anchor: Arc<Event>) -> Result<(), RoomError> {
        let breadth = usize::try_from(self.query.max_breadth).unwrap_or(usize::MAX);
        let depth_max = self.depth_max();
        let mut passed = HashSet::new();
        let mut ahead = VecDeque::from([(anchor, 0)]);
        while let Some((event, depth)) = ahead.pop_front() {
            if !passed.insert(event.pdu.event_id.clone()) {
                continue;
            }
            if !self.take(&event) {
                break;
            }
            if depth >= depth_max {
                continue;
            }
            let children = self.get_children(&event, breadth).await?;
            let children = children.into_iter().map(|child| (child, depth + 1));
            if self.query.depth_first {
                children.rev().for_each(|child| ahead.push_front(child));
            } else {
                ahead.extend(children);
            }
        }
        Ok(())
    }

    /// The event that an event relates to, if it can be had and seen.
    async fn get_parent(&mut self, event: &Event) -> Result<Option<Arc<Event>>, RoomError> {
        let Some(target) = self.rooms.get_relationship_target(event)? else { return Ok(None) };
        if self.rooms.get_event(&target)?.is_none() {
            self.ask(&target, Heading::Up).await?;
        }
        let Some(parent) = self.rooms.get_event(&target)?.filter(|parent| parent.record.room == self.room.nid) else {
            return Ok(None);
        };
        Ok(self.eyes.see(self.rooms, &parent)?.then_some(parent))
    }

    /// Up to `breadth` of the events that relate to an event and can be seen, in the order asked for.
    async fn get_children(&mut self, event: &Event, breadth: usize) -> Result<Vec<Arc<Event>>, RoomError> {
        if self.questions_left > 0 && self.rooms.has_unexplored_children(event)? {
            self.ask(&event.pdu.event_id, Heading::Down).await?;
            self.rooms.note_explored(self.room, event).await?;
        }
        let mut rows = Vec::new();
        let scan = self.rooms.store.scan(&RELATIONSHIPS, &relationships_key(event), Direction::Forward);
        for row in scan.take(CHILDREN_MAX) {
            let ((.., child), record) = row?;
            rows.push((record.sent_at_ms, child, record.nid));
        }
        rows.sort_unstable();
        if self.query.recent_first {
            rows.reverse();
        }
        // No more than one beyond what the answer holds: by that it is known that there are more.
        let wanted = breadth.min(LIMIT_MAX + 1);
        let mut children = Vec::new();
        for (_, _, nid) in rows {
            if children.len() >= wanted {
                break;
            }
            if let Some(child) = self.rooms.get_event_by_nid(nid)?
                && self.eyes.see(self.rooms, &child)?
            {
                children.push(child);
            }
        }
        Ok(children)
    }

    async fn ask(&mut self, event_id: &EventId, heading: Heading) -> Result<(), RoomError> {
        if self.questions_left == 0 {
            return Ok(());
        }
        self.questions_left -= 1;
        self.rooms.fetch_related(self.room, event_id, heading).await
    }
}

fn unknown() -> RoomError {
    RoomError::NotFound("Event not found".to_owned())
}

fn check(query: &RelationshipQuery) -> Result<(), RoomError> {
    if query.batch.is_empty() {
        Ok(())
    } else {
        Err(RoomError::Invalid("batch is not a token of this server".to_owned()))
    }
}

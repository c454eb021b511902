//! Reading a room's timeline for one user.

use std::{collections::HashSet, sync::Arc};

use chappe_rooms::{
    Event, Room, RoomError, Rooms,
    state::StateRoot,
    timeline::{self, Place, Token},
};
use chappe_store::{EventNid, Order, Position, RoomNid, StoreError};
use ruma::{OwnedEventId, OwnedUserId, UserId, events::TimelineEventType};

use super::filter::EventFilter;

/// How many events are looked at for each one that is asked for, before the timeline is cut where the search has come to.
const SEARCHED_PER_EVENT: usize = 10;

/// How many events are looked at in any case.
const SEARCHED_MIN: usize = 200;

/// What part of a timeline is wanted, and for whom.
pub struct TimelineQuery<'a> {
    pub user: &'a UserId,
    /// After this place in the log, and up to that one.
    pub from: Position,
    pub to: Position,
    pub filter: &'a EventFilter,
    pub limit: usize,
    /// Their messages are left out.
    pub ignored: &'a HashSet<OwnedUserId>,
}

/// The newest events of a stretch of a room's timeline, oldest first.
#[derive(Debug)]
pub struct Timeline {
    pub events: Vec<(Position, Arc<Event>)>,
    /// There are events between the start of the stretch and the first event that were left out for want of room, or that this
    /// server does not have.
    pub limited: bool,
    /// Right before the first event, for `/messages`.
    pub prev_batch: Token,
    nids: HashSet<EventNid>,
}

impl Timeline {
    pub fn contains(&self, event: EventNid) -> bool {
        self.nids.contains(&event)
    }

    /// The state at the start of the timeline; `None` if it has no events.
    pub fn state_before(&self) -> Option<StateRoot> {
        self.events.first().and_then(|(_, event)| event.record.state_before)
    }

    /// A timeline of one event that is in no room's timeline here: a leave over federation.
    pub fn of_outlier(event: Arc<Event>, at: Position) -> Self {
        Self {
            nids: HashSet::from([event.nid]),
            events: vec![(at, event)],
            limited: false,
            prev_batch: Token::Stream(at),
        }
    }
}

/// Reads a timeline backwards from `to`, as far as the limit, the start of the stretch, or a gap in what this server has.
///
/// What is new to a client comes in the order in which this server learnt it, so that nothing is passed over. The first view of a
/// room is its end in the room's own order, which is where `/messages` goes on from: late arrivals of long ago do not take its place.
pub fn read_timeline(rooms: &Rooms, room: &Room, query: &TimelineQuery<'_>) -> Result<Timeline, RoomError> {
    let mut timeline =
        Timeline { events: Vec::new(), limited: false, prev_batch: Token::Stream(query.to), nids: HashSet::new() };
    if query.filter.refuses_all(&room.id) || query.from >= query.to {
        return Ok(timeline);
    }
    let mut eyes = rooms.eyes_of(room.nid, query.user)?;
    let mut gaps: Option<HashSet<OwnedEventId>> = None;
    let mut budget = query.limit.saturating_mul(SEARCHED_PER_EVENT).max(SEARCHED_MIN);
    let mut oldest = None;
    // Where the client goes on backwards, in the order in which it is given events here.
    let right_before = |place: Place, position: Position| match query.from {
        Position::ZERO => timeline::before(place),
        _ => Token::Stream(Position(position.0.saturating_sub(1))),
    };
    // Those of the timeline, and the one before them that tells whether there are more.
    let wanted = query.limit.saturating_add(1);
    let mut rows = rooms.with_events(scan_backwards(rooms, room, query, wanted), wanted).peekable();
    while let Some((position, event)) = rows.next().transpose()? {
        let Some(position) = position else {
            // What comes before is history from elsewhere.
            timeline.limited = true;
            break;
        };
        if position > query.to {
            continue;
        }
        let is_ignored = !event.pdu.is_state() && query.ignored.contains(&event.pdu.sender);
        // What became of the user's own membership is shown whatever the room's visibility says: declining an invite, for one.
        let is_own = event.pdu.is_state_event(&TimelineEventType::RoomMember, query.user.as_str());
        let is_shown = !is_ignored && query.filter.admits_event(rooms, &event)? && (is_own || eyes.sees(&event)?);
        if is_shown && timeline.events.len() >= query.limit {
            timeline.limited = true;
            break;
        }
        let place = (event.record.depth, Order::Live(position));
        oldest = Some((place, position));
        let follows_next = match (rows.peek(), &event.pdu.prev_events[..]) {
            (Some(Ok((_, next))), [prev]) => next.pdu.event_id == *prev,
            (_, prev_events) => prev_events.is_empty(),
        };
        let follows_gap = !follows_next && {
            let gaps = match &gaps {
                Some(gaps) => gaps,
                None => gaps.insert(get_gaps(rooms, room.nid)?),
            };
            event.pdu.prev_events.iter().any(|prev| gaps.contains(prev))
        };
        if is_shown {
            timeline.nids.insert(event.nid);
            timeline.events.push((position, event));
            timeline.prev_batch = right_before(place, position);
        }
        budget -= 1;
        if follows_gap || budget == 0 {
            timeline.limited = true;
            break;
        }
    }
    if timeline.limited && timeline.events.is_empty() && query.limit > 0 {
        // All that was looked at is nothing for this client: it goes on from there.
        timeline.prev_batch = oldest.map_or(Token::Stream(query.to), |(place, position)| right_before(place, position));
    }
    timeline.events.reverse();
    Ok(timeline)
}

/// The events that are missing from a room's history.
fn get_gaps(rooms: &Rooms, room: RoomNid) -> Result<HashSet<OwnedEventId>, StoreError> {
    Ok(rooms.get_backward_extremities(room)?.into_iter().map(|(event_id, _)| event_id).collect())
}

/// Events, newest first, with their positions; none for an event that was backfilled.
type Rows<'a> = Box<dyn Iterator<Item = Result<(Option<Position>, EventNid), StoreError>> + 'a>;

fn scan_backwards<'a>(rooms: &'a Rooms, room: &Room, query: &TimelineQuery<'_>, wanted: usize) -> Rows<'a> {
    if query.from > Position::ZERO {
        let rows = rooms.scan_timeline(room.nid, query.from, query.to);
        return Box::new(rows.map(|row| row.map(|(position, nid)| (Some(position), nid))));
    }
    let rows = rooms.scan_topology(room, wanted);
    Box::new(rows.map(|row| {
        row.map(|((_, order), nid)| match order {
            Order::Live(position) => (Some(position), nid),
            Order::Backfilled(_) => (None, nid),
        })
    }))
}

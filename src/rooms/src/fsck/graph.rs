//! Events, their places in the orders they are read by, and the index of auth chains.

use chappe_protocol::pdu::{self, Pdu};
use chappe_store::{
    EventNid, Order, RoomNid,
    tables::{
        auth_chain::{AUTH_CHAINS, AUTH_PLACES},
        events::{
            EVENT_JSON, EVENT_LOG, EVENT_NIDS, EVENT_ORDERS, EVENTS, EventRecord, EventStatus, TIMELINE, TOPOLOGY,
        },
        interned::{ROOM_IDS, ROOM_NIDS},
        rooms::{OUT_OF_BAND_VERSIONS, ROOMS},
    },
};

use super::{Check, Repair};

/// Each event: its JSON is there and is the event that its id names, and its id leads to it.
pub(super) fn check_events(check: &mut Check<'_>) {
    check.each(&ROOM_IDS, &(), |check, nid, id| {
        let back = ruma::OwnedRoomId::try_from(id.as_str()).ok().and_then(|id| check.get(&ROOM_NIDS, &id));
        if back != Some(nid) {
            check.report(&ROOM_NIDS, format!("room {id} does not lead to its number {nid}"), Repair::Derive);
        }
    });
    check.each(&EVENTS, &(), |check, nid, record| {
        let id = record.event_id.clone();
        if check.get(&EVENT_NIDS, &id) != Some(nid) {
            check.report(&EVENT_NIDS, format!("{id} does not lead to its number {nid}"), Repair::Derive);
        }
        match check.find(&EVENT_JSON, &nid) {
            None => {}
            Some(None) => check.report(&EVENT_JSON, format!("{id} (number {nid}) has no JSON"), Repair::Fetch),
            Some(Some(json)) => check_json(check, &record, &json),
        }
        for prev in &record.auth_events {
            if !check.store.contains(&EVENTS, prev).unwrap_or(false) {
                check.report(&EVENTS, format!("{id} has auth event {prev}, which is not stored"), Repair::Fetch);
            }
        }
    });
    check.each(&EVENT_NIDS, &(), |check, id, nid| {
        if !check.store.contains(&EVENTS, &nid).unwrap_or(false) {
            check.report(&EVENT_NIDS, format!("{id} leads to {nid}, which is not stored"), Repair::Fetch);
        }
    });
}

fn check_json(check: &mut Check<'_>, record: &EventRecord, json: &str) {
    let id = &record.event_id;
    let version = match check.get(&ROOMS, &record.room) {
        Some(room) => Some(room.version),
        None => check.get(&OUT_OF_BAND_VERSIONS, &record.room),
    };
    let room_id = check.get(&ROOM_IDS, &record.room).and_then(|id| ruma::OwnedRoomId::try_from(id).ok());
    let Some(room_id) = room_id else {
        return check.report(&ROOM_IDS, format!("{id} is of room {}, which has no id", record.room), Repair::Derive);
    };
    if let Err(error) = Pdu::from_stored(id.clone(), json, record.status == EventStatus::Rejected, room_id) {
        return check.report(&EVENT_JSON, format!("{id}: {error}"), Repair::Fetch);
    }
    // Of a room known only by the id of an event in it, no rules say how ids are made.
    let rules = version
        .and_then(|version| ruma::RoomVersionId::try_from(version).ok())
        .and_then(|version| chappe_protocol::room_version::rules(&version));
    let (Some(rules), Ok(object)) = (rules, serde_json::from_str(json)) else { return };
    match pdu::event_id(&object, &rules) {
        Ok(named) if named == *id => {}
        Ok(named) => check.report(&EVENT_JSON, format!("{id} has the JSON of {named}"), Repair::Fetch),
        Err(error) => check.report(&EVENT_JSON, format!("{id}: {error}"), Repair::Fetch),
    }
}

/// The timeline, the topological order and the log of all events say the same of where an event stands.
pub(super) fn check_orders(check: &mut Check<'_>) {
    check.each(&EVENT_ORDERS, &(), |check, nid, order| {
        let Some(record) = check.get(&EVENTS, &nid) else {
            return check.report(&EVENT_ORDERS, format!("event {nid} is not stored"), Repair::Derive);
        };
        let id = &record.event_id;
        if check.get(&TOPOLOGY, &(record.room, record.depth, order)) != Some(nid) {
            check.report(&TOPOLOGY, format!("{id} is not at its place"), Repair::Derive);
        }
        let Order::Live(position) = order else { return };
        if check.get(&TIMELINE, &(record.room, position)) != Some(nid) {
            check.report(&TIMELINE, format!("{id} is not at its position {position}"), Repair::Derive);
        }
        if check.get(&EVENT_LOG, &position) != Some(nid) {
            check.report(&EVENT_LOG, format!("{id} is not at its position {position}"), Repair::Derive);
        }
    });
    check.each(&TIMELINE, &(), |check, (room, position), nid| {
        let place = format!("room {room}, position {position}");
        if check_placed(check, room, nid) != Some(Order::Live(position)) {
            check.report(&TIMELINE, format!("{place}: event {nid} does not stand there"), Repair::Derive);
        }
    });
    check.each(&TOPOLOGY, &(), |check, (room, depth, order), nid| {
        if check_placed(check, room, nid) != Some(order) {
            check.report(
                &TOPOLOGY,
                format!("room {room}, depth {depth}: event {nid} does not stand there"),
                Repair::Derive,
            );
        }
    });
    check.each(&EVENT_LOG, &(), |check, position, nid| {
        if check.get(&EVENT_ORDERS, &nid) != Some(Order::Live(position)) {
            check.report(&EVENT_LOG, format!("position {position}: event {nid} does not stand there"), Repair::Derive);
        }
    });
}

/// The order of an event of this room that clients may see.
fn check_placed(check: &mut Check<'_>, room: RoomNid, nid: EventNid) -> Option<Order> {
    let record = check.get(&EVENTS, &nid)?;
    if record.room != room || record.status != EventStatus::Accepted {
        return None;
    }
    check.get(&EVENT_ORDERS, &nid)
}

/// Each place of the index is known from both sides, and is that of a stored event.
pub(super) fn check_auth_index(check: &mut Check<'_>) {
    check.each(&AUTH_PLACES, &(), |check, nid, place| {
        if check.get(&AUTH_CHAINS, &(place.chain, place.sequence)) != Some(nid) {
            let at = format!("chain {}, sequence {}", place.chain, place.sequence);
            check.report(&AUTH_CHAINS, format!("{at}: event {nid} is not there"), Repair::Derive);
        }
        if !check.store.contains(&EVENTS, &nid).unwrap_or(false) {
            check.report(&AUTH_PLACES, format!("event {nid} is not stored"), Repair::Fetch);
        }
    });
    check.each(&AUTH_CHAINS, &(), |check, (chain, sequence), nid| {
        let place = check.get(&AUTH_PLACES, &nid);
        if place.is_none_or(|place| (place.chain, place.sequence) != (chain, sequence)) {
            check.report(
                &AUTH_CHAINS,
                format!("chain {chain}, sequence {sequence}: event {nid} has another place"),
                Repair::Derive,
            );
        }
    });
}

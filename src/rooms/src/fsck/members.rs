//! Members, and who is where: rows that follow from the current state's member events.

use std::collections::{BTreeMap, BTreeSet};

use chappe_store::{
    Stamped,
    tables::{
        events::{EVENT_JSON, EVENTS, EventStatus},
        interned::{ROOM_IDS, STATE_KEYS},
        rooms::{JOINED_SERVERS, MEMBERS, ROOMS, SERVER_ROOMS, USER_ROOMS},
        state::CURRENT_STATE,
    },
};
use ruma::{OwnedServerName, OwnedUserId};

use super::{Check, Repair};

pub(super) fn check_members(check: &mut Check<'_>) {
    check.each(&ROOMS, &(), |check, room, record| {
        let Some(room_id) = check.get(&ROOM_IDS, &room).and_then(|id| ruma::OwnedRoomId::try_from(id).ok()) else {
            return;
        };
        let mut expected = BTreeMap::new();
        check.each(&CURRENT_STATE, &(room,), |check, (_, key), nid| {
            let Some(pair) = check.get(&STATE_KEYS, &key) else { return };
            let Some(user) = pair.strip_prefix("m.room.member\0").and_then(|user| OwnedUserId::try_from(user).ok())
            else {
                return;
            };
            let (Some(event), Some(json)) = (check.get(&EVENTS, &nid), check.get(&EVENT_JSON, &nid)) else { return };
            let rejected = event.status == EventStatus::Rejected;
            let pdu = chappe_protocol::pdu::Pdu::from_stored(event.event_id, &json, rejected, room_id.clone()).ok();
            if let Some(membership) = pdu.and_then(|pdu| pdu.membership()) {
                expected.insert(user, (nid, membership.to_string()));
            }
        });
        let mut servers: BTreeMap<OwnedServerName, u64> = BTreeMap::new();
        let mut found = BTreeSet::new();
        check.each(&MEMBERS, &(room,), |check, (_, user), member| {
            found.insert(user.clone());
            let Some(event) = member.value.event else { return };
            // Known by an invite or knock over federation only: no state says so.
            let is_outlier = check.get(&EVENTS, &event).is_some_and(|event| event.status == EventStatus::Outlier);
            if is_outlier && user.server_name() == check.server_name && member.value.membership != "join" {
                return;
            }
            if expected.get(&user) != Some(&(event, member.value.membership.clone())) {
                check.report(
                    &MEMBERS,
                    format!("{room_id}: {user} is not what the state says (found {})", member.value.membership),
                    Repair::Derive,
                );
            }
            if member.value.membership == "join" {
                *servers.entry(user.server_name().to_owned()).or_default() += 1;
            }
        });
        for user in expected.keys().filter(|user| !found.contains(*user)) {
            check.report(&MEMBERS, format!("{room_id}: {user} is in the state, and has no row"), Repair::Derive);
        }
        let mut counted = BTreeMap::new();
        check.each(&JOINED_SERVERS, &(room,), |check, (_, server), count| {
            if check.get(&SERVER_ROOMS, &(server.clone(), room)).is_none() {
                check.report(
                    &SERVER_ROOMS,
                    format!("{room_id}: {server} is in the room, and has no row"),
                    Repair::Derive,
                );
            }
            counted.insert(server, count);
        });
        // While the members are being fetched, servers are in the room by the word of another.
        if !record.partial_state && servers != counted {
            check.report(
                &JOINED_SERVERS,
                format!("{room_id}: found {counted:?}, the members come to {servers:?}"),
                Repair::Derive,
            );
        }
    });
    check.each(&SERVER_ROOMS, &(), |check, (server, room), ()| {
        if check.get(&JOINED_SERVERS, &(room, server.clone())).is_none() {
            check.report(&SERVER_ROOMS, format!("room {room}: {server} is not in it"), Repair::Derive);
        }
    });
    check.each(&MEMBERS, &(), |check, (room, user), member| {
        let is_local = user.server_name() == check.server_name;
        if is_local && check.get(&USER_ROOMS, &(user.clone(), room)) != Some(member) {
            check.report(&USER_ROOMS, format!("{user}, room {room}: differs from the members"), Repair::Derive);
        }
    });
    check.each(&USER_ROOMS, &(), |check, (user, room), found: Stamped<_>| {
        if check.get(&MEMBERS, &(room, user.clone())) != Some(found) {
            check.report(&USER_ROOMS, format!("{user}, room {room}: differs from the members"), Repair::Derive);
        }
    });
}

//! Who is in a room with whom, read from the rooms' tables. Encryption of the room does not matter here: a room may become
//! encrypted any time, and clients want the device lists then.

use std::collections::BTreeSet;

use chappe_store::{
    Direction, Position, RoomNid, Store, StoreError,
    tables::rooms::{JOINED_SERVERS, MEMBERS, SERVER_ROOMS, USER_ROOMS},
};
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

pub(super) const JOIN: &str = "join";

/// The rooms a local user is joined to.
pub(crate) fn joined_rooms(store: &Store, user: &UserId) -> Result<Vec<RoomNid>, StoreError> {
    let mut rooms = Vec::new();
    for row in store.scan(&USER_ROOMS, &(user.to_owned(),), Direction::Forward) {
        let ((_, room), member) = row?;
        if member.value.membership == JOIN {
            rooms.push(room);
        }
    }
    Ok(rooms)
}

/// The rooms a remote user is joined to together with users of `our_server`, and since when the membership has stood.
pub(crate) fn shared_rooms_of_remote(
    store: &Store,
    our_server: &ServerName,
    user: &UserId,
) -> Result<Vec<(RoomNid, Position)>, StoreError> {
    let mut rooms = Vec::new();
    for row in store.scan(&SERVER_ROOMS, &(user.server_name().to_owned(),), Direction::Forward) {
        let ((_, room), ()) = row?;
        let Some(member) = store.get(&MEMBERS, &(room, user.to_owned()))? else { continue };
        if member.value.membership == JOIN && store.contains(&JOINED_SERVERS, &(room, our_server.to_owned()))? {
            rooms.push((room, member.position));
        }
    }
    Ok(rooms)
}

/// The other servers that have users in a room with a local user.
pub(crate) fn servers_sharing_room(store: &Store, user: &UserId) -> Result<BTreeSet<OwnedServerName>, StoreError> {
    let mut servers = BTreeSet::new();
    for room in joined_rooms(store, user)? {
        for row in store.scan(&JOINED_SERVERS, &(room,), Direction::Forward) {
            let ((_, server), _) = row?;
            if server != user.server_name() {
                servers.insert(server);
            }
        }
    }
    Ok(servers)
}

/// The joined members of a room.
pub(crate) fn joined_members(store: &Store, room: RoomNid) -> Result<Vec<OwnedUserId>, StoreError> {
    let mut members = Vec::new();
    for row in store.scan(&MEMBERS, &(room,), Direction::Forward) {
        let ((_, user), member) = row?;
        if member.value.membership == JOIN {
            members.push(user);
        }
    }
    Ok(members)
}

/// Whether a user is joined to any of these rooms.
pub(crate) fn is_in_any(store: &Store, user: &UserId, rooms: &[RoomNid]) -> Result<bool, StoreError> {
    for room in rooms {
        if let Some(member) = store.get(&MEMBERS, &(*room, user.to_owned()))?
            && member.value.membership == JOIN
        {
            return Ok(true);
        }
    }
    Ok(false)
}

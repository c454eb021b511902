//! EDUs on their way out, as the modules that make them see it.
//!
//! An EDU that must arrive is a row in the batch that made it, see [`queue_edu`]; one that is worth nothing a moment later
//! (typing, presence) is only handed over, see [`VolatileEdus`]. Sending them is the federation sender's work.

use chappe_store::{
    Batch, Direction, RoomNid, Store, StoreError, Topic,
    tables::{
        outgoing::{OUTGOING, OutgoingItem},
        rooms::{JOINED_SERVERS, MEMBERS, ROOMS, SERVER_ROOMS},
    },
};
use ruma::{OwnedServerName, ServerName, api::federation::transactions::edu::Edu};

/// Takes EDUs that may be lost: when the server is down, or this one restarts.
pub trait VolatileEdus: Send + Sync {
    fn send_edu_volatile(&self, destination: &ServerName, edu: &Edu);
}

/// Writes an EDU into a batch, to be sent until it is acknowledged. A newer one with the same `key` takes the place of one that
/// still waits.
pub(crate) fn queue_edu(batch: &mut Batch, destination: &ServerName, key: &str, edu: &Edu) {
    // Serialising an EDU cannot fail: its maps have string keys, and there are no floats.
    let Ok(edu) = serde_json::to_string(edu) else { return };
    let position = batch.next_position();
    batch.put(&OUTGOING, &(destination.to_owned(), position), &OutgoingItem::CoalescedEdu { key: key.to_owned(), edu });
    batch.wake(Topic::Destination(destination.to_owned()));
}

/// The servers of a room's joined users, without `own_name`.
pub(crate) fn scan_other_servers(
    store: &Store,
    room: RoomNid,
    own_name: &ServerName,
) -> Result<Vec<OwnedServerName>, StoreError> {
    store
        .scan(&JOINED_SERVERS, &(room,), Direction::Forward)
        .map(|row| row.map(|((_, server), _)| server))
        .filter(|server| server.as_ref().map_or(true, |server| server != own_name))
        .collect()
}

/// Whether there is any room here that users of another server are joined to.
pub(crate) fn has_other_servers(store: &Store, own_name: &ServerName) -> Result<bool, StoreError> {
    // They are in order: if the first and the last are this one, there are no others.
    for direction in [Direction::Forward, Direction::Reverse] {
        let row = store.scan(&SERVER_ROOMS, &(), direction).next().transpose()?;
        if row.is_some_and(|((server, _), ())| server != own_name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a user is joined to a room.
pub(crate) fn is_joined(store: &Store, room: RoomNid, user_id: &ruma::UserId) -> Result<bool, StoreError> {
    let member = store.get(&MEMBERS, &(room, user_id.to_owned()))?;
    Ok(member.is_some_and(|member| member.value.membership == "join"))
}

/// Whether a remote user is joined to a room, or may be: while not all of its members are known their servers are believed.
pub(crate) fn may_be_joined(store: &Store, room: RoomNid, user_id: &ruma::UserId) -> Result<bool, StoreError> {
    match store.get(&MEMBERS, &(room, user_id.to_owned()))? {
        Some(member) => Ok(member.value.membership == "join"),
        None => Ok(store.get(&ROOMS, &room)?.is_some_and(|room| room.partial_state)
            && store.contains(&JOINED_SERVERS, &(room, user_id.server_name().to_owned()))?),
    }
}

//! What follows from a change of the current state: its flat rows, and those of members, rooms and servers.

use std::collections::BTreeMap;

use chappe_store::{
    Batch, EventNid, Json, Position, RoomNid, Stamped, Topic,
    tables::{
        rooms::{
            FORGOTTEN, JOINED_SERVERS, MEMBERS, MEMBERSHIP_LOG, MemberRecord, SERVER_ROOMS, SPACE_CHILDREN,
            STRIPPED_STATE, USER_ROOMS,
        },
        state::CURRENT_STATE,
    },
};
use ruma::{OwnedServerName, OwnedUserId, RoomId, UserId, events::StateEventType};
use serde::Deserialize;

use super::Staging;
use crate::{Event, RoomError, heads::JoinedServers, state::StateChange};

impl Staging {
    /// Writes the flat current state, and members, rooms and servers that follow from it.
    pub(super) fn derive(
        &mut self,
        changes: Vec<StateChange>,
        position: Position,
        servers: &mut JoinedServers,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        let mut joined_delta: BTreeMap<OwnedServerName, i64> = BTreeMap::new();
        for StateChange { key, old, new } in changes {
            match new {
                Some(nid) => self.batch.put(&CURRENT_STATE, &(room, key), &nid),
                None => self.batch.delete(&CURRENT_STATE, &(room, key)),
            }
            let store = &self.rooms.store;
            let parts = store.interner().get_state_key_parts(store, key)?;
            let user = match parts.as_deref() {
                Some((StateEventType::RoomMember, user)) => user,
                Some((StateEventType::SpaceChild, child)) => {
                    put_space_child(&mut self.batch, room, child, new);
                    continue;
                }
                _ => continue,
            };
            let Ok(user) = UserId::parse(user) else { continue };
            let old_membership = match old {
                Some(nid) => self.get_event_by_nid(nid)?.map(|event| member_record(&event).membership),
                None => None,
            };
            let was_joined = old_membership.as_deref() == Some("join");
            let Some(new) = new else {
                self.batch.delete(&MEMBERS, &(room, user.clone()));
                self.batch.delete(&USER_ROOMS, &(user.clone(), room));
                self.batch.wake(Topic::User(user.clone()));
                *joined_delta.entry(user.server_name().to_owned()).or_default() -= i64::from(was_joined);
                continue;
            };
            let Some(event) = self.get_event_by_nid(new)? else {
                return Err(RoomError::broken(format!("state of room {room} names event {new}, which is not stored")));
            };
            let member = Stamped { position, value: member_record(&event) };
            let is_joined = member.value.membership == "join";
            *joined_delta.entry(user.server_name().to_owned()).or_default() +=
                i64::from(is_joined) - i64::from(was_joined);
            self.put_member_rows(&user, &member);
            if self.rooms.is_local(&user) {
                self.derive_for_local_user(&user, &member.value, position)?;
            }
        }
        self.put_server_rows(joined_delta, servers)
    }

    /// Writes how many users of each server are joined now.
    pub(super) fn put_server_rows(
        &mut self,
        mut joined_delta: BTreeMap<OwnedServerName, i64>,
        servers: &mut JoinedServers,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        for server in std::mem::take(&mut self.touched_servers) {
            joined_delta.entry(server).or_default();
        }
        for (server, delta) in joined_delta {
            let before = self.rooms.store.get(&JOINED_SERVERS, &(room, server.clone()))?.unwrap_or(0);
            let after = before.saturating_add_signed(delta);
            if after > 0 || self.said_servers.contains(&server) {
                self.batch.put(&JOINED_SERVERS, &(room, server.clone()), &after);
                self.batch.put(&SERVER_ROOMS, &(server.clone(), room), &());
                servers.insert(server, after);
            } else {
                self.batch.delete(&JOINED_SERVERS, &(room, server.clone()));
                self.batch.delete(&SERVER_ROOMS, &(server.clone(), room));
                servers.remove(&server);
            }
        }
        Ok(())
    }

    fn derive_for_local_user(
        &mut self,
        user: &OwnedUserId,
        member: &MemberRecord,
        position: Position,
    ) -> Result<(), RoomError> {
        let room = self.room.nid;
        self.batch.put(&MEMBERSHIP_LOG, &(user.clone(), position), &room);
        self.batch.wake(Topic::User(user.clone()));
        match member.membership.as_str() {
            "invite" | "knock" => {
                let stripped = self.stripped_state(self.room.record.state)?;
                self.batch.put(&STRIPPED_STATE, &(user.clone(), room), &Json(stripped));
                self.batch.delete(&FORGOTTEN, &(user.clone(), room));
            }
            "join" => {
                self.batch.delete(&STRIPPED_STATE, &(user.clone(), room));
                self.batch.delete(&FORGOTTEN, &(user.clone(), room));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn put_member_rows(&mut self, user: &OwnedUserId, member: &Stamped<MemberRecord>) {
        self.batch.put(&MEMBERS, &(self.room.nid, user.clone()), member);
        if self.rooms.is_local(user) {
            self.batch.put(&USER_ROOMS, &(user.clone(), self.room.nid), member);
        }
    }
}

/// Puts the current `m.space.child` event of a state key among the room's, or takes it out.
pub(crate) fn put_space_child(batch: &mut Batch, room: RoomNid, child: &str, event: Option<EventNid>) {
    let Some(child) = RoomId::parse(child).ok().filter(|child| !child.as_str().contains('\0')) else { return };
    match event {
        Some(nid) => batch.put(&SPACE_CHILDREN, &(room, child), &nid),
        None => batch.delete(&SPACE_CHILDREN, &(room, child)),
    }
}

/// What the member rows keep of a member event.
pub(crate) fn member_record(event: &Event) -> MemberRecord {
    #[derive(Deserialize, Default)]
    struct Profile {
        #[serde(default)]
        displayname: Option<serde_json::Value>,
        #[serde(default)]
        avatar_url: Option<serde_json::Value>,
    }
    let text = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    let profile: Profile = event.pdu.get_content().unwrap_or_default();
    MemberRecord {
        membership: event.pdu.membership().map_or_else(|| "leave".to_owned(), |membership| membership.to_string()),
        event: Some(event.nid),
        event_id: event.pdu.event_id.clone(),
        sender: event.pdu.sender.clone(),
        display_name: text(profile.displayname),
        avatar_url: text(profile.avatar_url),
    }
}

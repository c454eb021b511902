//! Room aliases of this server.

use chappe_protocol::power::PowerLevels;
use chappe_store::{
    Batch, Direction, Domain, RoomNid, StoreError,
    tables::rooms::{ALIASES, AliasRecord, ROOM_ALIASES},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, RoomAliasId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
};

use crate::{EventDraft, Room, RoomError, Rooms};

pub(crate) fn alias_domain(alias: &RoomAliasId) -> Domain {
    Domain::Named { kind: "alias", id: alias.to_string() }
}

impl Rooms {
    pub fn get_alias(&self, alias: &RoomAliasId) -> Result<Option<AliasRecord>, StoreError> {
        self.store.get(&ALIASES, &alias.to_owned())
    }

    /// The local aliases of a room.
    pub fn get_aliases_of_room(&self, room: RoomNid) -> Result<Vec<OwnedRoomAliasId>, StoreError> {
        self.store
            .scan(&ROOM_ALIASES, &(room,), Direction::Forward)
            .map(|row| row.map(|((_, alias), ())| alias))
            .collect()
    }

    /// Makes a local alias for a room that this server is in.
    pub async fn create_alias(&self, creator: &UserId, alias: &RoomAliasId, room_id: &RoomId) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name {
            return Err(RoomError::Invalid("The alias is not of this server".to_owned()));
        }
        let room = self.require_room(room_id)?;
        self.require_joined(&room, &creator.to_owned())?;
        let mut batch = Batch::new();
        self.put_alias(&mut batch, alias, room.nid, creator)?;
        self.store.commit(batch).await?;
        Ok(())
    }

    pub(crate) fn put_alias(
        &self,
        batch: &mut Batch,
        alias: &RoomAliasId,
        room: RoomNid,
        creator: &UserId,
    ) -> Result<(), RoomError> {
        batch.guard(alias_domain(alias), self.store.domain_version(&alias_domain(alias))?);
        if self.get_alias(alias)?.is_some() {
            return Err(RoomError::InUse("Room alias already taken".to_owned()));
        }
        batch.put(&ALIASES, &alias.to_owned(), &AliasRecord { room, creator: creator.to_owned() });
        batch.put(&ROOM_ALIASES, &(room, alias.to_owned()), &());
        Ok(())
    }

    /// Removes a local alias: its creator may, and those who may set the room's canonical alias. The room's canonical alias event
    /// no longer names it either, if the user may change that.
    pub async fn delete_alias(&self, user: &UserId, alias: &RoomAliasId) -> Result<(), RoomError> {
        let version = self.store.domain_version(&alias_domain(alias))?;
        let Some(record) = self.get_alias(alias)? else {
            return Err(RoomError::NotFound("Room alias not found".to_owned()));
        };
        if record.creator != user {
            let room = self.get_room_by_nid(record.room)?;
            let levels = room.map(|room| self.get_power_levels(&room)).transpose()?.flatten();
            if !levels.is_some_and(|levels| levels.can_send(user, &TimelineEventType::RoomCanonicalAlias, true)) {
                return Err(RoomError::Forbidden("You don't have permission to delete the alias".to_owned()));
            }
        }
        let mut batch = Batch::new();
        batch.guard(alias_domain(alias), version);
        batch.delete(&ALIASES, &alias.to_owned());
        batch.delete(&ROOM_ALIASES, &(record.room, alias.to_owned()));
        self.store.commit(batch).await?;
        match self.drop_canonical_alias(user, record.room, alias).await {
            Ok(()) => {}
            Err(RoomError::Forbidden(reason)) => {
                tracing::debug!(reason, alias = %alias, "a deleted alias stays in the canonical alias event")
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn drop_canonical_alias(&self, user: &UserId, room: RoomNid, alias: &RoomAliasId) -> Result<(), RoomError> {
        let is_it = |value: &CanonicalJsonValue| value.as_str() == Some(alias.as_str());
        let Some(room_id) = self.get_room_id(room)? else { return Ok(()) };
        let Some(mut content) =
            self.get_state_content::<CanonicalJsonObject>(room, &StateEventType::RoomCanonicalAlias, "")?
        else {
            return Ok(());
        };
        let mut is_changed = content.get("alias").is_some_and(is_it);
        if is_changed {
            content.remove("alias");
        }
        if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
            let before = others.len();
            others.retain(|other| !is_it(other));
            is_changed |= others.len() < before;
        }
        if is_changed {
            self.send(user, &room_id, EventDraft::state(StateEventType::RoomCanonicalAlias.to_string(), "", content))
                .await?;
        }
        Ok(())
    }

    /// The power levels in force; `None` if the room's state has no create event.
    pub fn get_power_levels(&self, room: &Room) -> Result<Option<PowerLevels>, StoreError> {
        let Some(create) = self.get_state_event(room.nid, &StateEventType::RoomCreate, "")? else { return Ok(None) };
        let levels = self.get_state_event(room.nid, &StateEventType::RoomPowerLevels, "")?;
        Ok(PowerLevels::from_events(&room.rules, &create.pdu, levels.as_ref().map(|event| &*event.pdu)).ok())
    }
}

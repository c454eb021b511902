//! What the server tells its users, each in a room of their own (client-server API, "Server Notices").
//!
//! There is one such room for each user, made with the first notice and used for all that follow. The user is invited to it, and can leave
//! it, but not decline the invite. When to tell whom is the operator's business.

use chappe_rooms::{
    EventDraft, RoomError, Rooms,
    create::{CreateRoom, Preset},
    membership::MemberProfile,
    send::{Transaction, canonical_content},
};
use chappe_store::{
    CommitError, Domain, RoomNid, Store, StoreError,
    tables::{
        accounts::{ACCOUNTS, AccountKind, AccountRecord},
        moderation::SERVER_NOTICE_ROOMS,
    },
};
use ruma::{CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value as JsonValue, json};
use tokio::sync::Mutex;

use crate::{account_data, guarded::commit_guarded};

/// Who tells it, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNoticesConfig {
    pub sender: OwnedUserId,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
    pub room_name: Option<String>,
}

/// What is to be told.
#[derive(Clone, Debug)]
pub struct Notice {
    pub event_type: String,
    /// Present for state events.
    pub state_key: Option<String>,
    pub content: CanonicalJsonObject,
    /// So that a repeated request does not repeat the notice.
    pub transaction: Option<Transaction>,
}

/// A notice that was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendNoticeError {
    #[error("server notices are not enabled on this server")]
    Disabled,
    #[error("server notices go to users of this server")]
    NotLocal,
    #[error("there is no such account")]
    NotFound,
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// An invite that the user must not decline.
#[derive(Debug, thiserror::Error)]
pub enum LeaveNoticesError {
    #[error("the invite to the room of server notices cannot be declined")]
    Refused,
    #[error(transparent)]
    Read(#[from] StoreError),
}

pub struct ServerNotices {
    rooms: Rooms,
    config: Option<ServerNoticesConfig>,
    /// Held while a user's room is looked for and made, so that there is one.
    making: Mutex<()>,
}

impl ServerNotices {
    /// Without a configuration, nothing can be told.
    pub fn new(rooms: Rooms, config: Option<ServerNoticesConfig>) -> Self {
        Self { rooms, config, making: Mutex::new(()) }
    }

    fn store(&self) -> &Store {
        self.rooms.store()
    }

    /// Tells a user something. Returns once it is durable.
    pub async fn send(&self, user: &UserId, notice: Notice) -> Result<OwnedEventId, SendNoticeError> {
        let config = self.config.as_ref().ok_or(SendNoticeError::Disabled)?;
        if user.server_name() != self.rooms.server_name() {
            return Err(SendNoticeError::NotLocal);
        }
        let account = self.store().get(&ACCOUNTS, &user.to_owned())?;
        if account.is_none_or(|account| account.deactivated_at_ms.is_some()) {
            return Err(SendNoticeError::NotFound);
        }
        let room_id = self.require_room(config, user).await?;
        let Notice { event_type, state_key, content, transaction } = notice;
        let mut draft = match state_key {
            Some(state_key) => EventDraft::state(event_type, state_key, content),
            None => EventDraft::message(event_type.into(), content),
        };
        draft.transaction = transaction;
        Ok(self.rooms.send(&config.sender, &room_id, draft).await?.event_id)
    }

    /// The user's room, made if need be, with the user in it or invited.
    async fn require_room(&self, config: &ServerNoticesConfig, user: &UserId) -> Result<OwnedRoomId, SendNoticeError> {
        let _making = self.making.lock().await;
        let (nid, room_id) = match self.get_usable_room(config, user)? {
            Some(room) => room,
            None => self.make_room(config, user).await?,
        };
        if !matches!(self.rooms.get_membership(nid, user)?.as_str(), "join" | "invite") {
            self.rooms.invite(&config.sender, &room_id, user, None).await?;
        }
        Ok(room_id)
    }

    fn get_usable_room(
        &self,
        config: &ServerNoticesConfig,
        user: &UserId,
    ) -> Result<Option<(RoomNid, OwnedRoomId)>, StoreError> {
        let Some(nid) = self.store().get(&SERVER_NOTICE_ROOMS, &user.to_owned())? else { return Ok(None) };
        let Some(room_id) = self.rooms.get_room_id(nid)? else { return Ok(None) };
        let is_usable =
            self.rooms.is_joined(nid, &config.sender)? && self.rooms.get_membership(nid, user)?.as_str() != "ban";
        Ok(is_usable.then_some((nid, room_id)))
    }

    async fn make_room(
        &self,
        config: &ServerNoticesConfig,
        user: &UserId,
    ) -> Result<(RoomNid, OwnedRoomId), SendNoticeError> {
        self.require_sender(config).await?;
        // Users read here, and write nothing.
        let levels = canonical_content(&json!({ "users_default": -10 }).to_string())?;
        let request = CreateRoom {
            version: None,
            preset: Preset::PrivateChat,
            is_listed: false,
            name: config.room_name.clone(),
            topic: None,
            alias_localpart: None,
            invite: Vec::new(),
            is_direct: false,
            creation_content: CanonicalJsonObject::new(),
            initial_state: Vec::new(),
            power_level_override: levels,
            profile: MemberProfile { display_name: config.display_name.clone(), avatar_url: config.avatar_url.clone() },
        };
        let room_id = self.rooms.create_room(&config.sender, request).await?;
        let nid = self.rooms.get_room_nid(&room_id)?.ok_or_else(|| RoomError::NotFound("Unknown room".to_owned()))?;
        // The room is known as what it is before the user hears of it.
        commit_guarded(self.store(), Domain::Account(user.to_owned()), |batch| {
            batch.put(&SERVER_NOTICE_ROOMS, &user.to_owned(), &nid);
            let tags = self.tags_with_notice(user, &room_id)?;
            account_data::queue_put(self.store(), batch, user, Some(&room_id), "m.tag", &tags.to_string())?;
            Ok::<_, SendNoticeError>(())
        })
        .await?;
        Ok((nid, room_id))
    }

    fn tags_with_notice(&self, user: &UserId, room_id: &RoomId) -> Result<JsonValue, StoreError> {
        let stored = account_data::AccountData::new(self.store().clone()).get(user, Some(room_id), "m.tag")?;
        let mut content: JsonValue = stored.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        if !content["tags"].is_object() {
            content = json!({ "tags": {} });
        }
        content["tags"]["m.server_notice"] = json!({});
        Ok(content)
    }

    /// Gives the sender an account that nobody can log in to, so that nobody else is given the name.
    async fn require_sender(&self, config: &ServerNoticesConfig) -> Result<(), SendNoticeError> {
        commit_guarded(self.store(), Domain::Account(config.sender.clone()), |batch| {
            if !self.store().contains(&ACCOUNTS, &config.sender)? {
                let record = AccountRecord {
                    kind: AccountKind::User,
                    admin: false,
                    created_at_ms: self.rooms.now_ms(),
                    password_hash: None,
                    deactivated_at_ms: None,
                    erased: false,
                };
                batch.put(&ACCOUNTS, &config.sender, &record);
            }
            Ok(())
        })
        .await
    }

    /// Whether a user may leave a room as far as server notices are concerned: all but decline the invite to them.
    pub fn check_may_leave(&self, user: &UserId, room_id: &RoomId) -> Result<(), LeaveNoticesError> {
        let Some(nid) = self.store().get(&SERVER_NOTICE_ROOMS, &user.to_owned())? else { return Ok(()) };
        let is_it = self.rooms.get_room_nid(room_id)? == Some(nid);
        if is_it && self.rooms.get_membership(nid, user)?.as_str() == "invite" {
            return Err(LeaveNoticesError::Refused);
        }
        Ok(())
    }
}

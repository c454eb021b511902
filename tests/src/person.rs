//! Somebody on a real Matrix client: `matrix-sdk`, unmodified, with end-to-end encryption.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use matrix_sdk::{
    Client, Room,
    config::{RequestConfig, SyncSettings},
    deserialized_responses::EncryptionInfo,
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
        api::client::{
            account::register,
            room::create_room,
            uiaa::{AuthData, Dummy},
        },
        events::{
            InitialStateEvent,
            room::{
                encrypted::OriginalSyncRoomEncryptedEvent,
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent},
            },
        },
    },
};
use tokio::task::JoinHandle;

use crate::{Failure, server::Server};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message as its reader's client showed it.
#[derive(Clone, Debug)]
pub struct Received {
    pub event_id: OwnedEventId,
    pub sender: OwnedUserId,
    pub body: String,
    /// It came encrypted, and was decrypted by the client.
    pub is_decrypted: bool,
}

#[derive(Default)]
struct Inbox {
    messages: Vec<Received>,
    undecryptable: Vec<OwnedEventId>,
}

/// A person with one device. Goes on syncing in the background, also through outages, until dropped.
pub struct Person {
    pub client: Client,
    pub user_id: OwnedUserId,
    inbox: Arc<Mutex<Inbox>>,
    syncing: JoinHandle<()>,
}

impl Person {
    /// Registers on a server, and logs in.
    pub async fn register(server: &Server, name: &str) -> Result<Self, Failure> {
        Self::register_at(&server.client_url, name).await
    }

    /// Registers on the server that is reached at a URL, whoever made it, and logs in.
    pub async fn register_at(client_url: &str, name: &str) -> Result<Self, Failure> {
        let password = format!("the password of {name}");
        let requests = RequestConfig::new().timeout(Duration::from_secs(90)).retry_limit(2);
        let client = Client::builder().homeserver_url(client_url).request_config(requests).build().await?;
        let mut request = register::v3::Request::new();
        request.username = Some(name.to_owned());
        request.password = Some(password.clone());
        request.inhibit_login = true;
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        client.matrix_auth().register(request).await?;
        client
            .matrix_auth()
            .login_username(name, &password)
            .initial_device_display_name("demonstration")
            .send()
            .await?;
        let user_id = client.user_id().ok_or("logged in without a user id")?.to_owned();

        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let messages = inbox.clone();
        client.add_event_handler(
            move |event: OriginalSyncRoomMessageEvent, _: Room, encryption: Option<EncryptionInfo>| {
                let messages = messages.clone();
                async move {
                    if let MessageType::Text(text) = event.content.msgtype {
                        let received = Received {
                            event_id: event.event_id,
                            sender: event.sender,
                            body: text.body,
                            is_decrypted: encryption.is_some(),
                        };
                        messages.lock().unwrap_or_else(PoisonError::into_inner).messages.push(received);
                    }
                }
            },
        );
        let undecryptable = inbox.clone();
        client.add_event_handler(move |event: OriginalSyncRoomEncryptedEvent, _: Room| {
            let undecryptable = undecryptable.clone();
            async move { undecryptable.lock().unwrap_or_else(PoisonError::into_inner).undecryptable.push(event.event_id) }
        });
        let syncing = tokio::spawn(sync_for_ever(client.clone()));
        Ok(Self { client, user_id, inbox, syncing })
    }

    /// Creates an encrypted room and invites somebody.
    pub async fn create_encrypted_room(&self, invite: &OwnedUserId) -> Result<OwnedRoomId, Failure> {
        let mut request = create_room::v3::Request::new();
        request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
        request.name = Some("Operations".to_owned());
        request.invite = vec![invite.clone()];
        request.initial_state = vec![
            InitialStateEvent::with_empty_state_key(RoomEncryptionEventContent::with_recommended_defaults())
                .to_raw_any(),
        ];
        Ok(self.client.create_room(request).await?.room_id().to_owned())
    }

    /// Waits for an invite to a room, and accepts it.
    pub async fn accept_invite(&self, room_id: &RoomId) -> Result<(), Failure> {
        self.wait_for("the invite", || self.client.invited_rooms().into_iter().any(|room| room.room_id() == room_id))
            .await?;
        self.client.join_room_by_id(room_id).await?;
        self.wait_for("the joined room to be encrypted", || {
            self.client
                .joined_rooms()
                .into_iter()
                .any(|room| room.room_id() == room_id && room.encryption_state().is_encrypted())
        })
        .await
    }

    /// Waits until this person's client knows that somebody has joined.
    pub async fn wait_for_member(&self, room_id: &RoomId, user_id: &OwnedUserId) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let room = self.client.get_room(room_id).ok_or("the room is not known to the client")?;
        while tokio::time::Instant::now() < deadline {
            if let Some(member) = room.get_member_no_sync(user_id).await?
                && *member.membership() == matrix_sdk::ruma::events::room::member::MembershipState::Join
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("{} never learnt that {user_id} joined", self.user_id).into())
    }

    /// Sends a message: returns when the server has acknowledged it.
    pub async fn say(&self, room_id: &RoomId, body: &str) -> Result<OwnedEventId, Failure> {
        let room = self.client.get_room(room_id).ok_or("the room is not known to the client")?;
        let sent = room.send(RoomMessageEventContent::text_plain(body)).await?;
        Ok(sent.response.event_id)
    }

    /// Waits until this person's client shows a message.
    pub async fn hear(&self, event_id: &OwnedEventId) -> Result<Received, Failure> {
        self.wait_for(&format!("message {event_id}"), || {
            self.received().iter().any(|message| message.event_id == *event_id)
        })
        .await?;
        self.received()
            .into_iter()
            .find(|message| message.event_id == *event_id)
            .ok_or_else(|| "the message vanished".into())
    }

    /// Every message so far, in the order it came.
    pub fn received(&self) -> Vec<Received> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).messages.clone()
    }

    /// Events that came encrypted and could not be decrypted.
    pub fn undecryptable(&self) -> Vec<OwnedEventId> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).undecryptable.clone()
    }

    async fn wait_for(&self, what: &str, condition: impl Fn() -> bool) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            if tokio::time::Instant::now() > deadline {
                return Err(format!(
                    "{} waited {PATIENCE:?} for {what} in vain; undecryptable: {:?}",
                    self.user_id,
                    self.undecryptable()
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

async fn sync_for_ever(client: Client) {
    loop {
        let settings = SyncSettings::default().timeout(Duration::from_secs(10));
        if client.sync_once(settings).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

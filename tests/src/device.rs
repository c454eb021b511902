//! A device as today's mobile clients build one: two connections of sliding sync, one for the room list and one for encryption; rooms
//! as timelines; a count of what could not be decrypted.

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use matrix_sdk::{
    Client, RoomState,
    config::RequestConfig,
    encryption::{
        BackupDownloadStrategy, EncryptionSettings,
        verification::{SasVerification, Verification, VerificationRequest},
    },
    ruma::{
        OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
        api::client::{
            account::register,
            uiaa::{AuthData, Dummy},
        },
        events::{key::verification::VerificationMethod, room::message::RoomMessageEventContent},
    },
    sliding_sync::VersionBuilder,
};
use matrix_sdk_ui::{
    Timeline,
    eyeball_im::VectorDiff,
    room_list_service::filters::new_filter_non_left,
    sync_service::{State, SyncService},
    timeline::RoomExt,
    unable_to_decrypt_hook::{UnableToDecryptHook, UnableToDecryptInfo, UtdHookManager},
};
use tokio::task::JoinHandle;

use crate::{Failure, server::Server};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What takes longer is told, for whoever looks at the test's output.
const LONG: Duration = Duration::from_secs(5);

/// How long a message may stay undecrypted: its key comes on another connection than the message.
const KEY_PATIENCE: Duration = Duration::from_secs(20);

/// How long after the first device the second one confirms a verification.
const BETWEEN_CONFIRMATIONS: Duration = Duration::from_millis(500);

/// How often conditions are looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// A room as the room list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub room_id: OwnedRoomId,
    pub name: Option<String>,
    pub state: RoomState,
}

/// A message as the timeline shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    pub event_id: Option<OwnedEventId>,
    pub sender: OwnedUserId,
    /// `None`: it cannot be decrypted, or is no message.
    pub body: Option<String>,
    pub is_undecryptable: bool,
    pub was_encrypted: bool,
}

#[derive(Debug, Default)]
struct Undecryptable {
    reports: Mutex<Vec<UnableToDecryptInfo>>,
}

impl UnableToDecryptHook for Undecryptable {
    fn on_utd(&self, info: UnableToDecryptInfo) {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(info);
    }
}

/// One device, syncing in the background until dropped, through outages of its server.
pub struct Device {
    pub client: Client,
    pub user_id: OwnedUserId,
    /// For failures' messages.
    pub label: String,
    service: Arc<SyncService>,
    hook: Arc<UtdHookManager>,
    undecryptable: Arc<Undecryptable>,
    timelines: tokio::sync::Mutex<HashMap<OwnedRoomId, Arc<Timeline>>>,
    reviving: JoinHandle<()>,
}

impl Device {
    /// Registers an account, and logs in for the first time: the client sets up cross-signing and a key backup.
    pub async fn register(server: &Server, name: &str, device: &str) -> Result<Self, Failure> {
        let client = client(server).await?;
        let mut request = register::v3::Request::new();
        request.username = Some(name.to_owned());
        request.password = Some(password(name));
        request.inhibit_login = true;
        request.auth = Some(AuthData::Dummy(Dummy::new()));
        client.matrix_auth().register(request).await?;
        Self::begin(client, name, device).await
    }

    /// A further device of an account.
    pub async fn log_in(server: &Server, name: &str, device: &str) -> Result<Self, Failure> {
        Self::begin(client(server).await?, name, device).await
    }

    async fn begin(client: Client, name: &str, device: &str) -> Result<Self, Failure> {
        client.matrix_auth().login_username(name, &password(name)).initial_device_display_name(device).send().await?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let user_id = client.user_id().ok_or("logged in without a user id")?.to_owned();
        let service = Arc::new(SyncService::builder(client.clone()).with_offline_mode().build().await?);
        let undecryptable = Arc::new(Undecryptable::default());
        let hook = UtdHookManager::new(undecryptable.clone(), client.clone()).with_max_delay(KEY_PATIENCE);
        service.start().await;
        let reviving = tokio::spawn(revive(service.clone()));
        Ok(Self {
            label: format!("{user_id} on {device}"),
            client,
            user_id,
            service,
            hook: Arc::new(hook),
            undecryptable,
            timelines: tokio::sync::Mutex::default(),
            reviving,
        })
    }

    /// What the room list shows now.
    pub async fn list(&self) -> Result<Vec<Listed>, Failure> {
        let rooms = self.service.room_list_service().all_rooms().await?;
        let (entries, controller) = rooms.entries_with_dynamic_adapters(100);
        controller.set_filter(Box::new(new_filter_non_left()));
        let mut entries = pin!(entries);
        let diffs = entries.next().await.ok_or("the room list ended")?;
        let Some(VectorDiff::Reset { values }) = diffs.into_iter().next() else {
            return Err("the room list does not begin with all of it".into());
        };
        Ok(values
            .iter()
            .map(|room| Listed {
                room_id: room.room_id().to_owned(),
                name: room.cached_display_name().map(|name| name.to_string()),
                state: room.state(),
            })
            .collect())
    }

    /// Waits until the room list shows a room in this state.
    pub async fn see_listed(&self, room_id: &RoomId, state: RoomState) -> Result<Listed, Failure> {
        let find =
            || async { Ok(self.list().await?.into_iter().find(|room| room.room_id == room_id && room.state == state)) };
        self.wait_for(&format!("{room_id} in the room list as {state:?}"), find).await
    }

    pub async fn join(&self, room_id: &RoomId) -> Result<(), Failure> {
        self.client.join_room_by_id(room_id).await?;
        self.see_listed(room_id, RoomState::Joined).await?;
        Ok(())
    }

    /// Opens a room, as a person does who wants to read in it.
    pub async fn open(&self, room_id: &RoomId) -> Result<Arc<Timeline>, Failure> {
        let mut timelines = self.timelines.lock().await;
        if let Some(timeline) = timelines.get(room_id) {
            return Ok(timeline.clone());
        }
        let rooms = self.service.room_list_service();
        rooms.subscribe_to_rooms(&[room_id]).await;
        let room = rooms.room(room_id)?;
        let timeline = Arc::new(room.timeline_builder().with_unable_to_decrypt_hook(self.hook.clone()).build().await?);
        timelines.insert(room_id.to_owned(), timeline.clone());
        Ok(timeline)
    }

    /// What the timeline of a room shows now.
    pub async fn read(&self, room_id: &RoomId) -> Result<Vec<Shown>, Failure> {
        let timeline = self.open(room_id).await?;
        let items = timeline.items().await;
        let events = items.iter().filter_map(|item| item.as_event());
        Ok(events
            .map(|event| Shown {
                event_id: event.event_id().map(ToOwned::to_owned),
                sender: event.sender().to_owned(),
                body: event.content().as_message().map(|message| message.body().to_owned()),
                is_undecryptable: event.content().is_unable_to_decrypt(),
                was_encrypted: event.encryption_info().is_some(),
            })
            .collect())
    }

    /// Sends a message: returns when the server has acknowledged it.
    pub async fn say(&self, room_id: &RoomId, body: &str) -> Result<OwnedEventId, Failure> {
        let room = self.client.get_room(room_id).ok_or("the room is not known to the client")?;
        let send = room.send(RoomMessageEventContent::text_plain(body));
        let sent =
            tokio::time::timeout(PATIENCE, send).await.map_err(|_| format!("{} could not send", self.label))??;
        Ok(sent.response.event_id)
    }

    /// Waits until the timeline shows a message, decrypted.
    pub async fn hear(&self, room_id: &RoomId, event_id: &OwnedEventId) -> Result<Shown, Failure> {
        let find = || async {
            let shown = self.read(room_id).await?;
            Ok(shown.into_iter().find(|message| message.event_id.as_ref() == Some(event_id) && message.body.is_some()))
        };
        self.wait_for(&format!("message {event_id}"), find).await
    }

    /// Pages back to the beginning of the room.
    pub async fn read_back(&self, room_id: &RoomId) -> Result<(), Failure> {
        let timeline = self.open(room_id).await?;
        let reading = async {
            while !timeline.paginate_backwards(50).await? {}
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .map_err(|_| format!("{}: paging back does not end", self.label))?
    }

    /// What stayed undecryptable for longer than a key may take: of the rooms that were opened.
    pub fn undecryptable(&self) -> Vec<OwnedEventId> {
        let reports = self.undecryptable.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().filter(|report| report.time_to_decrypt.is_none()).map(|report| report.event_id.clone()).collect()
    }

    /// Waits until a condition holds: until `find` finds something.
    pub async fn wait_for<T, F>(&self, what: &str, mut find: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Option<T>, Failure>>,
    {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(found) = find().await? {
                if begun.elapsed() > LONG {
                    println!("{} waited {:.1} s for {what}", self.label, begun.elapsed().as_secs_f64());
                }
                return Ok(found);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} waited {PATIENCE:?} for {what} in vain", self.label).into());
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Whether this device holds all private cross-signing keys.
    pub async fn can_sign(&self) -> bool {
        self.client.encryption().cross_signing_status().await.is_some_and(|status| status.is_complete())
    }

    /// Whether a user's device counts as verified here, by way of the user's own signatures.
    pub async fn trusts(&self, other: &Self) -> Result<bool, Failure> {
        let device_id = other.client.device_id().ok_or("no device id")?;
        let device = self.client.encryption().get_device(&other.user_id, device_id).await?;
        Ok(device.is_some_and(|device| device.is_verified_with_cross_signing()))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.reviving.abort();
    }
}

/// Verifies with short authentication strings: `asking` asks, `asked` answers, both compare and confirm.
pub async fn verify(asking: &Device, asked: &Device) -> Result<(), Failure> {
    let methods = || vec![VerificationMethod::SasV1];
    let find = || async { Ok(asking.client.encryption().request_user_identity(&asked.user_id).await?) };
    let identity = asking.wait_for("the other's identity", find).await?;
    let request = identity.request_verification_with_methods(methods()).await?;
    let flow = request.flow_id().to_owned();
    let find = || async { Ok(asked.client.encryption().get_verification_request(&asking.user_id, &flow).await) };
    let answer = asked.wait_for("a verification request", find).await?;
    answer.accept_with_methods(methods()).await?;
    asking.wait_for("an answer to the verification request", || ready(request.is_ready().then_some(()))).await?;
    let ours = request.start_sas().await?.ok_or("the verification cannot be started")?;
    let find = || async { Ok(sas(asked, &asking.user_id, &answer).await) };
    let theirs = asked.wait_for("the start of the verification", find).await?;
    theirs.accept().await?;
    for (device, sas) in [(asking, &ours), (asked, &theirs)] {
        device.wait_for("the short authentication string", || ready(sas.can_be_presented().then_some(()))).await?;
    }
    if ours.decimals().is_none() || ours.decimals() != theirs.decimals() {
        return Err("the two devices show different strings".into());
    }
    ours.confirm().await?;
    // People do not press at the same moment. Where they do, matrix-sdk can forget its own last message: it is confirming while what the other
    // has confirmed arrives, and never sends that it is done.
    tokio::time::sleep(BETWEEN_CONFIRMATIONS).await;
    theirs.confirm().await?;
    let both = [(asking, &ours), (asked, &theirs)];
    for (device, sas) in both {
        let ended = device.wait_for("the end of the verification", || is_done(sas)).await;
        ended.map_err(|failure| format!("{failure}; the states are {:?}", both.map(|(_, sas)| sas.state())))?;
    }
    Ok(())
}

async fn is_done(sas: &SasVerification) -> Result<Option<()>, Failure> {
    match sas.cancel_info() {
        Some(info) => Err(format!("the verification was cancelled: {}", info.reason()).into()),
        None => Ok(sas.is_done().then_some(())),
    }
}

async fn ready<T>(found: Option<T>) -> Result<Option<T>, Failure> {
    Ok(found)
}

async fn sas(device: &Device, other: &UserId, request: &VerificationRequest) -> Option<SasVerification> {
    device.client.encryption().get_verification(other, request.flow_id()).await.and_then(Verification::sas)
}

async fn client(server: &Server) -> Result<Client, Failure> {
    let settings = EncryptionSettings {
        auto_enable_cross_signing: true,
        backup_download_strategy: BackupDownloadStrategy::AfterDecryptionFailure,
        auto_enable_backups: true,
    };
    let client = Client::builder()
        .homeserver_url(&server.client_url)
        .request_config(RequestConfig::new().timeout(Duration::from_secs(90)))
        .with_encryption_settings(settings)
        // Refuses a server that does not announce sliding sync.
        .sliding_sync_version_builder(VersionBuilder::DiscoverNative)
        .build()
        .await?;
    Ok(client)
}

fn password(name: &str) -> String {
    format!("the password of {name}")
}

/// Starts the service again whenever it ended: a connection that expired begins anew.
async fn revive(service: Arc<SyncService>) {
    let mut states = service.state();
    while let Some(state) = states.next().await {
        if matches!(state, State::Error(_) | State::Terminated) {
            service.start().await;
        }
    }
}

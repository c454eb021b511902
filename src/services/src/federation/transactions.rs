//! Transactions of other servers: PDUs into their rooms, EDUs to the services they concern.
//!
//! Rooms are taken in side by side, so that one whose gap takes long to fill does not hold up the others; within a room the order of
//! the transaction is kept. One bad PDU or EDU never fails its transaction; but what cannot be stored at the moment does, so that the
//! other server sends all of it again.
//!
//! Spec: Server-Server API, Transactions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chappe_protocol::{json, pdu};
use chappe_rooms::Rooms;
use chappe_store::CommitError;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{Value, value::RawValue as RawJsonValue};
use tokio::task::JoinSet;

use crate::{
    keys::{EduError, Keys},
    presence::Presence,
    receipts::Receipts,
    to_device::ToDevice,
    typing::Typing,
};

/// The most a transaction may hold.
pub const PDUS_MAX: usize = 50;
pub const EDUS_MAX: usize = 100;

/// What became of each PDU: an error's text, or nothing. PDUs whose id cannot be told are not in it.
pub type PduResults = BTreeMap<OwnedEventId, Result<(), String>>;

/// Takes in transactions.
pub struct Transactions {
    pub rooms: Rooms,
    pub typing: Arc<Typing>,
    pub receipts: Arc<Receipts>,
    pub presence: Arc<Presence>,
    pub keys: Keys,
    pub to_device: Arc<ToDevice>,
}

#[derive(Deserialize)]
struct PduHead {
    room_id: OwnedRoomId,
}

#[derive(Deserialize)]
struct Edu {
    edu_type: String,
    content: Value,
}

impl Transactions {
    /// Takes in one transaction: returns when all of it that is to be kept is durable.
    ///
    /// # Errors
    /// Something could not be stored that may be later (a full disk, for one). The rest has been taken in, and taking it in again
    /// changes nothing.
    pub async fn receive(
        &self,
        origin: &ServerName,
        pdus: Vec<Box<RawJsonValue>>,
        edus: Vec<Box<RawJsonValue>>,
    ) -> Result<PduResults, CommitError> {
        let edus = edus.iter().filter_map(|edu| match serde_json::from_str::<Edu>(edu.get()) {
            Ok(edu) => Some(edu),
            Err(error) => {
                tracing::debug!(%origin, %error, "malformed EDU");
                None
            }
        });
        // Keys come before the messages they open, so that no client sees the one without the other.
        let (keys, others): (Vec<_>, Vec<_>) = edus.partition(|edu| carries_keys(&edu.edu_type));
        self.receive_edus(origin, keys).await?;
        let results = self.receive_pdus(origin, pdus).await?;
        self.receive_edus(origin, others).await?;
        self.keys.spawn_retry_of(origin);
        Ok(results)
    }

    async fn receive_edus(&self, origin: &ServerName, edus: Vec<Edu>) -> Result<(), CommitError> {
        for edu in edus {
            match self.receive_edu(origin, &edu).await {
                Ok(()) => {}
                Err(EduError::Commit(error)) if error.is_passing() => return Err(error),
                Err(error) => tracing::debug!(%origin, edu_type = edu.edu_type, %error, "EDU not taken in"),
            }
        }
        Ok(())
    }

    async fn receive_pdus(&self, origin: &ServerName, pdus: Vec<Box<RawJsonValue>>) -> Result<PduResults, CommitError> {
        let mut by_room: HashMap<OwnedRoomId, Vec<Box<RawJsonValue>>> = HashMap::new();
        for pdu in pdus {
            match serde_json::from_str::<PduHead>(pdu.get()) {
                Ok(head) => by_room.entry(head.room_id).or_default().push(pdu),
                Err(error) => tracing::info!(%origin, %error, "PDU without room"),
            }
        }
        let mut tasks = JoinSet::new();
        for (room_id, pdus) in by_room {
            let (rooms, origin) = (self.rooms.clone(), origin.to_owned());
            tasks.spawn(async move {
                let outcomes = rooms.receive_pdus(&origin, &room_id, &pdus).await?;
                let mut results = PduResults::new();
                for (pdu, outcome) in pdus.iter().zip(outcomes) {
                    if let Err(error) = &outcome {
                        tracing::info!(%origin, room.id = %room_id, %error, "PDU not taken in");
                    }
                    if let Some(event_id) = event_id_of(&rooms, &room_id, pdu) {
                        results.insert(event_id, outcome.map_err(|error| error.to_string()));
                    }
                }
                Ok(results)
            });
        }
        let (mut results, mut failed) = (PduResults::new(), None);
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(Ok(of_room)) => results.extend(of_room),
                Ok(Err(error)) => failed = Some(error),
                Err(error) => tracing::error!(%error, "taking in the PDUs of a room failed"),
            }
        }
        failed.map_or(Ok(results), Err)
    }

    async fn receive_edu(&self, origin: &ServerName, edu: &Edu) -> Result<(), EduError> {
        let malformed = |error: serde_json::Error| EduError::Malformed(error.to_string());
        match edu.edu_type.as_str() {
            "m.typing" => {
                let content = serde_json::from_value(edu.content.clone()).map_err(malformed)?;
                if self.is_admitted(origin, edu.content.get("room_id")) {
                    self.typing.apply_edu(origin, &content)?;
                }
            }
            "m.receipt" => {
                let Value::Object(by_room) = &edu.content else {
                    return Err(EduError::Malformed("not an object".to_owned()));
                };
                let admitted = by_room
                    .iter()
                    .filter(|(room_id, _)| self.is_admitted(origin, Some(&Value::String((*room_id).clone()))));
                let admitted =
                    Value::Object(admitted.map(|(room_id, receipts)| (room_id.clone(), receipts.clone())).collect());
                self.receipts.apply_edu(origin, &admitted).await?;
            }
            "m.presence" => {
                let content = serde_json::from_value(edu.content.clone()).map_err(malformed)?;
                self.presence.apply_edu(origin, &content);
            }
            "m.direct_to_device" => self.to_device.receive_direct_to_device(origin, &edu.content).await?,
            "m.device_list_update" => self.keys.receive_device_list_update(origin, &edu.content).await?,
            "m.signing_key_update" | "org.matrix.signing_key_update" => {
                self.keys.receive_signing_key_update(origin, &edu.content).await?;
            }
            other => tracing::debug!(%origin, edu_type = other, "EDU of a type that is not known here"),
        }
        Ok(())
    }

    /// Whether a room's access list lets in an EDU about it.
    fn is_admitted(&self, origin: &ServerName, room_id: Option<&Value>) -> bool {
        let Some(room_id) = room_id.and_then(Value::as_str).and_then(|id| RoomId::parse(id).ok()) else { return false };
        match self.rooms.get_room_nid(&room_id) {
            Ok(Some(room)) => self.rooms.is_server_admitted(room, origin).unwrap_or(false),
            _ => false,
        }
    }
}

fn carries_keys(edu_type: &str) -> bool {
    matches!(
        edu_type,
        "m.direct_to_device" | "m.device_list_update" | "m.signing_key_update" | "org.matrix.signing_key_update"
    )
}

fn event_id_of(rooms: &Rooms, room_id: &RoomId, raw: &RawJsonValue) -> Option<OwnedEventId> {
    let room = rooms.get_room(room_id).ok()??;
    let mut object = json::parse_strict(raw.get()).ok()?;
    object.remove("unsigned");
    pdu::event_id(&object, &room.rules).ok()
}

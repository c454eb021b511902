//! Stripped state: what somebody outside a room is shown of it with an invite or a knock.

use chappe_protocol::{client_format::ClientFormat, pdu::Pdu};
use chappe_store::StoreError;
use ruma::events::StateEventType;
use serde_json::value::RawValue as RawJsonValue;

use crate::{staging::Staging, state::StateRoot};

const STRIPPED_TYPES: &[StateEventType] = &[
    StateEventType::RoomCreate,
    StateEventType::RoomJoinRules,
    StateEventType::RoomCanonicalAlias,
    StateEventType::RoomAvatar,
    StateEventType::RoomName,
    StateEventType::RoomEncryption,
    StateEventType::RoomTopic,
];

impl Staging {
    /// What a user outside the room is shown of it with an invite or knock. The create event comes whole.
    ///
    /// Spec: Client-Server API, Stripped state.
    pub(crate) fn stripped_state(&self, root: StateRoot) -> Result<Vec<serde_json::Value>, StoreError> {
        self.stripped(root, |create| create.to_client_raw(&ClientFormat::default()).ok())
    }

    /// The same for the server of that user, which gets the create event as a PDU and can check it against the room id.
    ///
    /// Spec: Server-Server API, Inviting to a room.
    pub(crate) fn stripped_state_for_server(&self, root: StateRoot) -> Result<Vec<serde_json::Value>, StoreError> {
        self.stripped(root, |create| create.to_federation_raw().ok())
    }

    fn stripped(
        &self,
        root: StateRoot,
        of_create: impl Fn(&Pdu) -> Option<Box<RawJsonValue>>,
    ) -> Result<Vec<serde_json::Value>, StoreError> {
        let mut stripped = Vec::new();
        for event_type in STRIPPED_TYPES {
            let Some(event) = self.get_from_root(root, event_type, "")? else { continue };
            let raw = if *event_type == StateEventType::RoomCreate {
                of_create(&event.pdu)
            } else {
                event.pdu.to_stripped().ok()
            };
            stripped.extend(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()));
        }
        Ok(stripped)
    }
}

//! Policy servers: a server that a room has chosen to look at every event before the others take it in.
//!
//! Its word is a signature on the event, under a key that the room's state names. Events of this server's users are not sent without it;
//! events of others soft-fail without it. This server is no policy server itself: a room that names it as its own has none here.
//! Asking is done while no lock for writing is held.
//!
//! Spec: Server-Server API, Policy servers.

use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::{json, pdu::Pdu, verify};
use chappe_store::{Ticket, tables::events::SentBy};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;

use crate::{
    EventDraft, RemoteError, Room, RoomError, Rooms, Sent,
    remote::Urgency,
    staging::{Relay, Staging},
};

/// The id of the key that policy servers sign with, always.
const KEY_ID: &str = "ed25519:policy_server";
const EVENT_TYPE: &str = "m.room.policy";

/// How often an event is built anew because another came in while its policy server was asked.
const ATTEMPTS_MAX: usize = 3;

/// A room's policy server.
#[derive(Clone, Debug)]
pub(crate) struct PolicyServer {
    server: OwnedServerName,
    public_key: String,
}

#[derive(Deserialize)]
struct PolicyContent {
    via: OwnedServerName,
    public_keys: BTreeMap<String, String>,
}

/// What sets the policy server is not for the policy server to judge.
fn is_exempt(kind: &TimelineEventType, state_key: Option<&str>) -> bool {
    kind.to_string() == EVENT_TYPE && state_key == Some("")
}

impl PolicyServer {
    fn has_signed(&self, pdu: &Pdu, rules: &RoomVersionRules) -> bool {
        pdu.object().is_ok_and(|event| {
            verify::is_event_signed_with(&event, rules, self.server.as_str(), KEY_ID, &self.public_key)
        })
    }
}

impl Rooms {
    /// The policy server that the room's current state names, if it is in the room.
    fn get_policy_server(&self, room: &Room) -> Result<Option<PolicyServer>, RoomError> {
        let content = self.get_state_content::<PolicyContent>(room.nid, &StateEventType::from(EVENT_TYPE), "")?;
        let Some(PolicyContent { via: server, mut public_keys }) = content else { return Ok(None) };
        let Some(public_key) = public_keys.remove("ed25519") else { return Ok(None) };
        let is_used = server != self.server_name && self.is_server_joined(room.nid, &server)?;
        Ok(is_used.then_some(PolicyServer { server, public_key }))
    }

    /// Who must sign an event that a local user is about to send.
    pub(crate) fn get_policy_server_for(
        &self,
        room: &Room,
        kind: &TimelineEventType,
        state_key: Option<&str>,
    ) -> Result<Option<PolicyServer>, RoomError> {
        if is_exempt(kind, state_key) { Ok(None) } else { self.get_policy_server(room) }
    }

    /// The event with its policy server's signature.
    ///
    /// # Errors
    /// What the policy server answers, or that it could not be asked.
    pub(crate) async fn fetch_policy_signature(
        &self,
        policy: &PolicyServer,
        pdu: &Pdu,
        rules: &RoomVersionRules,
        urgency: Urgency,
    ) -> Result<Arc<Pdu>, RoomError> {
        if !self.gate.is_allowed(&policy.server) {
            return Err(RemoteError::Denied(policy.server.clone()).into());
        }
        let raw = pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        let answer = self.remote.fetch_policy_signature(&policy.server, raw, urgency).await?;
        let refuse = |what: &str| RemoteError::Unreachable(format!("{}: {what}", policy.server));
        let answer = json::parse_strict(answer.get()).map_err(|error| refuse(&error.to_string()))?;
        let signature = match answer.get(policy.server.as_str()) {
            Some(CanonicalJsonValue::Object(signatures)) => signatures.get(KEY_ID).cloned(),
            _ => None,
        };
        let signature = signature.ok_or_else(|| refuse("the event was not signed"))?;
        let mut object = pdu.object().map_err(|error| RoomError::broken(error.to_string()))?;
        if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut("signatures") {
            let by_policy = signatures
                .entry(policy.server.to_string())
                .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
            if let CanonicalJsonValue::Object(by_policy) = by_policy {
                by_policy.insert(KEY_ID.to_owned(), signature);
            }
        }
        let signed = Pdu::from_object(object, rules).map_err(|error| refuse(&error.to_string()))?;
        if !policy.has_signed(&signed, rules) {
            return Err(refuse("the signature is not of the key that the room names").into());
        }
        Ok(Arc::new(signed))
    }

    /// Sends a local user's event with the policy server's signature on it.
    pub(crate) async fn enqueue_recommended(
        &self,
        policy: &PolicyServer,
        sender: &UserId,
        room_id: &RoomId,
        draft: EventDraft,
    ) -> Result<(Sent, Option<Ticket>), RoomError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (pdu, rules) = {
                let _writing = self.locks.write(room_id).await;
                if let Some(event_id) = self.get_transaction(sender, room_id, draft.transaction.as_ref())? {
                    return Ok((Sent { event_id }, None));
                }
                let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
                staging.resolve_named_state()?;
                if let Some(event_id) = staging.equal_state_event(sender, &draft)? {
                    return Ok((Sent { event_id }, None));
                }
                (staging.prepare_own(sender, &draft)?, staging.room.rules.clone())
            };
            let pdu = self.fetch_policy_signature(policy, &pdu, &rules, Urgency::User).await?;

            let _writing = self.locks.write(room_id).await;
            if let Some(event_id) = self.get_transaction(sender, room_id, draft.transaction.as_ref())? {
                return Ok((Sent { event_id }, None));
            }
            let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
            if !staging.is_at_the_end(&pdu) && attempt < ATTEMPTS_MAX {
                continue;
            }
            staging.check_against_current_state(&pdu)?;
            let sent_by = draft.transaction.as_ref().map(|transaction| SentBy {
                device_id: transaction.device_id.to_string(),
                transaction_id: transaction.id.to_string(),
            });
            let event = staging.append_after(pdu, Relay::Everyone, sent_by)?;
            staging.remember_transaction(sender, draft.transaction.as_ref(), &event.pdu.event_id);
            return Ok((Sent { event_id: event.pdu.event_id.clone() }, Some(staging.enqueue()?)));
        }
    }

    /// A received event, with the policy server's signature where it came without and could be had; and why it is not recommended, if
    /// it is not.
    pub(crate) async fn check_recommended(
        &self,
        room: &Room,
        pdu: Arc<Pdu>,
    ) -> Result<(Arc<Pdu>, Option<String>), RoomError> {
        let Some(policy) = self.get_policy_server_for(room, &pdu.kind, pdu.state_key())? else {
            return Ok((pdu, None));
        };
        if policy.has_signed(&pdu, &room.rules) {
            return Ok((pdu, None));
        }
        match self.fetch_policy_signature(&policy, &pdu, &room.rules, Urgency::Background).await {
            Ok(signed) => Ok((signed, None)),
            Err(RoomError::Remote(error)) => Ok((pdu, Some(error.to_string()))),
            Err(error) => Err(error),
        }
    }
}

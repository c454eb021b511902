//! What is checked of an event as such, whatever the state of its room: format, sender's server, signatures, content hash.

use std::sync::Arc;

use chappe_protocol::{
    json,
    pdu::Pdu,
    redact,
    sign::{self, Verified},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, RoomId, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{RemoteError, Room, RoomError, Rooms};

impl Rooms {
    /// Format, sender's server, signatures and content hash of an event said to be of this room.
    pub(crate) async fn check_pdu(&self, room: &Room, raw: &RawJsonValue) -> Result<Arc<Pdu>, RoomError> {
        let object = json::parse_strict(raw.get()).map_err(|error| RoomError::BadJson(error.to_string()))?;
        self.check_object(&room.id, &room.rules, object).await
    }

    pub(crate) async fn check_object(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        mut object: CanonicalJsonObject,
    ) -> Result<Arc<Pdu>, RoomError> {
        object.remove("unsigned");
        let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        if pdu.room_id != room_id {
            return Err(RoomError::Invalid(format!("Event {} is of another room", pdu.event_id)));
        }
        if !self.gate.is_allowed(pdu.sender.server_name()) {
            return Err(RemoteError::Denied(pdu.sender.server_name().to_owned()).into());
        }
        match self.verify(&object, rules).await? {
            Verified::All => Ok(Arc::new(pdu)),
            Verified::Signatures => Ok(Arc::new(redacted(object, rules)?.1)),
        }
    }

    /// Verifies the signatures an event needs. Where its content hash does not fit, what comes back is its redacted form.
    pub(crate) async fn check_signatures(
        &self,
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<(CanonicalJsonObject, Pdu), RoomError> {
        object.remove("unsigned");
        if self.verify(&object, rules).await? == Verified::Signatures {
            return redacted(object, rules);
        }
        let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        Ok((object, pdu))
    }

    async fn verify(&self, object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Verified, RoomError> {
        let sent_at = match object.get("origin_server_ts") {
            Some(CanonicalJsonValue::Integer(sent_at)) => u64::try_from(i64::from(*sent_at)).unwrap_or(0),
            _ => return Err(RoomError::BadJson("The event has no origin_server_ts".to_owned())),
        };
        let sent_at = MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(sent_at));
        let keys = self.remote.fetch_keys_for_event(object, rules, sent_at).await?;
        sign::verify_event(object, rules, &keys).map_err(|error| RoomError::Forbidden(format!("Signatures: {error}")))
    }
}

fn redacted(object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<(CanonicalJsonObject, Pdu), RoomError> {
    let object = redact::redact_object(object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
    let pdu = Pdu::from_signed(&object, rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
    Ok((object, pdu))
}

//! Invites of people who were known by an email address or telephone number: an identity server vouches for who they turned out to be.
//!
//! Nobody is invited by such an address here, as that needs an identity server; this is what follows: a local user, or another server
//! for one of its users, comes with the identity server's word, and is given the invite.
//!
//! Spec: Server-Server API, Third-party invites.

use chappe_protocol::third_party;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, RoomId, ServerName, UserId, events::StateEventType};
use serde_json::Value as JsonValue;

use crate::{
    Room, RoomError, Rooms,
    membership::{MemberProfile, member_draft},
};

/// An identity server's word that a user is the one who was invited, as it was given.
#[derive(Clone, Debug)]
pub struct ThirdPartySigned {
    /// Who invited them.
    pub sender: OwnedUserId,
    pub mxid: OwnedUserId,
    token: String,
    object: CanonicalJsonObject,
}

impl ThirdPartySigned {
    /// `sender`: where it is told beside the signed object, and not in it.
    pub fn read(object: CanonicalJsonObject, sender: Option<OwnedUserId>) -> Result<Self, RoomError> {
        let text = |field: &str| {
            let value = object.get(field).and_then(CanonicalJsonValue::as_str);
            value.ok_or_else(|| RoomError::BadJson(format!("The signed invite has no {field}")))
        };
        let user = |field: &str| {
            UserId::parse(text(field)?).map_err(|_| RoomError::BadJson(format!("{field} is not a user id")))
        };
        if !matches!(object.get("signatures"), Some(CanonicalJsonValue::Object(_))) {
            return Err(RoomError::BadJson("The signed invite has no signatures".to_owned()));
        }
        let sender = match sender {
            Some(sender) => sender,
            None => user("sender")?,
        };
        Ok(Self { sender, mxid: user("mxid")?, token: text("token")?.to_owned(), object })
    }
}

impl Rooms {
    /// Gets a local user the invite that an identity server vouches for: makes it where this server is in the room, and has it made by the
    /// server of who invited where it is not.
    pub async fn accept_third_party_invite(
        &self,
        user: &UserId,
        room_id: &RoomId,
        signed: &ThirdPartySigned,
    ) -> Result<(), RoomError> {
        if signed.mxid != user {
            return Err(RoomError::Forbidden("The invite is for another user".to_owned()));
        }
        let resident = match self.get_room(room_id)? {
            Some(room) if self.is_server_joined(room.nid, &self.server_name)? => Some(room),
            _ => None,
        };
        if let Some(room) = resident {
            return self.issue_third_party_invite(&room, signed).await;
        }
        let server = signed.sender.server_name();
        if !self.gate.is_allowed(server) || server == self.server_name {
            return Err(RoomError::Forbidden(format!("The room cannot be reached through {server}")));
        }
        let content = invite_content(signed, None);
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let event = CanonicalJsonObject::from([
            ("type".to_owned(), text("m.room.member")),
            ("room_id".to_owned(), text(room_id.as_str())),
            ("sender".to_owned(), text(signed.sender.as_str())),
            ("state_key".to_owned(), text(user.as_str())),
            ("content".to_owned(), CanonicalJsonValue::Object(content)),
        ]);
        Ok(self.remote.exchange_third_party_invite(server, room_id, event).await?)
    }

    /// Invites another server's user on the word of an identity server.
    ///
    /// Spec: Server-Server API, `PUT /exchange_third_party_invite/{roomId}`.
    pub async fn receive_third_party_exchange(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        target: &UserId,
        signed: &ThirdPartySigned,
    ) -> Result<(), RoomError> {
        let room = self.require_resident_room(origin, room_id)?;
        if target.server_name() != origin || signed.mxid != target {
            return Err(RoomError::Forbidden("The invite is not for a user of your server".to_owned()));
        }
        if !self.is_local(&signed.sender) {
            return Err(RoomError::Forbidden("The invite was not sent by a user of this server".to_owned()));
        }
        self.issue_third_party_invite(&room, signed).await
    }

    async fn issue_third_party_invite(&self, room: &Room, signed: &ThirdPartySigned) -> Result<(), RoomError> {
        let target = &signed.mxid;
        if matches!(self.get_membership(room.nid, target)?.as_str(), "join" | "invite") {
            return Ok(self.store.barrier().await?);
        }
        let invited = self.get_state_event(room.nid, &StateEventType::RoomThirdPartyInvite, &signed.token)?;
        let invited: JsonValue = invited
            .and_then(|event| event.pdu.get_content().ok())
            .ok_or_else(|| RoomError::Forbidden("There is no such third-party invite in the room".to_owned()))?;
        self.check_keys(&invited, signed).await?;
        let draft =
            member_draft(target, invite_content(signed, invited.get("display_name").and_then(JsonValue::as_str)));
        if self.is_local(target) {
            return self.send(&signed.sender, &room.id, draft).await.map(|_| ());
        }
        self.invite_remote(&signed.sender, &room.id, target, draft).await
    }

    /// That one of the keys it was signed with still counts is for this server to ask, and nobody else: the others must come to the same
    /// judgement whatever they can reach.
    async fn check_keys(&self, invited: &JsonValue, signed: &ThirdPartySigned) -> Result<(), RoomError> {
        for key in third_party::signing_keys(invited, &signed.object) {
            let Some(url) = &key.key_validity_url else { return Ok(()) };
            match self.remote.check_key_validity(url, &key.public_key).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => tracing::info!(%error, url, "validity of an identity server's key could not be asked"),
            }
        }
        Err(RoomError::Forbidden(
            "The invite is not signed with a key of the third-party invite that is valid".to_owned(),
        ))
    }
}

fn invite_content(signed: &ThirdPartySigned, display_name: Option<&str>) -> CanonicalJsonObject {
    let mut invite =
        CanonicalJsonObject::from([("signed".to_owned(), CanonicalJsonValue::Object(signed.object.clone()))]);
    invite.insert("display_name".to_owned(), CanonicalJsonValue::String(display_name.unwrap_or_default().to_owned()));
    let mut content = MemberProfile::default().content("invite");
    content.insert("third_party_invite".to_owned(), CanonicalJsonValue::Object(invite));
    content
}

//! PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey} (client-server API, "Sending events to a room").

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chappe_rooms::{
    EventDraft, Rooms,
    membership::{JoinContent, MemberProfile},
    send::canonical_content,
};
use chappe_services::{
    accounts::{Accounts, Session},
    delayed_events::DelayedEvents,
    directory::Directory,
    profile::Profiles,
    server_notices::ServerNotices,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, RoomId, UserId,
    api::client::{
        delayed_events::send_delayed_event,
        state::send_state_event::{self, v3::Request},
    },
    events::{StateEventType, room::member::MembershipState},
};

use super::state_content::check_content;
use crate::{
    client::{
        delayed_event::Delay,
        membership::target::{member_profile, require_known},
        message::send::sent_at_ms,
    },
    error::ApiError,
    extract::{Authenticated, Ruma, RumaResponse},
};

pub async fn handle(
    State(rooms): State<Rooms>,
    State(directory): State<Arc<Directory>>,
    State(profiles): State<Arc<Profiles>>,
    State(delayed): State<Arc<DelayedEvents>>,
    State(accounts): State<Arc<Accounts>>,
    State(notices): State<Arc<ServerNotices>>,
    Authenticated(session): Authenticated,
    Delay(delay): Delay,
    Ruma(request): Ruma<Request>,
) -> Result<Response, ApiError> {
    let content = canonical_content(request.body.json().get())?;
    if is_own_leave(&session, &request, &content) {
        notices.check_may_leave(&session.user_id, &request.room_id)?;
    } else if accounts.is_suspended(&session.user_id)? {
        return Err(ApiError::user_suspended());
    }
    let sent_at_ms = sent_at_ms(&session, request.timestamp);
    if delay.is_none() && request.event_type == StateEventType::RoomMember {
        let member =
            Member { rooms: &rooms, profiles: &profiles, session: &session, room_id: &request.room_id, sent_at_ms };
        let event_id = member.set(&request.state_key, content).await?;
        return Ok(RumaResponse(send_state_event::v3::Response::new(event_id)).into_response());
    }
    require_known(&rooms, &request.room_id)?;
    check_content(&rooms, &directory, &request.room_id, &request.event_type, &request.state_key, &content).await?;
    let mut draft = EventDraft::state(request.event_type.to_string(), request.state_key, content);
    draft.sent_at_ms = sent_at_ms;
    if let Some(delay) = delay {
        let delay_id = delayed.schedule(&session, &request.room_id, draft, delay).await?;
        return Ok(RumaResponse(send_delayed_event::unstable::Response::new(delay_id)).into_response());
    }
    let sent = rooms.send(&session.user_id, &request.room_id, draft).await?;
    Ok(RumaResponse(send_state_event::v3::Response::new(sent.event_id)).into_response())
}

fn is_own_leave(session: &Session, request: &Request, content: &CanonicalJsonObject) -> bool {
    request.event_type == StateEventType::RoomMember
        && request.state_key == session.user_id.as_str()
        && content.get("membership").and_then(CanonicalJsonValue::as_str) == Some("leave")
}

/// A change of membership that comes as a state event. It takes the way of the endpoint that is made for it where other servers
/// may have to take part.
struct Member<'a> {
    rooms: &'a Rooms,
    profiles: &'a Profiles,
    session: &'a Session,
    room_id: &'a RoomId,
    sent_at_ms: Option<u64>,
}

impl Member<'_> {
    async fn set(&self, state_key: &str, mut content: CanonicalJsonObject) -> Result<OwnedEventId, ApiError> {
        let Self { rooms, session, room_id, .. } = *self;
        let sender = &session.user_id;
        let target = UserId::parse(state_key).map_err(|_| ApiError::invalid_param("The state key is not a user id"))?;
        let membership = content.get("membership").and_then(CanonicalJsonValue::as_str);
        let membership =
            MembershipState::from(membership.ok_or_else(|| ApiError::bad_json("The content has no membership"))?);
        let is_own = target == *sender;
        // Whom a restricted join is authorised by is for the server to say.
        if !is_own || membership == MembershipState::Join {
            content.remove("join_authorised_via_users_server");
        }
        let room = rooms.get_room(room_id)?;
        let (is_resident, is_joined) = match &room {
            Some(room) => (rooms.is_server_joined(room.nid, rooms.server_name())?, rooms.is_joined(room.nid, sender)?),
            None => (false, false),
        };
        let reason = text(&content, "reason");
        match membership {
            MembershipState::Join if is_own && !is_joined => {
                content.remove("reason");
                let profile = member_profile(self.profiles, sender)?;
                rooms.join_with(sender, room_id, &[], &JoinContent { profile, reason, extra: content }).await?;
            }
            MembershipState::Join if is_own => {
                let profile = self.profile(&content)?;
                for (field, value) in [("displayname", profile.display_name), ("avatar_url", profile.avatar_url)] {
                    if let Some(value) = value {
                        content.entry(field.to_owned()).or_insert(CanonicalJsonValue::String(value));
                    }
                }
                return self.send(&target, content).await;
            }
            MembershipState::Leave if is_own && !is_resident => rooms.leave(sender, room_id, reason).await?,
            MembershipState::Knock if is_own && !is_resident => {
                rooms.knock(sender, room_id, &[], &self.profile(&content)?, reason).await?;
            }
            MembershipState::Invite if target.server_name() != rooms.server_name() => {
                require_known(rooms, room_id)?;
                rooms.invite_with_content(sender, room_id, &target, content).await?;
            }
            MembershipState::Join
            | MembershipState::Leave
            | MembershipState::Knock
            | MembershipState::Invite
            | MembershipState::Ban => {
                require_known(rooms, room_id)?;
                return self.send(&target, content).await;
            }
            _ => return Err(ApiError::bad_json("There is no such membership")),
        }
        // What the endpoints' ways have made of it.
        let nid = rooms.get_room_nid(room_id)?.ok_or_else(|| ApiError::forbidden("You are not in this room"))?;
        let member = rooms.get_member(nid, &target)?;
        member
            .map(|member| member.value.event_id)
            .ok_or_else(|| ApiError::internal("a membership that was just set is not there"))
    }

    async fn send(&self, target: &UserId, content: CanonicalJsonObject) -> Result<OwnedEventId, ApiError> {
        let mut draft = EventDraft::state(StateEventType::RoomMember.to_string(), target.as_str(), content);
        draft.sent_at_ms = self.sent_at_ms;
        Ok(self.rooms.send(&self.session.user_id, self.room_id, draft).await?.event_id)
    }

    /// As the content has it, and as the user's profile has it where the content says nothing.
    fn profile(&self, content: &CanonicalJsonObject) -> Result<MemberProfile, ApiError> {
        let profile = member_profile(self.profiles, &self.session.user_id)?;
        Ok(MemberProfile {
            display_name: if content.contains_key("displayname") {
                text(content, "displayname")
            } else {
                profile.display_name
            },
            avatar_url: if content.contains_key("avatar_url") {
                text(content, "avatar_url")
            } else {
                profile.avatar_url
            },
        })
    }
}

fn text(content: &CanonicalJsonObject, field: &str) -> Option<String> {
    content.get(field).and_then(CanonicalJsonValue::as_str).map(str::to_owned)
}

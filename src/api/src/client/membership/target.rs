//! Bodies that name a user and a reason, and what the endpoints of memberships check in common.

use chappe_rooms::{Rooms, membership::MemberProfile, send::canonical_content, third_party::ThirdPartySigned};
use chappe_services::profile::Profiles;
use http::StatusCode;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, RoomId, UserId, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::error::ApiError;

/// The body of what one user does to another.
#[derive(Deserialize)]
pub struct TargetBody {
    user_id: Option<String>,
    #[serde(default)]
    pub reason: Option<String>,
}

impl TargetBody {
    pub fn target(&self) -> Result<OwnedUserId, ApiError> {
        let user_id = self.user_id.as_deref().ok_or_else(|| ApiError::missing_param("The body has no user_id"))?;
        UserId::parse(user_id).map_err(|_| ApiError::invalid_param("The user_id is not a user id"))
    }
}

/// The body of what a user does alone.
#[derive(Deserialize)]
pub struct ReasonBody {
    #[serde(default)]
    pub reason: Option<String>,
}

/// The body of a join: a reason, an invite that an identity server vouches for, and what else shall be in the join event.
pub struct JoinBody {
    pub reason: Option<String>,
    pub third_party_signed: Option<ThirdPartySigned>,
    pub extra: CanonicalJsonObject,
}

impl JoinBody {
    pub fn read(body: &RawJsonValue) -> Result<Self, ApiError> {
        let mut extra = canonical_content(body.get())?;
        let reason = match extra.remove("reason") {
            None | Some(CanonicalJsonValue::Null) => None,
            Some(CanonicalJsonValue::String(reason)) => Some(reason),
            Some(_) => return Err(ApiError::bad_json("The reason is not a string")),
        };
        let third_party_signed = match extra.remove("third_party_signed") {
            None | Some(CanonicalJsonValue::Null) => None,
            Some(CanonicalJsonValue::Object(signed)) => Some(ThirdPartySigned::read(signed, None)?),
            Some(_) => return Err(ApiError::bad_json("third_party_signed is not an object")),
        };
        Ok(Self { reason, third_party_signed, extra })
    }
}

/// How the user shows in member events.
pub(crate) fn member_profile(profiles: &Profiles, user: &UserId) -> Result<MemberProfile, ApiError> {
    let (display_name, avatar_url) = profiles.get_membership_profile(user)?;
    Ok(MemberProfile { display_name, avatar_url })
}

/// Rooms that are not known here are answered like rooms that the user is not in.
pub(crate) fn require_known(rooms: &Rooms, room_id: &RoomId) -> Result<(), ApiError> {
    if rooms.get_room(room_id)?.is_some() { Ok(()) } else { Err(ApiError::forbidden("You are not in this room")) }
}

/// Invites by a third-party identifier need an identity server, which this server does not talk to.
pub(crate) fn third_party_denied() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        ErrorCode::ThreepidDenied,
        "This server does not invite by email address or telephone number",
    )
}

//! POST /_matrix/client/v3/createRoom (client-server API, "Creation").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{
    EventDraft, Rooms,
    create::{CreateRoom, Preset},
    send::canonical_content,
};
use chappe_services::{app_services::client::AppServices, profile::Profiles};
use ruma::{
    CanonicalJsonObject, RoomAliasId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, Response, RoomPreset},
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    client::{
        directory::set_alias::check_alias_owner,
        membership::target::{member_profile, third_party_denied},
    },
    error::ApiError,
    extract::{Active, Ruma, RumaResponse, User},
};

/// The most users one request may invite.
const INVITES_MAX: usize = 1_000;

pub async fn handle(
    State(rooms): State<Rooms>,
    State(profiles): State<Arc<Profiles>>,
    State(app_services): State<AppServices>,
    Active(User(session)): Active<User>,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if !request.invite_3pid.is_empty() {
        return Err(third_party_denied());
    }
    if request.invite.len() > INVITES_MAX {
        return Err(ApiError::invalid_param("Too many users to invite at once"));
    }
    if let Some(localpart) = &request.room_alias_name
        && let Ok(alias) = RoomAliasId::parse(format!("#{localpart}:{}", rooms.server_name()))
    {
        check_alias_owner(&app_services, &session, &alias)?;
    }
    let mut invite = request.invite;
    invite.sort_unstable();
    invite.dedup();
    invite.retain(|user| *user != session.user_id);
    let initial_state =
        request.initial_state.iter().map(|event| state_draft(event.json())).collect::<Result<_, _>>()?;
    let room = CreateRoom {
        version: request.room_version,
        preset: preset(request.preset.as_ref(), &request.visibility)?,
        is_listed: request.visibility == Visibility::Public,
        name: request.name,
        topic: request.topic,
        alias_localpart: request.room_alias_name,
        invite,
        is_direct: request.is_direct,
        creation_content: object(request.creation_content.as_ref())?,
        initial_state,
        power_level_override: object(request.power_level_content_override.as_ref())?,
        profile: member_profile(&profiles, &session.user_id)?,
    };
    let room_id = rooms.create_room(&session.user_id, room).await?;
    Ok(RumaResponse(Response::new(room_id)))
}

/// Without a preset, the visibility says what the room is like.
fn preset(preset: Option<&RoomPreset>, visibility: &Visibility) -> Result<Preset, ApiError> {
    match preset {
        None if *visibility == Visibility::Public => Ok(Preset::PublicChat),
        None | Some(RoomPreset::PrivateChat) => Ok(Preset::PrivateChat),
        Some(RoomPreset::PublicChat) => Ok(Preset::PublicChat),
        Some(RoomPreset::TrustedPrivateChat) => Ok(Preset::TrustedPrivateChat),
        Some(_) => Err(ApiError::bad_json("There is no such preset")),
    }
}

fn object<T>(raw: Option<&Raw<T>>) -> Result<CanonicalJsonObject, ApiError> {
    Ok(raw.map(|raw| canonical_content(raw.json().get())).transpose()?.unwrap_or_default())
}

fn state_draft(event: &RawJsonValue) -> Result<EventDraft, ApiError> {
    #[derive(Deserialize)]
    struct InitialState<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        #[serde(borrow)]
        content: &'a RawJsonValue,
    }
    let event: InitialState<'_> =
        serde_json::from_str(event.get()).map_err(|error| ApiError::bad_json(format!("initial_state: {error}")))?;
    Ok(EventDraft::state(event.kind, event.state_key, canonical_content(event.content.get())?))
}

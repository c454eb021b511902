//! PUT /_matrix/federation/v1/3pid/onbind
//!
//! Not signed: it comes from an identity server. What it says is believed only as far as the rooms' own state bears it out.
//!
//! Spec: Server-Server API, Third-party invites.

use std::sync::Arc;

use axum::{Json, extract::State};
use chappe_rooms::{Rooms, send::canonical_content, third_party::ThirdPartySigned};
use chappe_services::accounts::Accounts;
use ruma::api::federation::thirdparty::bind_callback::v1::{Request, ThirdPartyInvite};
use serde_json::{Value as JsonValue, json};

use crate::{error::ApiError, extract::Ruma};

/// How many invites one request may bring.
const INVITES_MAX: usize = 50;

pub async fn third_party_bound(
    State(rooms): State<Rooms>,
    State(accounts): State<Arc<Accounts>>,
    Ruma(request): Ruma<Request>,
) -> Result<Json<JsonValue>, ApiError> {
    if request.invites.len() > INVITES_MAX {
        return Err(ApiError::invalid_param("Too many invites at once"));
    }
    if !accounts.is_local(&request.mxid) || accounts.get_account(&request.mxid)?.is_none() {
        return Err(ApiError::not_found("There is no such user"));
    }
    for invite in request.invites.iter().filter(|invite| invite.mxid == request.mxid) {
        if let Err(error) = accept(&rooms, invite).await {
            tracing::info!(%error, room.id = %invite.room_id, user.id = %invite.mxid, "third-party invite of no use");
        }
    }
    Ok(Json(json!({})))
}

async fn accept(rooms: &Rooms, invite: &ThirdPartyInvite) -> Result<(), ApiError> {
    let signed = ThirdPartySigned::read(canonical_content(invite.signed.json().get())?, Some(invite.sender.clone()))?;
    Ok(rooms.accept_third_party_invite(&invite.mxid, &invite.room_id, &signed).await?)
}

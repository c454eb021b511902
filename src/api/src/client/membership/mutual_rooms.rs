//! GET /_matrix/client/v1/mutual_rooms (client-server API, "Mutual Rooms").

use axum::extract::State;
use chappe_rooms::Rooms;
use ruma::{
    RoomId, UInt,
    api::client::membership::get_mutual_rooms::v1::{Request, Response},
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

/// The most rooms in one answer.
const PAGE_ROOMS_MAX: usize = 500;

pub async fn handle(
    State(rooms): State<Rooms>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.user_id == session.user_id {
        return Err(ApiError::invalid_param("The user is yourself"));
    }
    let from = request.from.map(RoomId::parse).transpose();
    let from = from.map_err(|_| ApiError::invalid_param("Invalid pagination token"))?;
    let mutual = rooms.get_mutual_rooms(&session.user_id, &request.user_id)?;
    let count = UInt::try_from(mutual.len()).unwrap_or(UInt::MAX);
    // The token is the last room of the page before.
    let mut page = mutual.into_iter().filter(|room| from.as_ref().is_none_or(|from| room > from));
    let joined: Vec<_> = page.by_ref().take(PAGE_ROOMS_MAX).collect();
    let next_batch = page.next().and(joined.last()).map(ToString::to_string);
    let mut response = Response::new(count, joined);
    response.next_batch = next_batch;
    Ok(RumaResponse(response))
}

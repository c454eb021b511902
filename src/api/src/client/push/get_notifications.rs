//! GET /_matrix/client/v3/notifications (client-server API, "Listing Notifications").

use std::sync::Arc;

use axum::extract::State;
use chappe_rooms::{Rooms, client_event::Viewer};
use chappe_services::push::notifications::{self as listing, Notifications, PAGE_MAX, PageQuery};
use ruma::{
    api::client::push::get_notifications::v3::{Notification, Request, Response},
    serde::Raw,
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

/// How many notifications a page has when the client does not say.
const LIMIT_DEFAULT: usize = 20;

pub async fn handle(
    State(notifications): State<Arc<Notifications>>,
    State(rooms): State<Rooms>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let before = request.from.as_deref().map(listing::parse_token).transpose();
    let before = before.map_err(|error| ApiError::invalid_param(error.to_string()))?;
    let limit = request.limit.map_or(LIMIT_DEFAULT, |limit| usize::try_from(limit).unwrap_or(PAGE_MAX));
    let page = notifications
        .get_page(PageQuery {
            user_id: session.user_id.clone(),
            before,
            limit: limit.clamp(1, PAGE_MAX),
            only_highlights: request.only.as_deref() == Some("highlight"),
        })
        .await?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let mut shown = Vec::new();
    for notification in page.notifications {
        let event = &notification.event;
        let raw = Raw::from_json(rooms.to_client(event, Some(viewer), true)?);
        let (room_id, ts) = (event.pdu.room_id.to_owned(), event.pdu.origin_server_ts);
        shown.push(Notification::new(notification.actions, raw, notification.is_read, room_id, ts));
    }
    let mut response = Response::new(shown);
    response.next_token = page.next.map(|next| next.to_string());
    Ok(RumaResponse(response))
}

//! PUT /_matrix/client/v3/directory/list/appservice/{networkId}/{roomId} (application service API, "Published room directories").

use axum::extract::State;
use chappe_services::app_services::client::AppServices;
use ruma::api::client::{
    appservice::set_room_visibility::v3::{Request, Response},
    room::Visibility,
};

use crate::{
    error::ApiError,
    extract::{AppService, Ruma, RumaResponse},
};

pub async fn handle(
    State(app_services): State<AppServices>,
    AppService(service): AppService,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let is_listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(ApiError::invalid_param("The visibility is neither public nor private")),
    };
    app_services.set_network_room(&service, &request.network_id, &request.room_id, is_listed).await?;
    Ok(RumaResponse(Response::new()))
}

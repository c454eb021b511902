//! GET /_matrix/client/v3/admin/whois/{userId} (client-server API, "Server Administration").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use chappe_services::{
    accounts::Accounts,
    devices::{Device, Devices},
};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::admin::get_user_info::v3::{ConnectionInfo, DeviceInfo, Request, Response, SessionInfo},
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(accounts): State<Arc<Accounts>>,
    State(devices): State<Arc<Devices>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if !session.is_admin && session.user_id != request.user_id {
        return Err(ApiError::forbidden("Only administrators of this server may look at others"));
    }
    if accounts.get_account(&request.user_id)?.is_none() {
        return Err(ApiError::not_found("There is no such account"));
    }
    let devices = devices.scan_devices(&request.user_id)?;
    let mut response = Response::new();
    response.user_id = Some(request.user_id);
    response.devices = devices.into_iter().map(info).collect::<BTreeMap<_, _>>();
    Ok(RumaResponse(response))
}

fn info(device: Device) -> (String, DeviceInfo) {
    let mut connection = ConnectionInfo::new();
    connection.ip = device.last_seen_address;
    let seen_at = device.last_seen_at_ms.and_then(|at_ms| UInt::try_from(at_ms).ok());
    connection.last_seen = seen_at.map(MilliSecondsSinceUnixEpoch);
    let mut session = SessionInfo::new();
    session.connections.push(connection);
    let mut info = DeviceInfo::new();
    info.sessions.push(session);
    (device.device_id.to_string(), info)
}

//! PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device (MSC3814, "Uploading a dehydrated device").

use std::sync::Arc;

use axum::extract::State;
use chappe_protocol::clock::Clock;
use chappe_services::keys::{DeviceKeysUpload, Keys, NewDehydratedDevice};
use ruma::api::client::dehydrated_device::put_dehydrated_device::unstable::{Request, Response};
use serde_json::{Map, Value as JsonValue};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(keys): State<Keys>,
    State(clock): State<Arc<dyn Clock>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let Request {
        device_id, initial_device_display_name, device_data, device_keys, one_time_keys, fallback_keys, ..
    } = request;
    // What else stands there is the client's.
    let data: Map<String, JsonValue> =
        device_data.deserialize_as_unchecked().map_err(|error| ApiError::bad_json(error.to_string()))?;
    if !data.get("algorithm").is_some_and(JsonValue::is_string) {
        return Err(ApiError::bad_json("device_data must have an algorithm"));
    }
    let device = NewDehydratedDevice {
        device_id,
        display_name: initial_device_display_name,
        data: device_data.json().get().to_owned(),
        keys: DeviceKeysUpload { device_keys: Some(device_keys), one_time_keys, fallback_keys },
    };
    keys.put_dehydrated_device(&session.user_id, &device, clock.now_ms()).await?;
    Ok(RumaResponse(Response::new(device.device_id)))
}

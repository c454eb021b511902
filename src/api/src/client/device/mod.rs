//! A user's own devices.

use axum::Router;
use ruma::{MilliSecondsSinceUnixEpoch, UInt, api::client::device as ruma_device};

use crate::{App, route::Endpoints};

mod delete_device;
mod delete_devices;
mod get_device;
mod get_devices;
#[cfg(test)]
mod tests;
mod update_device;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_device::delete_device::v3::Request, _>(delete_device::handle)
        .endpoint::<ruma_device::delete_devices::v3::Request, _>(delete_devices::handle)
        .endpoint::<ruma_device::get_device::v3::Request, _>(get_device::handle)
        .endpoint::<ruma_device::get_devices::v3::Request, _>(get_devices::handle)
        .endpoint::<ruma_device::update_device::v3::Request, _>(update_device::handle)
}

fn to_ruma(device: chappe_services::devices::Device) -> ruma_device::Device {
    let mut shown = ruma_device::Device::new(device.device_id);
    shown.display_name = device.display_name;
    shown.last_seen_ip = device.last_seen_address;
    shown.last_seen_ts = device.last_seen_at_ms.map(|at_ms| MilliSecondsSinceUnixEpoch(UInt::new_saturating(at_ms)));
    shown
}

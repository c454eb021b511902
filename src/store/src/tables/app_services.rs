//! Application services: what is on its way to them, and the rooms of their networks. Written and read by the services'
//! `app_services` module, and read by the directory.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Position, RoomNid},
    record,
    table::Table,
};

/// A transaction that a service has not acknowledged. It is sent again as it is, whatever happens in between.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AppServiceTransaction {
    /// The transaction's id: counted from 1 for each service.
    pub number: u64,
    /// The body, as JSON text.
    pub body: String,
}
record!(AppServiceTransaction, 1);

/// Service -> the one transaction that is on its way to it. Deleted when the service has acknowledged it.
pub const APP_SERVICE_TRANSACTIONS: Table<String, AppServiceTransaction> = Table::new(188, "app_service_transactions");

/// How far a service has been told, beside the events, whose place is in `followers`. Positions as numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AppServicePlaces {
    /// The number of the last transaction.
    pub number: u64,
    /// Messages to its users' devices.
    pub to_device: u64,
    /// Changes of device lists.
    pub device_lists: u64,
    /// Invites and the like in rooms that this server is not in.
    pub out_of_band: u64,
}
record!(AppServicePlaces, 1);

/// Service -> how far it has been told. A row for each service that was ever sent anything.
pub const APP_SERVICE_PLACES: Table<String, AppServicePlaces> = Table::new(189, "app_service_places");

/// Network, room: the rooms that a service lists for a network. The network is named as clients name it: service id, a vertical bar, network id.
pub const NETWORK_ROOMS: Table<(String, RoomNid), ()> = Table::new(190, "network_rooms");

/// Position -> event: membership events of local users in rooms that this server is not in, which are in no timeline. Written by the
/// rooms crate. Grows with each such invite, knock and leave.
pub const OUT_OF_BAND_LOG: Table<Position, EventNid> = Table::new(191, "out_of_band_log");

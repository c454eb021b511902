//! Account data, global and for rooms. Written by the services' account data module; read by it, sync and push.

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{ids::Position, record, record::Stamped, table::Table};

/// User, room id (or "" for global data), type -> content as JSON text, stamped with the position it was written at.
pub const ACCOUNT_DATA: Table<(OwnedUserId, String, String), Stamped<String>> =
    Table::new(110, "account_data").cached();

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountDataChange {
    /// `None`: global.
    pub room_id: Option<OwnedRoomId>,
    pub event_type: String,
}
record!(AccountDataChange, 1);

/// User, position -> what was written then: only the latest write of each piece of data has a row. Read by sync.
pub const ACCOUNT_DATA_LOG: Table<(OwnedUserId, Position), AccountDataChange> = Table::new(111, "account_data_log");

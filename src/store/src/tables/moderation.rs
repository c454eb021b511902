//! What operators do about accounts, and what users tell them. Written and read by the services.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Position, RoomNid},
    record,
    table::Table,
};

/// What an account may not do for the time being.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AccountRestrictionsRecord {
    /// Its tokens open nothing.
    pub locked: bool,
    /// It may read, but not act on others.
    pub suspended: bool,
}
record!(AccountRestrictionsRecord, 1);

/// Local user -> restrictions of the account. No row: there are none.
pub const ACCOUNT_RESTRICTIONS: Table<OwnedUserId, AccountRestrictionsRecord> =
    Table::new(168, "account_restrictions").cached();

/// A complaint. What it is about is kept as text: it need not be known here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportRecord {
    pub at_ms: u64,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub user_id: Option<String>,
    pub reason: String,
}
record!(ReportRecord, 1);

/// Reporting user, position -> report. Bounded for each user: the oldest go.
pub const REPORTS: Table<(OwnedUserId, Position), ReportRecord> = Table::new(169, "reports");

/// Local user -> the room in which the server tells this user things.
pub const SERVER_NOTICE_ROOMS: Table<OwnedUserId, RoomNid> = Table::new(170, "server_notice_rooms");

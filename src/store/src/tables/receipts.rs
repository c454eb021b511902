//! Read receipts, of local users and remote ones. Written by the services' receipts module; read by it, by sync and by push.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Position, RoomNid},
    record,
    record::Stamped,
    table::Table,
};

/// How far a user has read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReceiptRecord {
    /// As it was given: what other servers have receipts for need not be an event id of a room version that is known here.
    pub event_id: String,
    /// When the user's server took it, in milliseconds since the Unix epoch. Remote servers' words are kept as they are.
    pub ts_ms: Option<u64>,
}
record!(ReceiptRecord, 1);

/// Room, user, receipt type (`m.read` or `m.read.private`), thread -> the newest receipt, stamped. The thread is `main`, the id of
/// its root, or empty for an unthreaded receipt.
pub const RECEIPTS: Table<(RoomNid, OwnedUserId, String, String), Stamped<ReceiptRecord>> = Table::new(115, "receipts");

/// The rest of a key of [`RECEIPTS`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReceiptKey {
    pub user_id: OwnedUserId,
    pub receipt_type: String,
    pub thread: String,
}
record!(ReceiptKey, 1);

/// Local user, position -> room: where the user's private receipts of [`RECEIPT_STREAM`] are, which only that user's sync tells of.
pub const PRIVATE_RECEIPTS: Table<(OwnedUserId, Position), RoomNid> = Table::new(147, "private_receipts");

/// Room, position -> the receipt written there: the order in which sync tells of them. A receipt's older row goes when a newer
/// one is written; a reader skips rows whose receipt has moved on.
pub const RECEIPT_STREAM: Table<(RoomNid, Position), ReceiptKey> = Table::new(116, "receipt_stream");

//! The user directory: who can be found by which word. Written and read by the services' user directory only.
//!
//! It follows the event log, and holds users, local and remote, who are joined to a room that this server is in. Whether one user may find
//! another is decided when they search.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{ids::RoomNid, record, table::Table};

/// Word, user: the words of the user's id and of the names that the user has in any room.
pub const DIRECTORY_WORDS: Table<(String, OwnedUserId), ()> = Table::new(164, "directory_words");

/// A user in the directory.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DirectoryUserRecord {
    /// In order.
    pub words: Vec<String>,
}
record!(DirectoryUserRecord, 1);

/// User -> the words under which the user stands in [`DIRECTORY_WORDS`].
pub const DIRECTORY_USERS: Table<OwnedUserId, DirectoryUserRecord> = Table::new(165, "directory_users").cached();

/// User, room: the rooms that a user is joined to, of those that this server is in.
pub const DIRECTORY_MEMBERS: Table<(OwnedUserId, RoomNid), ()> = Table::new(166, "directory_members");

/// Rooms whose members have all been taken in.
pub const DIRECTORY_ROOMS: Table<RoomNid, ()> = Table::new(167, "directory_rooms").cached();

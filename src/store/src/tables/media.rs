//! Media: what is known of each file. The bytes themselves are files under the data directory, named by their hash.
//! Written and read by the services' media module only.

use ruma::{OwnedServerName, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{record, table::Table};

/// One media id: of this server, or of another server's media that this server keeps a copy of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MediaRecord {
    /// Who created it; `None` for another server's media.
    pub uploader: Option<OwnedUserId>,
    /// When it was uploaded, reserved, or fetched: milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When an id without content ceases to be valid: milliseconds since the Unix epoch.
    pub unused_expires_ms: Option<u64>,
    /// Hidden from the old download endpoints that ask for no access token.
    pub authenticated_only: bool,
    /// `None` while the id is only reserved.
    pub content: Option<MediaContent>,
}
record!(MediaRecord, 1);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MediaContent {
    /// SHA-256 of the bytes: the name of the file on disk.
    pub sha256: [u8; 32],
    pub size_bytes: u64,
    /// As the uploader gave them.
    pub content_type: Option<String>,
    pub filename: Option<String>,
}

/// Server, media id -> what is known. The two parts of an `mxc://` URI. A row for each upload and each remote file kept.
pub const MEDIA: Table<(OwnedServerName, String), MediaRecord> = Table::new(100, "media");

/// Hash, server, media id: which media have this content. Equal content is stored once, so its file may go only with the last row.
pub const CONTENT_MEDIA: Table<([u8; 32], OwnedServerName, String), ()> = Table::new(101, "content_media");

/// User, media id -> when it expires, in milliseconds since the Unix epoch: ids reserved and not uploaded to yet. Bounded for
/// each user; rows go with the upload, or when the user next reserves an id after they expired.
pub const PENDING_UPLOADS: Table<(OwnedUserId, String), u64> = Table::new(102, "pending_uploads");

/// User, media id -> bytes: what each local user has uploaded. Read where the operator sets a quota.
pub const USER_MEDIA: Table<(OwnedUserId, String), u64> = Table::new(192, "user_media");

/// Server, media id -> when somebody last asked for it, to the day: milliseconds since the Unix epoch. Written only where the operator
/// has media deleted that nobody asks for.
pub const MEDIA_SEEN: Table<(OwnedServerName, String), u64> = Table::new(193, "media_seen");

/// What is known of a page for those who see a link to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PreviewRecord {
    /// When it is to be fetched again: milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The preview as JSON text.
    pub json: String,
    /// The id of the image that was kept for it.
    pub image: Option<String>,
}
record!(PreviewRecord, 1);

/// SHA-256 of a URL -> its preview. Deleted, with the image, some time after it expired.
pub const PREVIEWS: Table<[u8; 32], PreviewRecord> = Table::new(194, "previews");

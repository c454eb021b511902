//! `[media]`: uploaded files and thumbnails.

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Limits of the media repository.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaSection {
    /// The largest file a user may upload, and the largest fetched from another server.
    pub max_upload_bytes: u64,
    /// Answers the downloads of `/_matrix/media/v3`, which ask for no token.
    pub legacy_unauthenticated: bool,
}

impl Default for MediaSection {
    fn default() -> Self {
        Self { max_upload_bytes: 100 * 1024 * 1024, legacy_unauthenticated: false }
    }
}

impl MediaSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.max_upload_bytes == 0 {
            refusals.add("media.max_upload_bytes", "0", "a number of bytes from 1");
        }
    }
}

//! `[media]`: uploaded files and thumbnails.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Refusals, values};

/// Limits of the media repository.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MediaSection {
    /// The largest file a user may upload, and the largest fetched from another server.
    pub max_upload_bytes: u64,
    /// How much one user may have uploaded in all; 0: any amount.
    pub max_user_bytes: u64,
    /// Days after which a user's upload is deleted that nobody asked for; 0: never.
    pub local_retention_days: u64,
    /// The same for copies of other servers' files.
    pub remote_retention_days: u64,
    /// Answers the downloads of `/_matrix/media/v3`, which ask for no token.
    pub legacy_unauthenticated: bool,
    pub previews: PreviewsSection,
}

/// `[media.previews]`: previews of pages that messages link to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreviewsSection {
    pub enabled: bool,
    /// URLs that may be fetched, with `*` and `?`; empty: all.
    pub allow: Vec<String>,
    /// URLs that may not.
    pub deny: Vec<String>,
    /// Private networks that may be fetched from.
    #[serde(with = "values::networks")]
    pub allow_networks: Vec<IpNet>,
    /// How much of a page is read.
    pub max_page_bytes: usize,
    /// The largest image kept.
    pub max_image_bytes: usize,
    /// How long a preview is used before the page is fetched again.
    pub lifetime_seconds: u64,
}

impl Default for PreviewsSection {
    fn default() -> Self {
        Self {
            enabled: false,
            allow: Vec::new(),
            deny: Vec::new(),
            allow_networks: Vec::new(),
            max_page_bytes: 1024 * 1024,
            max_image_bytes: 10 * 1024 * 1024,
            lifetime_seconds: 3600,
        }
    }
}

impl Default for MediaSection {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            max_user_bytes: 0,
            local_retention_days: 0,
            remote_retention_days: 0,
            legacy_unauthenticated: false,
            previews: PreviewsSection::default(),
        }
    }
}

impl MediaSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.max_upload_bytes == 0 {
            refusals.add("media.max_upload_bytes", "0", "a number of bytes from 1");
        }
        for (key, bytes) in [
            ("media.previews.max_page_bytes", self.previews.max_page_bytes),
            ("media.previews.max_image_bytes", self.previews.max_image_bytes),
        ] {
            if !(1_000..=1 << 30).contains(&bytes) {
                refusals.add(key, bytes.to_string(), "a number of bytes from 1000 to 1073741824");
            }
        }
        if self.previews.lifetime_seconds < 60 {
            let found = self.previews.lifetime_seconds.to_string();
            refusals.add("media.previews.lifetime_seconds", found, "a number of seconds from 60");
        }
    }
}

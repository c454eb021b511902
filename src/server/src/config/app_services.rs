//! `[appservices]`: the application services that act on this server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Where registrations are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AppServicesSection {
    /// Registration files; directories stand for the `.yaml` and `.yml` files in them, and `*` in a file name for anything.
    pub registrations: Vec<PathBuf>,
}

impl AppServicesSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.registrations.iter().any(|path| path.as_os_str().is_empty()) {
            refusals.add("appservices.registrations", "an empty path", "paths of registration files");
        }
    }
}

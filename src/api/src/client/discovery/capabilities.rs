//! GET /_matrix/client/v3/capabilities (client-server API, "Capabilities negotiation").
//!
//! Written out in full: ruma's type leaves off what has its default value, which clients then have to know.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use chappe_services::emails::Emails;
use serde_json::{Value as JsonValue, json};

use super::{DiscoveryConfig, Stability};
use crate::extract::Authenticated;

pub async fn handle(
    State(config): State<Arc<DiscoveryConfig>>,
    State(emails): State<Arc<Emails>>,
    Authenticated(session): Authenticated,
) -> Json<JsonValue> {
    let available: BTreeMap<&str, &str> =
        config.room_versions.iter().map(|(version, stability)| (version.as_str(), stability.as_str())).collect();
    let own_account = !session.is_guest;
    let mut answer = json!({
        "capabilities": {
            "m.change_password": { "enabled": own_account },
            "m.room_versions": { "default": config.room_version_default, "available": available },
            "m.set_displayname": { "enabled": own_account },
            "m.set_avatar_url": { "enabled": own_account },
            "m.profile_fields": { "enabled": own_account },
            "m.3pid_changes": { "enabled": own_account && emails.is_enabled() },
            "m.get_login_token": { "enabled": own_account },
        }
    });
    if session.is_admin {
        for name in ["m.account_moderation", "uk.timedout.msc4323"] {
            answer["capabilities"][name] = json!({ "suspend": true, "lock": true });
        }
    }
    Json(answer)
}

impl Stability {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Unstable => "unstable",
        }
    }
}

//! From whom a user takes invites: `m.invite_permission_config` (client-server API, "Invite permission") and the finer lists of MSC4155,
//! both kept in account data.
//!
//! A blocked invite is refused when it is sent; one that is ignored goes through, and only the invited user does not see it. Neither is
//! shown by sync. That pushes do the same is their own business, with the same rules.

use std::sync::Arc;

use chappe_protocol::glob::Glob;
use chappe_rooms::remote::{InviteGate, InviteVerdict};
use chappe_store::StoreError;
use ruma::UserId;
use serde_json::Value;

use crate::account_data::AccountData;

/// The names of the account data with a default action, stable and unstable.
const PERMISSION_CONFIG: [&str; 2] = ["m.invite_permission_config", "org.matrix.msc4380.invite_permission_config"];
/// The name of the account data with lists.
const FILTER_CONFIG: &str = "org.matrix.msc4155.invite_permission_config";
/// Longer patterns match no user id, and are passed over.
const PATTERN_BYTES_MAX: usize = 255;

/// One user's rules.
#[derive(Clone, Debug, Default)]
pub struct InviteRules {
    blocks_all: bool,
    users: Lists,
    servers: Lists,
}

/// Patterns in the order in which they are asked: who is in several lists is allowed rather than ignored, and ignored rather than blocked.
#[derive(Clone, Debug, Default)]
struct Lists(Vec<(InviteVerdict, Vec<Glob>)>);

impl Lists {
    fn read(content: &Value, kind: &str) -> Self {
        let lists =
            [(InviteVerdict::Allow, "allowed"), (InviteVerdict::Ignore, "ignored"), (InviteVerdict::Block, "blocked")];
        Self(
            lists
                .into_iter()
                .map(|(verdict, name)| {
                    let patterns = content.get(format!("{name}_{kind}")).and_then(Value::as_array);
                    let patterns = patterns.into_iter().flatten().filter_map(Value::as_str);
                    let usable = patterns.filter(|pattern| !pattern.is_empty() && pattern.len() <= PATTERN_BYTES_MAX);
                    (verdict, usable.map(Glob::new).collect())
                })
                .collect(),
        )
    }

    /// The verdict of the first list with a pattern that matches any of these.
    fn verdict(&self, texts: &[&str]) -> Option<InviteVerdict> {
        let matches = |pattern: &Glob| texts.iter().any(|text| pattern.matches(text));
        let matching = self.0.iter().find(|(_, patterns)| patterns.iter().any(matches));
        matching.map(|(verdict, _)| *verdict)
    }
}

impl InviteRules {
    /// The rules that a user has set; without any, all invites are allowed.
    pub fn load(account_data: &AccountData, user: &UserId) -> Result<Self, StoreError> {
        let read = |event_type: &str| {
            let content = account_data.get(user, None, event_type)?;
            Ok::<_, StoreError>(content.and_then(|content| serde_json::from_str::<Value>(&content).ok()))
        };
        for event_type in PERMISSION_CONFIG {
            let config = read(event_type)?;
            if config.as_ref().and_then(|config| config.get("default_action")?.as_str()) == Some("block") {
                return Ok(Self { blocks_all: true, ..Self::default() });
            }
        }
        let Some(config) = read(FILTER_CONFIG)? else { return Ok(Self::default()) };
        Ok(Self { blocks_all: false, users: Lists::read(&config, "users"), servers: Lists::read(&config, "servers") })
    }

    /// What becomes of an invite from this user. Lists of users go before lists of servers.
    pub fn verdict(&self, inviter: &UserId) -> InviteVerdict {
        if self.blocks_all {
            return InviteVerdict::Block;
        }
        let server = inviter.server_name();
        let by_user = self.users.verdict(&[inviter.as_str()]);
        by_user.or_else(|| self.servers.verdict(&[server.as_str(), server.host()])).unwrap_or(InviteVerdict::Allow)
    }
}

/// Lets rooms ask.
pub struct InviteFilter(pub Arc<AccountData>);

impl InviteGate for InviteFilter {
    fn verdict(&self, inviter: &UserId, invited: &UserId) -> Result<InviteVerdict, StoreError> {
        Ok(InviteRules::load(&self.0, invited)?.verdict(inviter))
    }
}

#[cfg(test)]
mod tests {
    use chappe_store::Store;
    use ruma::user_id;
    use serde_json::{json, value::to_raw_value};

    use super::*;

    async fn rules(event_type: &str, content: Value) -> InviteRules {
        let data = AccountData::new(Store::in_memory());
        let alice = user_id!("@alice:here.example");
        data.put(alice, None, event_type, &to_raw_value(&content).unwrap()).await.unwrap();
        InviteRules::load(&data, alice).unwrap()
    }

    #[tokio::test]
    async fn default_action_blocks_everybody() {
        let bob = user_id!("@bob:there.example");
        for name in PERMISSION_CONFIG {
            assert_eq!(rules(name, json!({ "default_action": "block" })).await.verdict(bob), InviteVerdict::Block);
            assert_eq!(rules(name, json!({ "default_action": "allow" })).await.verdict(bob), InviteVerdict::Allow);
        }
        assert_eq!(InviteRules::default().verdict(bob), InviteVerdict::Allow);
    }

    #[tokio::test]
    async fn users_go_before_servers_and_allowing_before_ignoring_before_blocking() {
        let rules = rules(
            FILTER_CONFIG,
            json!({
                "allowed_users": ["@bob:there.example", null, ""],
                "ignored_users": ["@bob:there.example", "@eve*"],
                "blocked_users": ["@eve:there.example", "@mallory:?here.example"],
                "blocked_servers": ["*.example"],
                "ignored_servers": "no list",
            }),
        )
        .await;
        let verdict = |user: &UserId| rules.verdict(user);
        assert_eq!(verdict(user_id!("@bob:there.example")), InviteVerdict::Allow);
        assert_eq!(verdict(user_id!("@eve:there.example")), InviteVerdict::Ignore);
        assert_eq!(verdict(user_id!("@mallory:there.example")), InviteVerdict::Block);
        assert_eq!(verdict(user_id!("@carol:elsewhere.example:8448")), InviteVerdict::Block, "by the server's host");
        assert_eq!(verdict(user_id!("@carol:elsewhere.test")), InviteVerdict::Allow);
    }
}

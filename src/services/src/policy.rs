//! Which servers this one talks to. The single place that decides it: asked for every request that comes in, every request that
//! goes out, and every event that is sent.
//!
//! It does not know rooms: server ACLs are a rule of the room (`chappe_protocol::acl`). It does not know addresses either: that
//! is the connector's check.

use chappe_protocol::glob::Glob;
use parking_lot::RwLock;
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};
use url::Url;

/// The operator's federation policy, compiled. It can change while the server runs.
#[derive(Debug)]
pub struct FederationPolicy {
    own_name: OwnedServerName,
    lists: RwLock<Lists>,
}

#[derive(Debug)]
struct Lists {
    enabled: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    /// What a room's access list says for these lists; `None` where everyone may take part.
    acl: Option<Value>,
}

/// Why a server may not be talked to. The texts are fit for the log and for a `M_FORBIDDEN` answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRejection {
    #[error("federation is turned off on this server")]
    Disabled,
    #[error("this server does not federate with that server")]
    Denied,
    #[error("that server is not among those this server federates with")]
    NotAllowed,
}

impl FederationPolicy {
    /// `allow` and `deny` are globs (`*`, `?`) over host names without regard to case or port. An empty `allow` means everyone;
    /// `deny` wins over `allow`.
    pub fn new(own_name: OwnedServerName, enabled: bool, allow: &[String], deny: &[String]) -> Self {
        let lists = RwLock::new(Lists::new(&own_name, enabled, allow, deny));
        Self { own_name, lists }
    }

    /// Replaces the lists. What is asked from now on is answered by the new ones.
    pub fn replace(&self, enabled: bool, allow: &[String], deny: &[String]) {
        let lists = Lists::new(&self.own_name, enabled, allow, deny);
        *self.lists.write() = lists;
    }

    /// Whether this server may exchange anything with `server`. Its own name always passes: nothing leaves the process for it.
    ///
    /// A pattern matches the host name or the whole server name with its port.
    pub fn check(&self, server: &ServerName) -> Result<(), PolicyRejection> {
        if server == self.own_name {
            return Ok(());
        }
        let lists = self.lists.read();
        if !lists.enabled {
            return Err(PolicyRejection::Disabled);
        }
        let listed =
            |globs: &[Glob]| globs.iter().any(|glob| glob.matches(server.host()) || glob.matches(server.as_str()));
        if listed(&lists.deny) {
            return Err(PolicyRejection::Denied);
        }
        if !lists.allow.is_empty() && !listed(&lists.allow) {
            return Err(PolicyRejection::NotAllowed);
        }
        Ok(())
    }

    /// Whether a file may be fetched from the host of a URL that an allowed server names. Where there is a list of allowed servers the host
    /// must be on it too; else every host will do that is not denied.
    pub fn admits_host(&self, url: &Url) -> bool {
        let host = url.host_str().and_then(|host| ServerName::parse(host).ok());
        host.is_some_and(|host| self.check(&host).is_ok())
    }

    /// The content of `m.room.server_acl` that keeps a room among the allowed servers; `None` if there is no list of them.
    ///
    /// Spec: Client-Server API, Server Access Control Lists (ACLs) for rooms.
    pub fn room_acl(&self) -> Option<Value> {
        self.lists.read().acl.clone()
    }
}

impl Lists {
    fn new(own_name: &ServerName, enabled: bool, allow: &[String], deny: &[String]) -> Self {
        let compile = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new_ignoring_case(pattern)).collect();
        let acl = (!allow.is_empty()).then(|| {
            // Access lists are about hosts, whatever the port.
            let hosts = |patterns: &[String]| patterns.iter().map(|pattern| without_port(pattern)).collect::<Vec<_>>();
            let mut allowed = hosts(allow);
            if !is_matched(&allowed, own_name.host()) {
                allowed.push(own_name.host().to_owned());
            }
            json!({ "allow": allowed, "deny": hosts(deny), "allow_ip_literals": true })
        });
        Self { enabled, allow: compile(allow), deny: compile(deny), acl }
    }
}

fn is_matched(patterns: &[String], host: &str) -> bool {
    patterns.iter().any(|pattern| Glob::new_ignoring_case(pattern).matches(host))
}

/// A pattern without the port that may be behind it.
fn without_port(pattern: &str) -> String {
    match pattern.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
        _ => pattern.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn policy(enabled: bool, allow: &[&str], deny: &[&str]) -> FederationPolicy {
        let owned = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>();
        FederationPolicy::new(owned_server_name!("own.example"), enabled, &owned(allow), &owned(deny))
    }

    #[test]
    fn empty_allow_list_means_everyone() {
        assert_eq!(policy(true, &[], &[]).check(server_name!("any.example:8448")), Ok(()));
    }

    #[test]
    fn deny_wins_over_allow() {
        let policy = policy(true, &["*.gouv.example"], &["bad.gouv.example"]);
        assert_eq!(policy.check(server_name!("good.gouv.example")), Ok(()));
        assert_eq!(policy.check(server_name!("BAD.gouv.example:1234")), Err(PolicyRejection::Denied));
        assert_eq!(policy.check(server_name!("elsewhere.example")), Err(PolicyRejection::NotAllowed));
    }

    #[test]
    fn pattern_may_name_a_port() {
        let policy = policy(true, &["hs.example:8448"], &[]);
        assert_eq!(policy.check(server_name!("hs.example:8448")), Ok(()));
        assert_eq!(policy.check(server_name!("hs.example:8449")), Err(PolicyRejection::NotAllowed));
    }

    #[test]
    fn own_name_passes_even_when_federation_is_off() {
        let policy = policy(false, &[], &[]);
        assert_eq!(policy.check(server_name!("own.example")), Ok(()));
        assert_eq!(policy.check(server_name!("other.example")), Err(PolicyRejection::Disabled));
    }

    #[test]
    fn lists_can_be_replaced_while_they_are_in_use() {
        let policy = policy(true, &["*.gouv.example"], &[]);
        assert_eq!(policy.check(server_name!("new.example")), Err(PolicyRejection::NotAllowed));
        policy.replace(
            true,
            &["*.gouv.example".to_owned(), "new.example".to_owned()],
            &["bad.gouv.example".to_owned()],
        );
        assert_eq!(policy.check(server_name!("new.example")), Ok(()));
        assert_eq!(policy.check(server_name!("bad.gouv.example")), Err(PolicyRejection::Denied));
    }

    #[test]
    fn files_are_fetched_from_allowed_hosts_only() {
        let policy = policy(true, &["*.gouv.example"], &[]);
        let url = |url: &str| Url::parse(url).unwrap();
        assert!(policy.admits_host(&url("https://files.gouv.example:444/a")));
        assert!(!policy.admits_host(&url("https://files.example/a")));
        assert!(!policy.admits_host(&url("data:text/plain,a")));
    }

    #[test]
    fn rooms_of_a_closed_federation_admit_the_allowed_servers_and_this_one() {
        assert_eq!(policy(true, &[], &["bad.example"]).room_acl(), None);
        let acl = policy(true, &["*.gouv.example", "hs.example:8448"], &["bad.gouv.example"]).room_acl().unwrap();
        assert_eq!(acl["allow"], json!(["*.gouv.example", "hs.example", "own.example"]));
        assert_eq!(acl["deny"], json!(["bad.gouv.example"]));
    }
}

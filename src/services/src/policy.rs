//! Which servers this one talks to. The single place that decides it: asked for every request that comes in, every request that
//! goes out, and every event that is sent.
//!
//! It does not know rooms: server ACLs are a rule of the room (`chappe_protocol::acl`). It does not know addresses either: that
//! is the connector's check.

use chappe_protocol::glob::Glob;
use ruma::{OwnedServerName, ServerName};

/// The operator's federation policy, compiled.
#[derive(Clone, Debug)]
pub struct FederationPolicy {
    own_name: OwnedServerName,
    enabled: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
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
        let compile = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new_ignoring_case(pattern)).collect();
        Self { own_name, enabled, allow: compile(allow), deny: compile(deny) }
    }

    /// Whether this server may exchange anything with `server`. Its own name always passes: nothing leaves the process for it.
    ///
    /// A pattern matches the host name or the whole server name with its port.
    pub fn check(&self, server: &ServerName) -> Result<(), PolicyRejection> {
        if server == self.own_name {
            return Ok(());
        }
        if !self.enabled {
            return Err(PolicyRejection::Disabled);
        }
        let listed =
            |globs: &[Glob]| globs.iter().any(|glob| glob.matches(server.host()) || glob.matches(server.as_str()));
        if listed(&self.deny) {
            return Err(PolicyRejection::Denied);
        }
        if !self.allow.is_empty() && !listed(&self.allow) {
            return Err(PolicyRejection::NotAllowed);
        }
        Ok(())
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
}

//! Server ACLs: which servers `m.room.server_acl` lets take part in a room.
//!
//! Parsing never fails: an entry that is not a string is skipped, because refusing the whole content over one
//! bad entry would open the room to everyone the other entries deny. Where the ACL must be asked, and what a
//! denied server may not do, is the callers' business.

use ruma::ServerName;

use crate::glob::Glob;

/// The content of an `m.room.server_acl` event, with its patterns prepared.
///
/// Spec: Client-Server API, `m.room.server_acl`.
#[derive(Clone, Debug)]
pub struct ServerAcl {
    allow_ip_literals: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl ServerAcl {
    /// Reads the content of the event. Content that is not an object allows nobody, as an empty one does.
    pub fn from_content(content: &serde_json::Value) -> Self {
        let globs = |field: &str| {
            content
                .get(field)
                .and_then(|list| list.as_array())
                .map(|list| list.iter().filter_map(|entry| entry.as_str()).map(Glob::new_ignoring_case).collect())
                .unwrap_or_default()
        };
        Self {
            allow_ip_literals: content.get("allow_ip_literals").and_then(|v| v.as_bool()).unwrap_or(true),
            allow: globs("allow"),
            deny: globs("deny"),
        }
    }

    /// Whether the server may take part. Ports are ignored, on both sides of the comparison.
    pub fn allows(&self, server: &ServerName) -> bool {
        if !self.allow_ip_literals && server.is_ip_literal() {
            return false;
        }
        let host = server.host();
        !self.deny.iter().any(|glob| glob.matches(host)) && self.allow.iter().any(|glob| glob.matches(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(content: &str, server: &str) -> bool {
        let content = serde_json::from_str(content).unwrap();
        ServerAcl::from_content(&content).allows(<&ServerName>::try_from(server).unwrap())
    }

    #[test]
    fn empty_acl_allows_nobody() {
        assert!(!allowed("{}", "example.org"));
        assert!(!allowed("[]", "example.org"));
        assert!(!allowed("null", "example.org"));
    }

    #[test]
    fn deny_wins_over_allow() {
        let acl = r#"{"allow":["*"],"deny":["*.evil.com","evil.com"]}"#;
        assert!(allowed(acl, "example.org"));
        assert!(!allowed(acl, "evil.com"));
        assert!(!allowed(acl, "a.evil.com"));
    }

    #[test]
    fn port_and_case_are_ignored() {
        let acl = r#"{"allow":["*"],"deny":["Evil.com"]}"#;
        assert!(!allowed(acl, "evil.com:8448"));
        assert!(!allowed(acl, "EVIL.COM"));
    }

    #[test]
    fn ip_literals_can_be_denied() {
        let acl = r#"{"allow":["*"],"allow_ip_literals":false}"#;
        assert!(!allowed(acl, "1.2.3.4"));
        assert!(!allowed(acl, "1.2.3.4:8448"));
        assert!(!allowed(acl, "[2001:db8::1]:8448"));
        assert!(allowed(acl, "example.org"));
        assert!(allowed(r#"{"allow":["*"]}"#, "1.2.3.4"));
    }

    #[test]
    fn entries_that_are_no_strings_are_skipped() {
        let acl = r#"{"allow":["*",null,7],"deny":[{},"evil.com",[]],"allow_ip_literals":"yes"}"#;
        assert!(allowed(acl, "example.org"));
        assert!(!allowed(acl, "evil.com"));
        assert!(allowed(acl, "1.2.3.4"));
    }
}

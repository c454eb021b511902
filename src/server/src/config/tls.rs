//! `[tls]`: this server's certificate on the federation listeners, and which roots it trusts beyond the
//! public ones when it talks to others.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Paths of PEM files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// The certificate and its chain.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Certification authorities trusted for outgoing requests, in addition to the public ones.
    pub extra_roots: Vec<PathBuf>,
    /// For test rigs: a certification authority from which a short-lived certificate for `server_name` is
    /// issued, in memory, at every start. Not for production, where no server should hold its authority's key.
    pub issue_from_ca_certificate: Option<PathBuf>,
    pub issue_from_ca_key: Option<PathBuf>,
}

impl TlsSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        pair(refusals, ("tls.certificate", &self.certificate), ("tls.private_key", &self.private_key));
        pair(
            refusals,
            ("tls.issue_from_ca_certificate", &self.issue_from_ca_certificate),
            ("tls.issue_from_ca_key", &self.issue_from_ca_key),
        );
        if self.certificate.is_some() && self.issue_from_ca_certificate.is_some() {
            refusals.add("tls.issue_from_ca_certificate", "a path, beside tls.certificate", "one of the two");
        }
    }
}

fn pair(refusals: &mut Refusals, left: (&str, &Option<PathBuf>), right: (&str, &Option<PathBuf>)) {
    for ((one, set), (other, missing)) in [(left, right), (right, left)] {
        if set.is_some() && missing.is_none() {
            refusals.add(other, "nothing", format!("the path of a PEM file, as {one} is set"));
        }
    }
}

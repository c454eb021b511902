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
    /// The certificate that other servers are shown when they ask for one.
    pub client_certificate: Option<PathBuf>,
    pub client_private_key: Option<PathBuf>,
    /// Certification authorities of the certificates that other servers show.
    pub client_roots: Vec<PathBuf>,
    /// Whether the federation listeners refuse connections without such a certificate.
    pub require_client_certificate: bool,
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
            ("tls.client_certificate", &self.client_certificate),
            ("tls.client_private_key", &self.client_private_key),
        );
        if self.require_client_certificate && self.client_roots.is_empty() {
            refusals.add(
                "tls.client_roots",
                "nothing",
                "at least one PEM file, as tls.require_client_certificate is set",
            );
        }
        if !self.client_roots.is_empty() && self.certificate.is_none() && self.issue_from_ca_certificate.is_none() {
            refusals.add("tls.certificate", "nothing", "the path of a PEM file, as tls.client_roots is set");
        }
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

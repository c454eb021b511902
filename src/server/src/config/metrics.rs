//! `[metrics]`: figures for whoever watches the server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ListenAddress, Refusals, Secret, secret};

/// A listener of its own, which answers nothing but `GET /metrics`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    pub listen: Vec<ListenAddress>,
    /// Shown as a bearer token by whoever reads the figures.
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
}

impl MetricsSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.token.is_some() && self.token_file.is_some() {
            refusals.add("metrics.token", "given twice", "metrics.token or metrics.token_file, not both");
        }
        let has_token = self.token.is_some() || self.token_file.is_some();
        for address in &self.listen {
            if let ListenAddress::Tcp(tcp) = address
                && !tcp.ip().is_loopback()
                && !has_token
            {
                let allowed =
                    "a loopback address or a unix socket, where there is neither metrics.token nor metrics.token_file";
                refusals.add("metrics.listen", address.to_string(), allowed);
            }
        }
    }

    /// Fills `token` from its file. Returns what cannot be read, as (key, found, allowed).
    pub(super) fn read_secret_files(&mut self) -> Vec<(String, String, String)> {
        let mut refusals = Refusals::default();
        let read = secret::read_file(&mut refusals, "metrics.token_file", self.token_file.as_deref());
        self.token = self.token.take().or(read);
        refusals.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_not_shown_to_a_network_without_a_token() {
        let refused = |section: &MetricsSection| {
            let mut refusals = Refusals::default();
            section.check(&mut refusals);
            refusals.0.len()
        };
        let open = |address: &str| MetricsSection { listen: vec![address.parse().unwrap()], ..Default::default() };
        assert_eq!(refused(&MetricsSection::default()), 0);
        assert_eq!(refused(&open("127.0.0.1:9100")), 0);
        assert_eq!(refused(&open("unix:/run/chappe/metrics.sock")), 0);
        assert_eq!(refused(&open("0.0.0.0:9100")), 1);
        let token = Some(Secret::new("a secret".to_owned()));
        assert_eq!(refused(&MetricsSection { token, ..open("0.0.0.0:9100") }), 0);
    }
}

//! `[terms]`: documents that whoever registers has to agree to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Refusals;

/// The documents.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TermsSection {
    pub policies: Vec<TermsPolicy>,
}

/// One document, in each of its languages.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TermsPolicy {
    /// An opaque name of the document, such as `privacy_policy`.
    pub id: String,
    pub version: String,
    /// Language code -> the document in that language.
    pub languages: BTreeMap<String, TermsDocument>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TermsDocument {
    pub name: String,
    pub url: String,
}

impl TermsSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        for policy in &self.policies {
            let key = format!("terms.policies.{}", policy.id);
            if policy.id.is_empty() || policy.version.is_empty() || policy.languages.is_empty() {
                refusals.add(
                    key.clone(),
                    "an incomplete policy",
                    "a policy with id, version and at least one language",
                );
            }
            for document in policy.languages.values() {
                if !document.url.starts_with("https://") && !document.url.starts_with("http://") {
                    refusals.add(key.clone(), format!("\"{}\"", document.url), "the URL of a web page");
                }
            }
        }
    }
}

//! `[log]`: what is written to standard error, and how.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::Refusals;

/// Level and form of the log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A level, or levels per module as `info,chappe_rooms=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line per event, for people.
    #[default]
    Text,
    /// A JSON object per line, for machines.
    Json,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.level.trim().is_empty() || EnvFilter::try_new(&self.level).is_err() {
            let allowed = "\"error\", \"warn\", \"info\", \"debug\", \"trace\", or levels per module such as \"info,chappe_rooms=debug\"";
            refusals.add("log.level", format!("\"{}\"", self.level), allowed);
        }
    }
}

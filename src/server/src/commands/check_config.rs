//! `chappe check-config`: the configuration was accepted; print what it comes to. Secrets are masked.

use super::{CommandResult, print};
use crate::config::{Loaded, Origin};
use crate::registrations;

pub fn run(loaded: &Loaded) -> CommandResult {
    registrations::read(&loaded.config.server_name, &loaded.config.appservices.registrations)?;
    let heading = match &loaded.origin {
        Origin::File(path) => {
            format!("# {}: valid. With the defaults and the environment it comes to:", path.display())
        }
        Origin::EnvironmentOnly => "# No file; from the environment and the defaults:".to_owned(),
        Origin::Trial => "# Nothing is configured; the embedded trial configuration is:".to_owned(),
    };
    print(&format!("{heading}\n{}", toml::to_string(&loaded.config)?))
}

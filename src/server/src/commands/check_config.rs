//! `chappe check-config`: the configuration was accepted; print what it comes to. Secrets are masked.

use crate::config::{Loaded, Origin};

pub fn run(loaded: &Loaded) {
    match &loaded.origin {
        Origin::File(path) => {
            println!("# {}: valid. With the defaults and the environment it comes to:", path.display())
        }
        Origin::EnvironmentOnly => println!("# No file; from the environment and the defaults:"),
        Origin::Trial => println!("# Nothing is configured; the embedded trial configuration is:"),
    }
    match toml::to_string(&loaded.config) {
        Ok(text) => print!("{text}"),
        Err(error) => println!("# It cannot be shown: {error}"),
    }
}

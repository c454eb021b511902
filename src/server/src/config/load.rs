//! Finds the configuration, reads it and checks it.
//!
//! The file is the first of: `--config`, the variable `CHAPPE_CONFIG`, `./conduit.toml`,
//! `/etc/chappe/conduit.toml`. Environment variables win over the file. With no file and no variable at all
//! the embedded trial configuration is used.

use std::path::{Path, PathBuf};

use figment::{Figment, providers::Serialized, value::Value};

use super::{
    Config, ConfigError, Problem, RateLimitsSection,
    environment::EnvironmentKeys,
    error::{place_of, problems},
    file::FileKeys,
};

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    File(PathBuf),
    EnvironmentOnly,
    /// Nothing was configured: the embedded default for trying the server out.
    Trial,
}

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub origin: Origin,
}

/// What configuration is read from besides `--config`; tests make their own.
pub struct Surroundings {
    pub variables: Vec<(String, String)>,
    /// Files tried in this order when none is named.
    pub search: Vec<PathBuf>,
}

impl Surroundings {
    /// The process's environment and the usual places.
    pub fn of_this_process() -> Self {
        let text = |value: std::ffi::OsString| value.into_string().ok();
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
        let search = vec![PathBuf::from("./conduit.toml"), PathBuf::from("/etc/chappe/conduit.toml")];
        Self { variables, search }
    }
}

/// Reads the configuration of this process. `explicit` is what `--config` names.
pub fn load(explicit: Option<&Path>) -> Result<Loaded, ConfigError> {
    load_from(explicit, &Surroundings::of_this_process())
}

/// [`load`], from given surroundings.
pub fn load_from(explicit: Option<&Path>, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let variables = &surroundings.variables;
    let named_by_variable = variables.iter().find(|(name, _)| name == "CHAPPE_CONFIG").map(|(_, value)| value);
    let named = explicit.map(Path::to_owned).or_else(|| named_by_variable.map(PathBuf::from));
    let path = match named {
        Some(path) if path.exists() => Some(path),
        Some(path) => return Err(ConfigError::NotFound(path)),
        None => surroundings.search.iter().find(|path| path.exists()).cloned(),
    };

    let environment = EnvironmentKeys::new(variables, default_shape());
    if path.is_none() && environment.is_empty() {
        return Ok(Loaded { config: Config::trial(), origin: Origin::Trial });
    }

    // A limit of which only one number is set keeps the default of the other.
    let mut figment = Figment::from(Serialized::default("rate_limits", RateLimitsSection::default()));
    if let Some(path) = &path {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.clone(), error })?;
        if let Err(error) = text.parse::<toml::Table>() {
            return Err(ConfigError::Syntax { path: path.clone(), message: error.to_string() });
        }
        figment = figment.merge(FileKeys::new(path, text, variables));
    }
    figment = figment.merge(environment);

    let mut config: Config = figment.extract().map_err(|error| ConfigError::BadValues(problems(&figment, error)))?;
    let mut refused = config.check();
    refused.extend(config.registration.read_secret_files());
    refused.extend(config.mail.read_secret_files());
    refused.extend(config.turn.read_secret_files());
    refused.extend(config.metrics.read_secret_files());
    if !refused.is_empty() {
        let located = refused.into_iter().map(|(key, found, allowed)| Problem {
            place: place_of(&figment, &key),
            key,
            found,
            allowed,
        });
        return Err(ConfigError::BadValues(located.collect()));
    }
    let origin = path.map_or(Origin::EnvironmentOnly, Origin::File);
    Ok(Loaded { config, origin })
}

/// The default configuration as plain values: tells which keys are lists, numbers, texts.
fn default_shape() -> Value {
    Value::serialize(Config::trial()).unwrap_or_else(|_| Value::from(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DefaultEncryption, Durability, RegistrationMode};

    fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("conduit.toml");
        std::fs::write(&path, text).expect("writing the file");
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        load_from(Some(&path), &Surroundings { variables, search: Vec::new() })
    }

    fn problems_of(text: &str, variables: &[(&str, &str)]) -> Vec<Problem> {
        match load_text(text, variables) {
            Err(ConfigError::BadValues(problems)) => problems,
            other => panic!("expected bad values, got {other:?}"),
        }
    }

    #[test]
    fn without_file_and_variables_the_trial_configuration_is_used() {
        let nothing = Surroundings { variables: Vec::new(), search: Vec::new() };
        let loaded = load_from(None, &nothing).expect("the trial configuration");
        assert_eq!(loaded.origin, Origin::Trial);
        assert_eq!(loaded.config.server_name, "localhost");
        assert_eq!(loaded.config.registration.mode, RegistrationMode::Open);
        assert_eq!(loaded.config.listen.client.len(), 1);
        assert!(loaded.config.listen.federation.is_empty());
    }

    #[test]
    fn registration_is_closed_once_anything_is_configured() {
        let loaded = load_text("server_name = \"agence.example\"", &[]).expect("valid");
        assert_eq!(loaded.config.registration.mode, RegistrationMode::Closed);
        assert_eq!(loaded.config.storage.durability, Durability::Fsync);
        assert!(loaded.config.federation.enabled);
    }

    #[test]
    fn environment_wins_over_the_file() {
        let text =
            "server_name = \"a.example\"\n[rooms]\ndefault_encryption = \"off\"\n[media]\nmax_upload_bytes = 1000";
        let variables = [
            ("CHAPPE_SERVER_NAME", "b.example"),
            ("CHAPPE_ROOMS__DEFAULT_ENCRYPTION", "all"),
            ("CHAPPE_MEDIA__MAX_UPLOAD_BYTES", "2000"),
            ("CHAPPE_FEDERATION__ENABLED", "false"),
            ("CHAPPE_LISTEN__CLIENT", "127.0.0.1:1, unix:/run/chappe.sock"),
            ("CHAPPE_LISTEN__FEDERATION", "[\"127.0.0.1:2\"]"),
            ("UNRELATED", "x"),
        ];
        let config = load_text(text, &variables).expect("valid").config;
        assert_eq!(config.server_name, "b.example");
        assert_eq!(config.rooms.default_encryption, DefaultEncryption::All);
        assert_eq!(config.media.max_upload_bytes, 2000);
        assert!(!config.federation.enabled);
        assert_eq!(config.listen.client.len(), 2);
        assert_eq!(config.listen.federation[0].to_string(), "127.0.0.1:2");
    }

    #[test]
    fn a_text_made_of_digits_stays_a_text_in_the_environment() {
        let variables = [("CHAPPE_REGISTRATION__TOKEN", "007"), ("CHAPPE_ROOMS__DEFAULT_VERSION", "11")];
        let config = load_text("server_name = \"a.example\"", &variables).expect("valid").config;
        assert_eq!(config.registration.token.expect("set").expose(), "007");
        assert_eq!(config.rooms.default_version.as_str(), "11");
    }

    #[test]
    fn a_bad_value_names_file_key_found_and_allowed() {
        let problems = problems_of("server_name = \"a.example\"\n[storage]\ndurability = \"maybe\"", &[]);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].place.ends_with("conduit.toml"), "{:?}", problems[0]);
        assert_eq!(problems[0].key, "storage.durability");
        assert_eq!(problems[0].found, "\"maybe\"");
        assert_eq!(problems[0].allowed, "\"fsync\", \"os\"");
    }

    #[test]
    fn a_bad_variable_is_named_as_a_variable() {
        let problems = problems_of("server_name = \"a.example\"", &[("CHAPPE_MEDIA__MAX_UPLOAD_BYTES", "lots")]);
        assert_eq!(problems[0].place, "environment variable CHAPPE_MEDIA__MAX_UPLOAD_BYTES");
        assert_eq!(problems[0].key, "media.max_upload_bytes");
        assert_eq!(problems[0].found, "\"lots\"");
    }

    #[test]
    fn a_bad_server_name_is_refused_with_what_is_allowed() {
        let problems = problems_of("server_name = \"https://a.example/\"", &[]);
        assert_eq!(problems[0].key, "server_name");
        assert_eq!(problems[0].found, "\"https://a.example/\"");
        assert!(problems[0].allowed.contains("host name"), "{}", problems[0].allowed);
    }

    #[test]
    fn an_unknown_key_is_refused_where_it_stands() {
        let problems = problems_of("server_name = \"a.example\"\n[registration]\nmod = \"open\"", &[]);
        assert_eq!(problems[0].key, "registration.mod");
        assert!(problems[0].allowed.contains("\"mode\""));
        assert!(problems[0].place.ends_with("conduit.toml"));
    }

    #[test]
    fn a_missing_server_name_is_refused() {
        let problems = problems_of("data_dir = \"/tmp/x\"", &[]);
        assert_eq!(problems[0].key, "server_name");
        assert_eq!(problems[0].found, "nothing");
    }

    #[test]
    fn all_refusals_are_reported_together() {
        let text = "server_name = \"a.example\"\n[registration]\nmode = \"token\"\n[media]\nmax_upload_bytes = 0";
        let keys: Vec<_> = problems_of(text, &[]).into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["registration.token", "media.max_upload_bytes"]);
    }

    #[test]
    fn variables_in_the_file_are_substituted_and_missing_ones_refused() {
        let text = "server_name = \"${SERVER_NAME}\"";
        let config = load_text(text, &[("SERVER_NAME", "hs1")]).expect("valid").config;
        assert_eq!(config.server_name, "hs1");
        let problems = problems_of(text, &[]);
        assert_eq!(problems[0].key, "server_name");
        assert!(problems[0].found.contains("SERVER_NAME"), "{}", problems[0].found);
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused_with_its_line() {
        let Err(ConfigError::Syntax { message, .. }) = load_text("server_name = ", &[]) else {
            panic!("expected a syntax error");
        };
        assert!(message.contains("line 1"), "{message}");
    }

    #[test]
    fn a_named_file_that_is_missing_is_not_replaced_by_the_trial() {
        let nothing = Surroundings { variables: Vec::new(), search: Vec::new() };
        let missing = Path::new("/nonexistent/conduit.toml");
        assert!(matches!(load_from(Some(missing), &nothing), Err(ConfigError::NotFound(_))));
    }

    #[test]
    fn secrets_are_read_from_files_and_never_printed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "very-secret\n").expect("writing the secret");
        let text =
            format!("server_name = \"a.example\"\n[registration]\nshared_secret_file = {:?}\ntoken = \"hush\"", secret);
        let config = load_text(&text, &[]).expect("valid").config;
        assert_eq!(config.registration.shared_secret.as_ref().expect("read").expose(), "very-secret");
        let shown = format!("{config:?}{}", serde_json::to_string(&config).expect("serializes"));
        assert!(!shown.contains("very-secret") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn half_a_rate_limit_keeps_the_other_half() {
        let text = "server_name = \"a.example\"\n[rate_limits.message]\nburst = 77";
        let config = load_text(text, &[("CHAPPE_RATE_LIMITS__REGISTRATION__PER_SECOND", "9")]).expect("valid").config;
        let defaults = RateLimitsSection::default();
        assert_eq!(config.rate_limits.message.burst, 77);
        assert_eq!(config.rate_limits.message.per_second, defaults.message.per_second);
        assert_eq!(config.rate_limits.registration.per_second, 9.0);
        assert_eq!(config.rate_limits.registration.burst, defaults.registration.burst);
        let problems = problems_of("server_name = \"a.example\"\n[rate_limits]\nmesage = 1", &[]);
        assert_eq!(problems[0].key, "rate_limits.mesage");
        assert!(problems[0].place.ends_with("conduit.toml"), "{}", problems[0].place);
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_not_shown() {
        let problems = problems_of("server_name = \"a.example\"\n[registration]\ntoken = 12345", &[]);
        assert_eq!(problems[0].found, "a value that is not shown");
    }
}

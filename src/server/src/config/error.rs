//! Why a configuration was refused, in the words an operator needs: where, which key, what was found, and
//! what would have been accepted.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata,
    error::{Actual, Kind},
};

/// A configuration that the server does not start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: the configuration file does not exist", .0.display())]
    NotFound(PathBuf),
    #[error("{}: the configuration file cannot be read: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("{}: not a TOML file: {message}", .path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}", list(.0))]
    BadValues(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// One value that is not accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file or environment variable it comes from.
    pub place: String,
    /// The key, its levels separated by dots.
    pub key: String,
    pub found: String,
    pub allowed: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: found {}; allowed: {}", self.place, self.key, self.found, self.allowed)
    }
}

/// What stands where an unknown key does: the message lists the keys that exist.
const UNKNOWN_KEY: &str = "a key that does not exist";

/// Turns figment's error chain into problems, each placed at the source that set the value.
pub(super) fn problems(figment: &Figment, error: figment::Error) -> Vec<Problem> {
    error.into_iter().map(|error| problem(figment, error)).collect()
}

fn problem(figment: &Figment, error: figment::Error) -> Problem {
    let mut path = error.path.clone();
    let (found, allowed) = match error.kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => (describe(&actual), expected),
        Kind::InvalidLength(length, expected) => (format!("{length} items"), expected),
        Kind::UnknownVariant(variant, allowed) => (format!("\"{variant}\""), one_of(allowed)),
        Kind::UnknownField(field, allowed) => {
            if path.last() != Some(&field) {
                path.push(field);
            }
            (UNKNOWN_KEY.to_owned(), one_of(allowed))
        }
        Kind::MissingField(field) => {
            path.push(field.into_owned());
            ("nothing".to_owned(), "this key has no default and must be set".to_owned())
        }
        Kind::DuplicateField(field) => {
            path.push(field.to_owned());
            ("the key twice".to_owned(), "each key once".to_owned())
        }
        other => ("a value that does not fit".to_owned(), other.to_string()),
    };
    let key = path.join(".");
    let found = if is_secret(&key) && found != UNKNOWN_KEY { "a value that is not shown".to_owned() } else { found };
    Problem { place: place_of(figment, &key), key, found, allowed }
}

/// Names the file or variable that set `key`, or what was searched when nothing did.
pub(super) fn place_of(figment: &Figment, key: &str) -> String {
    let mut prefix = key;
    loop {
        if let Some(metadata) = figment.find_metadata(prefix) {
            if let Some(path) = file_of(metadata) {
                return path.display().to_string();
            }
            let levels: Vec<&str> = key.split('.').collect();
            return format!("environment variable {}", super::environment::variable_name(&levels));
        }
        match prefix.rsplit_once('.') {
            Some((shorter, _)) => prefix = shorter,
            None => break,
        }
    }
    let files = figment.metadata().filter_map(file_of).map(|p| p.display().to_string());
    files.last().unwrap_or_else(|| "environment".to_owned())
}

fn file_of(metadata: &Metadata) -> Option<&Path> {
    metadata.source.as_ref()?.file_path()
}

fn describe(actual: &Actual) -> String {
    match actual {
        Actual::Str(text) => format!("\"{text}\""),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}

fn one_of(allowed: &[&str]) -> String {
    allowed.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn is_secret(key: &str) -> bool {
    matches!(key, "registration.token" | "registration.shared_secret")
}

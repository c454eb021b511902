//! Values from the TOML file, in whose texts `${NAME}` stands for the environment variable `NAME`.
//!
//! This serves images whose environment is dictated by something else. `$${` writes a literal `${`. A
//! variable that is not set is refused: an empty server name is not a server name.

use std::path::{Path, PathBuf};

use figment::{
    Error, Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Value},
};

/// A TOML file's values, with variables substituted.
pub(super) struct FileKeys {
    path: PathBuf,
    text: String,
    variables: Vec<(String, String)>,
}

impl FileKeys {
    pub(super) fn new(path: &Path, text: String, variables: &[(String, String)]) -> Self {
        Self { path: path.to_owned(), text, variables: variables.to_vec() }
    }

    fn substitute(&self, value: &mut Value, levels: &mut Vec<String>) -> Result<(), Error> {
        match value {
            Value::String(_, text) => {
                *text = self.expand(text).map_err(|missing| {
                    let message = format!("${{{missing}}}, and the environment variable {missing} is not set");
                    let unexpected = figment::error::Actual::Other(message);
                    let allowed = "a variable that is set ($${ writes a literal ${)".to_owned();
                    Error::from(figment::error::Kind::InvalidValue(unexpected, allowed)).with_path(&levels.join("."))
                })?;
            }
            Value::Dict(_, dict) => {
                for (key, value) in dict.iter_mut() {
                    levels.push(key.clone());
                    self.substitute(value, levels)?;
                    levels.pop();
                }
            }
            Value::Array(_, items) => {
                for item in items {
                    self.substitute(item, levels)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Replaces every `${NAME}`; the error is the name of a variable that is not set.
    fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            let after = from.strip_prefix("${").unwrap_or_default();
            if let Some(literal) = before.strip_suffix('$') {
                expanded.push_str(literal);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let Some((name, tail)) = after.split_once('}') else { return Err(after.to_owned()) };
            let value = self.variables.iter().find(|(variable, _)| variable == name);
            let Some((_, value)) = value else { return Err(name.to_owned()) };
            expanded.push_str(value);
            rest = tail;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}

impl Provider for FileKeys {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = Toml::string(&self.text).data()?;
        for dict in data.values_mut() {
            for (key, value) in dict.iter_mut() {
                self.substitute(value, &mut vec![key.clone()])?;
            }
        }
        Ok(data)
    }
}

//! Values from the environment: `CHAPPE_` and then the key, its levels separated by `__`.
//!
//! `CHAPPE_LOG__LEVEL=debug` sets `log.level`. A list is written as in TOML (`["a", "b"]`) or with commas
//! (`a,b`). Whether `007` is a number or a text is decided by the key's default, not by how it looks: a
//! registration token made of digits stays what was written.

use figment::{
    Error, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};

const PREFIX: &str = "CHAPPE_";

/// Variables with the prefix that name no key: the one that names the file itself.
const NOT_KEYS: &[&str] = &["CHAPPE_CONFIG"];

/// The `CHAPPE_` variables among `variables`, read against the shape of the default configuration.
pub(super) struct EnvironmentKeys {
    values: Vec<(Vec<String>, String)>,
    shape: Value,
}

impl EnvironmentKeys {
    pub(super) fn new(variables: &[(String, String)], shape: Value) -> Self {
        let values = variables
            .iter()
            .filter(|(name, _)| !NOT_KEYS.contains(&name.as_str()))
            .filter_map(|(name, value)| {
                let key = name.strip_prefix(PREFIX)?;
                let levels = key.split("__").map(str::to_ascii_lowercase).collect();
                Some((levels, value.clone()))
            })
            .collect();
        Self { values, shape }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn read(&self, levels: &[String], text: &str) -> Value {
        let default = self.shape.find_ref(&levels.join("."));
        match default {
            Some(Value::Array(..)) if !text.trim_start().starts_with('[') => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::from(items.map(Value::from).collect::<Vec<_>>())
            }
            Some(Value::Array(..) | Value::Bool(..) | Value::Num(..) | Value::Dict(..)) => {
                // Infallible: what is no number, bool, list or table is a text.
                text.parse().unwrap_or_else(|never| match never {})
            }
            _ => Value::from(text),
        }
    }
}

impl Provider for EnvironmentKeys {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment").interpolater(|_, levels| variable_name(levels))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut data = Dict::new();
        for (levels, text) in &self.values {
            insert(&mut data, levels, self.read(levels, text));
        }
        Ok(Profile::Default.collect(data))
    }
}

fn insert(dict: &mut Dict, levels: &[String], value: Value) {
    let Some((first, rest)) = levels.split_first() else { return };
    if rest.is_empty() {
        dict.insert(first.clone(), value);
        return;
    }
    let inner = dict.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, value);
    }
}

/// `["log", "level"]` -> `CHAPPE_LOG__LEVEL`.
pub(super) fn variable_name(levels: &[&str]) -> String {
    let levels: Vec<String> = levels.iter().map(|level| level.to_ascii_uppercase()).collect();
    format!("{PREFIX}{}", levels.join("__"))
}

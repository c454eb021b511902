//! Keeps `conduit.toml.example` in step with the code. Tests only.

use super::Config;

const EXAMPLE: &str = include_str!("../../../../conduit.toml.example");

/// The example with every option switched on: `#key = value` without its `#`. Prose has a space after it.
fn example_with_all_options() -> String {
    let option = |line: &str| {
        let Some(rest) = line.strip_prefix('#') else { return line.to_owned() };
        if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") {
            rest.to_owned()
        } else {
            line.to_owned()
        }
    };
    EXAMPLE.lines().map(option).collect::<Vec<_>>().join("\n")
}

fn json(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).expect("a configuration serializes")
}

/// Calls `visit` with each key that is not a table, and its value.
fn visit_keys(prefix: &str, value: &serde_json::Value, visit: &mut impl FnMut(String, &serde_json::Value)) {
    let Some(table) = value.as_object() else { return visit(prefix.to_owned(), value) };
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        visit_keys(&key, value, visit);
    }
}

#[test]
fn the_example_as_it_stands_is_the_default_configuration() {
    let config: Config = toml::from_str(EXAMPLE).expect("the example parses");
    assert_eq!(config, Config::new(ruma::owned_server_name!("agence.example")));
}

#[test]
fn every_option_of_the_example_parses_and_shows_its_default() {
    let shown: Config = toml::from_str(&example_with_all_options()).expect("every option of the example parses");
    let (shown, defaults) = (json(&shown), json(&Config::new(ruma::owned_server_name!("agence.example"))));
    visit_keys("", &defaults, &mut |key, default| {
        if !default.is_null() {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert_eq!(shown.pointer(&pointer), Some(default), "{key} of the example is not its default");
        }
    });
}

#[test]
fn every_option_of_the_code_is_in_the_example() {
    let table: toml::Table = example_with_all_options().parse().expect("the example is TOML");
    let table = serde_json::to_value(table).expect("TOML is JSON");
    let shown: Config = toml::from_str(&example_with_all_options()).expect("every option of the example parses");
    visit_keys("", &json(&shown), &mut |key, _| {
        let pointer = format!("/{}", key.replace('.', "/"));
        assert!(table.pointer(&pointer).is_some(), "{key} is missing from conduit.toml.example");
    });
}

//! Holds `docs/SPEC.md` against the router, both ways: what the table says is served is, by the file it names, and what is served is
//! in the table.

use std::{collections::BTreeMap, fs, path::Path};

use http::Method;

use crate::route::inventory;

/// A row of the table: what is said of one endpoint.
struct Row {
    is_served: bool,
    /// The file under `src/api/src/`, or why the endpoint is absent.
    what: String,
}

/// Method, and path with its variables' names left out.
type EndpointKey = (String, String);

fn key(method: &str, path: &str) -> EndpointKey {
    let mut bare = String::new();
    let mut in_variable = false;
    for letter in path.chars() {
        match letter {
            '{' => in_variable = true,
            '}' => {
                in_variable = false;
                bare.push_str("{}");
            }
            _ if in_variable => {}
            other => bare.push(other),
        }
    }
    (method.to_owned(), bare)
}

fn read_table(document: &str) -> BTreeMap<EndpointKey, Row> {
    let mut rows = BTreeMap::new();
    for line in document.lines() {
        let cells: Vec<_> =
            line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [method, path, _since, state, what] = cells.as_slice() else { continue };
        if Method::from_bytes(method.as_bytes()).is_err() || !path.starts_with('/') {
            continue;
        }
        assert!(["yes", "no"].contains(state), "{method} {path}: the state is yes or no, not {state:?}");
        assert!(!what.is_empty(), "{method} {path}: which file, or why not?");
        let row = Row { is_served: *state == "yes", what: (*what).to_owned() };
        assert!(rows.insert(key(method, path), row).is_none(), "{method} {path} is there twice");
    }
    rows
}

/// The file of a handler such as `chappe_api::client::room::create_room::handle`.
fn file_of(sources: &Path, handler: &str) -> String {
    let module = handler.split('<').next().unwrap_or_default().trim_start_matches("chappe_api::");
    let (module, _) = module.rsplit_once("::").unwrap();
    let path = module.replace("::", "/");
    let file = format!("{path}.rs");
    if sources.join(&file).exists() { file } else { format!("{path}/mod.rs") }
}

#[test]
fn specification_table_and_router_agree() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let document = fs::read_to_string(sources.join("../../../docs/SPEC.md")).unwrap();
    let rows = read_table(&document);

    inventory::take();
    let _router = crate::endpoints();
    let registered = inventory::take();

    let mut wrong = Vec::new();
    let mut served = BTreeMap::new();
    // Handler -> whether one of its paths is in the table. Its other paths are older or unstable forms.
    let mut handlers: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for endpoint in &registered {
        let key = key(endpoint.method.as_str(), &endpoint.path);
        let has_row = rows.get(&key).is_some_and(|row| row.is_served);
        *handlers.entry((endpoint.method.as_str(), endpoint.handler)).or_default() |= has_row;
        served.insert(key, endpoint);
    }
    for (key @ (method, path), row) in &rows {
        match (row.is_served, served.get(key)) {
            (true, None) => wrong.push(format!("{method} {path} is not served")),
            (false, Some(endpoint)) => wrong.push(format!("{method} {path} is served by {}", endpoint.handler)),
            (true, Some(endpoint)) => {
                let file = file_of(&sources, endpoint.handler);
                if file != row.what {
                    wrong.push(format!("{method} {path} is in {file}, not in {}", row.what));
                }
            }
            (false, None) => {}
        }
    }
    for ((method, handler), has_row) in handlers {
        if !has_row {
            let paths: Vec<_> = registered
                .iter()
                .filter(|endpoint| endpoint.method.as_str() == method && endpoint.handler == handler)
                .map(|endpoint| endpoint.path.as_str())
                .collect();
            wrong.push(format!("{method} {} of {} is in no row", paths.join(", "), file_of(&sources, handler)));
        }
    }
    assert!(wrong.is_empty(), "docs/SPEC.md and the router differ:\n{}", wrong.join("\n"));
}

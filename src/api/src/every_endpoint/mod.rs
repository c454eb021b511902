//! What every endpoint for clients has in common, tested for all of them at once: the tables here name endpoints of the router's inventory, so
//! that a new endpoint without its example, or one that answers otherwise than the rest, fails a test.
//!
//! - [`examples`]: of each endpoint a request that is right; [`successes`] makes it.
//! - [`refusals`]: the same request without a token, and with a body that is no JSON.
//! - [`shapes`]: bodies and queries of the wrong shape, and paths whose variables are none.
//! - [`strangers`]: the request of somebody who is not in the room, or not the user in the path.
//! - [`absences`]: the request about something that is not there.
//! - [`features`]: what `/versions` announces.
//!
//! An endpoint is named by its method and the end of its path, enough of it to mean no other.

use http::Method;

use crate::route::inventory;

mod absences;
mod examples;
mod features;
mod refusals;
mod shapes;
mod strangers;
mod successes;
mod world;

/// Method and end of path.
type Name = (&'static str, &'static str);

/// An endpoint for clients.
struct Endpoint {
    method: Method,
    path: String,
}

impl Endpoint {
    fn is(&self, (method, end): Name) -> bool {
        self.method.as_str() == method && self.path.ends_with(end)
    }

    fn is_in(&self, names: &[Name]) -> bool {
        names.iter().any(|name| self.is(*name))
    }

    /// The names of the variables in its path.
    fn variables(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter_map(variable)
    }

    fn has(&self, name: &str) -> bool {
        self.variables().any(|variable| variable == name)
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// The name of the variable that a segment of a path is.
fn variable(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// Every endpoint for clients, by its last path: the others are older or unstable forms of it, or leave off an empty state key.
fn endpoints() -> Vec<Endpoint> {
    inventory::take();
    let _router = crate::endpoints();
    let mut endpoints = std::collections::BTreeMap::<_, Endpoint>::new();
    for registered in inventory::take() {
        let is_client =
            ["/_matrix/client/", "/_matrix/media/"].iter().any(|prefix| registered.path.starts_with(prefix));
        let key = (registered.method.to_string(), registered.handler);
        let is_cut_off = endpoints.get(&key).is_some_and(|known| known.path.starts_with(&registered.path));
        if is_client && !is_cut_off {
            endpoints.insert(key, Endpoint { method: registered.method, path: registered.path });
        }
    }
    endpoints.into_values().collect()
}

#[test]
fn every_name_means_one_endpoint() {
    let endpoints = endpoints();
    let tables = [
        absences::names(),
        examples::names(),
        refusals::names(),
        shapes::names(),
        strangers::names(),
        successes::names(),
    ];
    let mut wrong = Vec::new();
    for name in tables.concat() {
        let count = endpoints.iter().filter(|endpoint| endpoint.is(name)).count();
        if count != 1 {
            wrong.push(format!("{} {}: {count} endpoints", name.0, name.1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

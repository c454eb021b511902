//! Registering endpoints with axum.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use http::Method;
use ruma::api::{IncomingRequest, path_builder::PathBuilder};

use crate::App;

/// Routers that take endpoints. Everything is registered through here, so that `docs/SPEC.md` can be held against what is served.
pub trait Endpoints {
    /// Registers `handler` under every path that the endpoint `T` ever had (`r0`, `v1`, `v3`, unstable).
    ///
    /// A path that ends with a state key is also registered with the key left off, with and without its slash, for the empty
    /// key: axum's path variables never match nothing.
    fn endpoint<T: IncomingRequest, A: 'static>(self, handler: impl Handler<A, App>) -> Self;

    /// Registers `handler` under one path, for endpoints or forms of them that ruma does not know.
    fn at<A: 'static>(self, method: Method, path: &str, handler: impl Handler<A, App>) -> Self;
}

impl Endpoints for Router<App> {
    fn endpoint<T: IncomingRequest, A: 'static>(mut self, handler: impl Handler<A, App>) -> Self {
        for path in T::PATH_BUILDER.all_paths() {
            self = self.at(T::METHOD, path, handler.clone());
            if let Some(before) = path.strip_suffix("/{state_key}") {
                self = self.at(T::METHOD, before, handler.clone());
                self = self.at(T::METHOD, &format!("{before}/"), handler.clone());
            }
        }
        self
    }

    fn at<A: 'static>(self, method: Method, path: &str, handler: impl Handler<A, App>) -> Self {
        #[cfg(test)]
        inventory::note(&method, path, std::any::type_name_of_val(&handler));
        // Every method of an endpoint is one that axum knows.
        let Ok(filter) = MethodFilter::try_from(method) else { return self };
        self.route(path, on(filter, handler))
    }
}

/// What has been registered, for the test that compares it with `docs/SPEC.md`.
#[cfg(test)]
pub(crate) mod inventory {
    use std::cell::RefCell;

    use http::Method;

    pub(crate) struct Registered {
        pub(crate) method: Method,
        pub(crate) path: String,
        /// The handler's path in the crate: `chappe_api::client::room::create_room::handle`.
        pub(crate) handler: &'static str,
    }

    thread_local! {
        static REGISTERED: RefCell<Vec<Registered>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(method: &Method, path: &str, handler: &'static str) {
        REGISTERED
            .with_borrow_mut(|all| all.push(Registered { method: method.clone(), path: path.to_owned(), handler }));
    }

    /// What this thread has registered since it was last asked.
    pub(crate) fn take() -> Vec<Registered> {
        REGISTERED.take()
    }
}

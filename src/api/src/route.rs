//! Registering ruma endpoints with axum.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use ruma::api::{IncomingRequest, path_builder::PathBuilder};

use crate::App;

/// Routers that take ruma's endpoints.
pub trait Endpoints {
    /// Registers `handler` under every path that the endpoint `T` ever had (`r0`, `v1`, `v3`, unstable).
    ///
    /// A path that ends with a state key is also registered with the key left off, with and without its slash, for the empty
    /// key: axum's path variables never match nothing.
    fn endpoint<T: IncomingRequest, A: 'static>(self, handler: impl Handler<A, App>) -> Self;
}

impl Endpoints for Router<App> {
    fn endpoint<T: IncomingRequest, A: 'static>(self, handler: impl Handler<A, App>) -> Self {
        route::<T, A>(self, handler)
    }
}

fn route<T: IncomingRequest, A: 'static>(mut router: Router<App>, handler: impl Handler<A, App>) -> Router<App> {
    // Every method of ruma's metadata is one that axum knows.
    let Ok(filter) = MethodFilter::try_from(T::METHOD) else { return router };
    for path in T::PATH_BUILDER.all_paths() {
        router = router.route(path, on(filter, handler.clone()));
        if let Some(before) = path.strip_suffix("/{state_key}") {
            router = router.route(before, on(filter, handler.clone()));
            router = router.route(&format!("{before}/"), on(filter, handler.clone()));
        }
    }
    router
}

//! `chappe serve`: build the server, listen, and stop in order when asked to.

use std::{num::NonZeroUsize, thread, time::Duration};

use chappe_protocol::clock::{Clock, SystemClock};
use tokio_util::sync::CancellationToken;

use super::{CommandResult, print};
use crate::{
    config::{self, Config, ConfigError, ListenAddress, Loaded, Origin, RegistrationMode},
    listen::{self, BoundListener},
    metrics,
    shutdown::{Request, Signals},
    telemetry,
    tls::{self, ServerTls},
    wiring,
};

/// Work that blocks (hashing passwords, files) gets this long to end after everything else has.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// How many threads there may be for such work, and for what reads long stretches of the store: each takes memory for what it reads,
/// and beyond those that wait for the disk more of them make nothing faster.
const BLOCKING_THREADS_MIN: usize = 32;
const BLOCKING_THREADS_PER_CORE: usize = 8;

pub fn run(loaded: &Loaded) -> CommandResult {
    telemetry::start(&loaded.config.log);
    tls::install_provider();
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MIN.max(cores * BLOCKING_THREADS_PER_CORE))
        .enable_all()
        .build()?;
    let result = runtime.block_on(serve(loaded));
    runtime.shutdown_timeout(BLOCKING_GRACE);
    result
}

async fn serve(loaded: &Loaded) -> CommandResult {
    let config = &loaded.config;
    let mut signals = Signals::install()?;
    let certificate = ServerTls::load(&config.tls, &config.server_name, SystemClock.now_ms())?;
    let listeners = listen::bind(&config.listen, certificate.is_some()).await?;
    let metrics_listeners = listen::bind_metrics(&config.metrics.listen).await?;
    let stop = CancellationToken::new();
    let mut server = wiring::build(config, stop.clone()).await?;
    server.open_control_socket(stop.clone());

    announce(loaded, &listeners);
    let serving = listen::serve(
        listeners,
        server.router(),
        certificate.as_ref().map(ServerTls::acceptor),
        config.listen.clone(),
        stop.clone(),
    );
    let serving = tokio::spawn(serving);
    let serving_metrics = listen::serve(
        metrics_listeners,
        metrics::router(server.metrics(config.metrics.token.clone())),
        None,
        config.listen.clone(),
        stop.clone(),
    );
    let serving_metrics = tokio::spawn(serving_metrics);
    loop {
        match signals.next().await {
            Request::Stop => break,
            Request::Reload => reload(loaded, &server, certificate.as_ref()),
        }
    }
    tracing::info!("stopping");
    stop.cancel();
    serving.await?;
    serving_metrics.await?;
    server.close().await?;
    tracing::info!("stopped");
    Ok(())
}

/// Reads the configuration and the certificate again. What cannot be read stays as it was.
fn reload(loaded: &Loaded, server: &wiring::Server, certificate: Option<&ServerTls>) {
    match reread(loaded) {
        Ok(config) => match server.reload(&config) {
            Ok(()) => tracing::info!(
                "read federation.enabled, allow, deny and pinned_keys and the client certificate for other servers again"
            ),
            Err(error) => tracing::error!(%error, "not all of the configuration could be taken over"),
        },
        Err(error) => tracing::error!(%error, "the configuration could not be read again; the old one stays in use"),
    }
    let config = &loaded.config;
    let Some(certificate) = certificate else { return };
    match certificate.reload(&config.server_name, SystemClock.now_ms()) {
        Ok(()) => tracing::info!("read the certificate again"),
        Err(error) => tracing::error!(%error, "the certificate could not be read again; the old one stays in use"),
    }
}

fn reread(loaded: &Loaded) -> Result<Config, ConfigError> {
    match &loaded.origin {
        Origin::Trial => Ok(loaded.config.clone()),
        Origin::EnvironmentOnly => config::load(None).map(|loaded| loaded.config),
        Origin::File(path) => config::load(Some(path)).map(|loaded| loaded.config),
    }
}

/// Says where the server listens, what an operator should know about it, and in a trial what to do next.
fn announce(loaded: &Loaded, listeners: &[BoundListener]) {
    let config = &loaded.config;
    tracing::info!(
        server_name = %config.server_name,
        data_dir = %config.data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "ready"
    );
    for listener in listeners {
        let protocol = if listener.speaks_tls() { "https" } else { "http" };
        tracing::info!(address = %listener.address(), protocol, "listening");
    }
    let serves_federation = config.federation.enabled && !config.listen.federation.is_empty();
    if serves_federation && !listeners.iter().any(BoundListener::speaks_tls) {
        tracing::warn!(
            "no tls.certificate: the federation listeners speak plain HTTP, and need a proxy that speaks TLS in front"
        );
    }
    if loaded.origin == Origin::Trial {
        let client = listeners.iter().map(BoundListener::address).find_map(|address| match address {
            ListenAddress::Tcp(address) => Some(address.to_string()),
            ListenAddress::Unix(_) => None,
        });
        print_trial_help(&client.unwrap_or_else(|| "127.0.0.1:8008".to_owned()));
    } else if config.registration.mode == RegistrationMode::Open {
        tracing::warn!("registration.mode is \"open\": whoever reaches this server can make an account on it");
    }
}

fn print_trial_help(client: &str) {
    let program = std::env::current_exe().map_or_else(|_| "chappe".to_owned(), |path| path.display().to_string());
    let help = format!(
        "
Chappe is running with its trial configuration: only this machine reaches it, anyone here may register.
  Give your Matrix client the homeserver URL   http://{client}
  and register there, or make a user with      {program} user create alice
  Data is in ./data; stop with Ctrl-C. For a real server, copy conduit.toml.example to conduit.toml.

"
    );
    if let Err(error) = print(&help) {
        tracing::warn!(%error, "nobody reads the standard output");
    }
}

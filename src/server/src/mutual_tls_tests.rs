//! Certificates on both sides of a connection between servers, as the connector shows them and the listeners ask for them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use axum::{Extension, Router, routing::get};
use chappe_api::extract::PeerCertificate;
use chappe_services::{
    connector::{ConnectError, Connector, ConnectorConfig, Request},
    secret::Secret,
};
use ruma::{owned_server_name, server_name};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ListenAddress, ListenSection, TlsSection},
    listen,
    tls::{self, ServerTls},
};

/// An authority, and what it has issued.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new(now_ms: u64) -> Self {
        tls::install_provider();
        let dir = tempfile::tempdir().expect("a temporary directory");
        tls::write_authority("Test", now_ms, &dir.path().join("ca.crt"), &dir.path().join("ca.key"))
            .expect("an authority");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, to: &str, names: &[&str], now_ms: u64) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let out = (self.path(&format!("{to}.crt")), self.path(&format!("{to}.key")));
        let authority = (self.path("ca.crt"), self.path("ca.key"));
        tls::write_issued((&authority.0, &authority.1), &names, 7, now_ms, (&out.0, &out.1)).expect("issued");
        out
    }
}

fn now_ms() -> u64 {
    use chappe_protocol::clock::{Clock, SystemClock};
    SystemClock.now_ms()
}

/// Serves one page, which says whose certificate has been shown. The answer is the page's URL.
async fn serve(section: &TlsSection, stop: CancellationToken) -> String {
    async fn page(certificate: Option<Extension<PeerCertificate>>) -> String {
        let Some(Extension(PeerCertificate(is_of))) = certificate else { return "nobody".to_owned() };
        let servers =
            [server_name!("agence.example:8448"), server_name!("agence.example"), server_name!("other.example")];
        servers.into_iter().filter(|server| is_of(server)).map(|server| server.as_str()).collect::<Vec<_>>().join(" ")
    }
    let tls =
        ServerTls::load(section, &owned_server_name!("a.example"), now_ms()).expect("loaded").expect("configured");
    let listen = ListenSection {
        federation: vec![ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        client: Vec::new(),
        ..ListenSection::default()
    };
    let bound = listen::bind(&listen, true).await.expect("bound");
    let ListenAddress::Tcp(address) = bound[0].address() else { panic!("a TCP listener") };
    tokio::spawn(listen::serve(bound, Router::new().route("/", get(page)), Some(tls.acceptor()), listen, stop));
    format!("https://{address}/")
}

async fn fetch(url: &str, roots: &Authority, identity: Option<Secret>) -> Result<String, ConnectError> {
    fetch_by(&connector(roots, identity), url).await
}

fn connector(roots: &Authority, identity: Option<Secret>) -> Connector {
    let config = ConnectorConfig {
        extra_roots: vec![std::fs::read(roots.path("ca.crt")).expect("readable")],
        identity,
        allow_networks: vec!["127.0.0.0/8".parse().expect("a network")],
        ..ConnectorConfig::default()
    };
    Connector::new(config).expect("a connector")
}

async fn fetch_by(connector: &Connector, url: &str) -> Result<String, ConnectError> {
    let answer = connector.fetch_capped(Request::get(url.parse().expect("a URL")), 1000).await?;
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

fn identity(authority: &Authority, to: &str, names: &[&str]) -> Option<Secret> {
    let (certificate, key) = authority.issue(to, names, now_ms());
    let section =
        TlsSection { client_certificate: Some(certificate), client_private_key: Some(key), ..TlsSection::default() };
    tls::read_client_identity(&section).expect("readable")
}

#[tokio::test]
async fn connections_without_a_certificate_of_the_authority_are_refused_where_one_is_required() {
    let (authority, stranger) = (Authority::new(now_ms()), Authority::new(now_ms()));
    let (certificate, private_key) = authority.issue("server", &["127.0.0.1"], now_ms());
    let stop = CancellationToken::new();
    let mut section = TlsSection {
        certificate: Some(certificate),
        private_key: Some(private_key),
        client_roots: vec![authority.path("ca.crt")],
        require_client_certificate: true,
        ..TlsSection::default()
    };
    let required = serve(&section, stop.clone()).await;
    section.require_client_certificate = false;
    let asked = serve(&section, stop.clone()).await;

    let good = identity(&authority, "good", &["agence.example"]);
    let of_stranger = identity(&stranger, "strange", &["agence.example"]);
    for url in [&required, &asked] {
        let page = fetch(url, &authority, good.clone()).await.expect("an answer");
        assert_eq!(page, "agence.example:8448 agence.example");
        assert!(fetch(url, &authority, of_stranger.clone()).await.is_err(), "of another authority");
    }
    assert!(fetch(&required, &authority, None).await.is_err());
    assert_eq!(fetch(&asked, &authority, None).await.expect("an answer"), "nobody");

    // The certificate is replaced while the server runs, for all who use the connector, and on connections that are open.
    let connector = connector(&authority, None);
    let user = connector.clone();
    assert_eq!(fetch_by(&user, &asked).await.expect("an answer"), "nobody");
    connector.replace_identity(good.clone()).expect("usable");
    assert_eq!(fetch_by(&user, &asked).await.expect("an answer"), "agence.example:8448 agence.example");
    assert!(fetch_by(&user, &required).await.is_ok());
    assert!(connector.replace_identity(Some(Secret::new("nonsense"))).is_err());
    assert!(fetch_by(&user, &required).await.is_ok(), "what cannot be used changes nothing");
    connector.replace_identity(None).expect("usable");
    assert!(fetch_by(&user, &required).await.is_err());
    stop.cancel();
}

#[test]
fn certificate_for_other_servers_must_fit_its_key() {
    let (one, other) = (Authority::new(now_ms()), Authority::new(now_ms()));
    let section = TlsSection {
        client_certificate: Some(one.path("ca.crt")),
        client_private_key: Some(other.path("ca.key")),
        ..TlsSection::default()
    };
    assert!(tls::read_client_identity(&section).is_err());
    assert!(tls::read_client_identity(&TlsSection::default()).expect("fine").is_none());
}

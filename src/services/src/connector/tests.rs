use std::collections::HashMap;

use super::{
    dns::SrvRecord,
    test_server::{FakeDns, TlsServer, answer},
    *,
};

fn loopback(name: &str) -> FakeDns {
    FakeDns { hosts: HashMap::from([(name.to_owned(), IpAddr::from([127, 0, 0, 1]))]), ..FakeDns::default() }
}

fn url(text: &str) -> Url {
    text.parse().expect("a URL")
}

#[tokio::test]
async fn loopback_is_refused_by_name_and_by_address_unless_allowed() {
    let server = TlsServer::start(&["hs.example", "127.0.0.1"], |_| answer(200, "hello")).await;
    let port = server.address.port();
    let config = ConnectorConfig { extra_roots: vec![server.root_pem.clone()], ..ConnectorConfig::default() };
    let closed = Connector::with_dns(config, Arc::new(loopback("hs.example"))).expect("a connector");
    let open = server.connector(loopback("hs.example"));
    for target in [format!("https://hs.example:{port}/"), format!("https://127.0.0.1:{port}/")] {
        let refused = closed.fetch_capped(Request::get(url(&target)), 100).await;
        assert!(matches!(refused, Err(ConnectError::AddressDenied(_))), "{target}: {refused:?}");
        let answered = open.fetch_capped(Request::get(url(&target)), 100).await.expect("an answer");
        assert_eq!(answered.body, "hello");
    }
    for disguised in ["https://2130706433/", "https://0x7f.1/", "https://[::ffff:127.0.0.1]/", "https://[::1]/"] {
        let refused = closed.fetch_capped(Request::get(url(disguised)), 100).await;
        assert!(matches!(refused, Err(ConnectError::AddressDenied(_))), "{disguised}: {refused:?}");
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn server_with_an_unknown_root_is_not_trusted() {
    let server = TlsServer::start(&["hs.example"], |_| answer(200, "hello")).await;
    let other = TlsServer::start(&["hs.example"], |_| answer(200, "hello")).await;
    let target = format!("https://hs.example:{}/", server.address.port());
    let distrustful = other.connector(loopback("hs.example"));
    let refused = distrustful.fetch_capped(Request::get(url(&target)), 100).await;
    assert!(matches!(refused, Err(ConnectError::Transport(_))), "{refused:?}");
}

#[tokio::test]
async fn body_beyond_the_limit_is_refused() {
    let server = TlsServer::start(&["hs.example"], |_| answer(200, vec![b'a'; 1000])).await;
    let connector = server.connector(loopback("hs.example"));
    let target = url(&format!("https://hs.example:{}/", server.address.port()));
    let refused = connector.fetch_capped(Request::get(target.clone()), 999).await;
    assert!(matches!(refused, Err(ConnectError::TooLarge { limit: 999 })), "{refused:?}");
    assert_eq!(connector.fetch_capped(Request::get(target), 1000).await.expect("an answer").body.len(), 1000);
}

#[tokio::test]
async fn each_redirect_is_checked_and_their_number_is_bounded() {
    let server = TlsServer::start(&["hs.example"], |seen| {
        let location = match seen.path() {
            "/ok" => "/end",
            "/inside" => "https://10.0.0.1/secret",
            "/down" => "http://hs.example/end",
            "/loop" => "/loop",
            _ => return answer(200, "end"),
        };
        let mut redirect = answer(302, "");
        redirect.headers_mut().insert(header::LOCATION, location.parse().expect("a header value"));
        redirect
    })
    .await;
    let connector = server.connector(loopback("hs.example"));
    let follow = |path: &str| {
        let request = Request::get(url(&format!("https://hs.example:{}{path}", server.address.port())));
        let connector = connector.clone();
        async move { connector.send_following(request, 3).await?.capped(100).await }
    };
    assert_eq!(follow("/ok").await.expect("an answer").body, "end");
    assert!(matches!(follow("/inside").await, Err(ConnectError::AddressDenied(_))));
    assert!(matches!(follow("/down").await, Err(ConnectError::Url(_))));
    assert!(matches!(follow("/loop").await, Err(ConnectError::TooManyRedirects(3))));
}

#[tokio::test]
async fn matrix_server_name_is_reached_on_its_srv_port_under_its_own_name() {
    let server = TlsServer::start(&["agency.example"], |_| answer(200, "{}")).await;
    let record =
        SrvRecord { priority: 0, weight: 0, port: server.address.port(), target: "hs1.agency.example.".to_owned() };
    let mut dns = loopback("hs1.agency.example");
    dns.srv.insert("_matrix-fed._tcp.agency.example".to_owned(), vec![record]);
    let connector = server.connector(dns);
    let request = Request { host_meaning: HostMeaning::MatrixServer, ..Request::get(url("https://agency.example/x")) };
    connector.fetch_capped(request, 100).await.expect("an answer");
    let seen = server.seen();
    assert_eq!(seen[0].sni.as_deref(), Some("agency.example"));
    assert_eq!(seen[0].authority(), Some("agency.example"));
}

#[tokio::test]
async fn other_schemes_and_credentials_are_refused() {
    let connector = Connector::with_dns(ConnectorConfig::default(), Arc::new(FakeDns::default())).expect("a connector");
    for target in ["ftp://hs.example/", "file:///etc/passwd", "https://user:secret@hs.example/"] {
        let refused = connector.fetch_capped(Request::get(url(target)), 100).await;
        assert!(matches!(refused, Err(ConnectError::Url(_))), "{target}: {refused:?}");
    }
}

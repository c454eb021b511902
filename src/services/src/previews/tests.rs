use std::sync::atomic::{AtomicU32, Ordering};

use chappe_protocol::clock::ManualClock;
use futures_util::{FutureExt, future::BoxFuture};
use ruma::{ServerName, server_name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    connector::ConnectorConfig,
    media::{
        Access, MediaConfig,
        remote::{FetchMediaError, MediaTransport, RemoteBody},
    },
};

struct Nowhere;

impl MediaTransport for Nowhere {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        _: &'a str,
    ) -> BoxFuture<'a, Result<RemoteBody, FetchMediaError>> {
        async move { Err(FetchMediaError::NotFound(server.to_owned())) }.boxed()
    }
}

/// A web server that answers each path by `answer`: status, further header lines, body. Also counts requests.
async fn website(answer: impl Fn(&str) -> (u16, String, Vec<u8>) + Send + Sync + 'static) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut buffer = vec![0; 8192];
            let read = stream.read(&mut buffer).await.unwrap_or_default();
            let head = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, headers, body) = answer(path);
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
        }
    });
    (format!("http://{address}"), count)
}

struct Rig {
    previews: Previews,
    media: Media,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

fn rig(config: PreviewsConfig, networks: &[&str]) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::in_memory();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let name = server_name!("a.example").to_owned();
    let media =
        Media::open(dir.path(), store.clone(), name, clock.clone(), Arc::new(Nowhere), MediaConfig::default()).unwrap();
    let allow_networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    let connector = Connector::new(ConnectorConfig { allow_networks, ..ConnectorConfig::default() }).unwrap();
    let config = PreviewsConfig { enabled: true, ..config };
    Rig { previews: Previews::new(config, connector, media.clone(), store, clock.clone()), media, clock, _dir: dir }
}

fn allowed() -> Rig {
    rig(PreviewsConfig::default(), &["127.0.0.0/8"])
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    ::image::RgbImage::new(width, height)
        .write_to(&mut std::io::Cursor::new(&mut bytes), ::image::ImageFormat::Png)
        .unwrap();
    bytes
}

fn html(body: &str) -> (u16, String, Vec<u8>) {
    (200, "content-type: text/html; charset=utf-8\r\n".to_owned(), body.as_bytes().to_vec())
}

fn as_json(text: &str) -> JsonValue {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn page_is_fetched_once_and_its_image_kept_until_the_preview_is_old() {
    let (base, count) = website(|path| match path {
        "/page" => html("<meta property='og:title' content='Hello'><meta property='og:image' content='pic.png'>"),
        "/pic.png" => (200, "content-type: image/png\r\n".to_owned(), png(30, 20)),
        _ => (404, String::new(), Vec::new()),
    })
    .await;
    let rig = allowed();
    let url = format!("{base}/page#part");
    let preview = as_json(&rig.previews.get_preview(&url).await.unwrap());
    assert_eq!(preview["og:title"], "Hello");
    assert_eq!((&preview["og:image:width"], &preview["og:image:height"]), (&30.into(), &20.into()));
    assert_eq!(preview["matrix:image:size"], png(30, 20).len());
    let uri = OwnedMxcUri::from(preview["og:image"].as_str().unwrap());
    let image = uri.media_id().unwrap().to_owned();
    let get = || rig.media.get_own_file(&image, Access::Authenticated, Duration::ZERO);
    assert_eq!(get().await.unwrap().content_type.as_deref(), Some("image/png"));

    rig.previews.get_preview(&url).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2, "the second time nothing is fetched");
    rig.clock.advance(3 * 24 * 3600 * 1000);
    assert_eq!(rig.previews.delete_expired().await.unwrap(), 1);
    assert!(get().await.is_err());
    rig.previews.get_preview(&url).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_fetch() {
    let (base, count) = website(|_| html("<title>x</title>")).await;
    let rig = allowed();
    let url = format!("{base}/");
    let (first, second) = tokio::join!(rig.previews.get_preview(&url), rig.previews.get_preview(&url));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert!(rig.previews.0.under_way.lock().is_empty());
}

#[tokio::test]
async fn addresses_inside_are_refused_at_first_and_at_every_redirect() {
    let (base, count) = website(|_| html("<title>secret</title>")).await;
    let closed = rig(PreviewsConfig::default(), &[]);
    assert!(matches!(closed.previews.get_preview(&base).await, Err(PreviewError::NotAllowed)));
    assert_eq!(count.load(Ordering::SeqCst), 0);

    let (outside, _) = website(|_| (302, "location: http://192.168.77.1/admin\r\n".to_owned(), Vec::new())).await;
    assert!(matches!(allowed().previews.get_preview(&outside).await, Err(PreviewError::NotAllowed)));
}

#[tokio::test]
async fn patterns_decide_which_urls_are_fetched_redirects_included() {
    let (base, _) = website(|path| match path {
        "/away" => (302, "location: /denied/page\r\n".to_owned(), Vec::new()),
        _ => html("<title>x</title>"),
    })
    .await;
    let config = PreviewsConfig { deny: vec![Glob::new("*/denied/*")], ..PreviewsConfig::default() };
    let denied = rig(config, &["127.0.0.0/8"]);
    assert!(denied.previews.get_preview(&format!("{base}/fine")).await.is_ok());
    for path in ["denied/page", "away"] {
        let refused = denied.previews.get_preview(&format!("{base}/{path}")).await;
        assert!(matches!(refused, Err(PreviewError::NotAllowed)), "{path}");
    }
    let config = PreviewsConfig { allow: vec![Glob::new("https://*.example.org/*")], ..PreviewsConfig::default() };
    let only = rig(config, &["127.0.0.0/8"]);
    assert!(matches!(only.previews.get_preview(&base).await, Err(PreviewError::NotAllowed)));
}

#[tokio::test]
async fn what_is_no_web_page_has_no_preview() {
    let rig = allowed();
    for url in ["", "file:///etc/passwd", "ftp://a.example/", "http://user:secret@a.example/", "mailto:a@b.example"] {
        assert!(matches!(rig.previews.get_preview(url).await, Err(PreviewError::InvalidUrl)), "{url}");
    }
    let off = Previews::new(
        PreviewsConfig::default(),
        Connector::new(ConnectorConfig::default()).unwrap(),
        rig.media.clone(),
        Store::in_memory(),
        rig.clock.clone(),
    );
    assert!(matches!(off.get_preview("https://a.example/").await, Err(PreviewError::Disabled)));
}

#[tokio::test]
async fn pages_that_fail_loop_or_are_no_images_are_told_as_such() {
    let (base, _) = website(|path| match path {
        "/gone" => (404, String::new(), Vec::new()),
        "/loop" => (302, "location: /loop\r\n".to_owned(), Vec::new()),
        "/fake.png" => (200, "content-type: image/png\r\n".to_owned(), b"<svg/>".to_vec()),
        "/file.pdf" => (200, "content-type: application/pdf\r\n".to_owned(), b"%PDF".to_vec()),
        _ => (200, "content-type: image/png\r\n".to_owned(), png(8, 8)),
    })
    .await;
    let rig = allowed();
    let get = |path: &str| {
        let (previews, url) = (rig.previews.clone(), format!("{base}/{path}"));
        async move { previews.get_preview(&url).await }
    };
    assert!(matches!(get("gone").await, Err(PreviewError::Fetch(_))));
    assert!(matches!(get("loop").await, Err(PreviewError::Fetch(_))));
    assert_eq!(as_json(&get("fake.png").await.unwrap()).get("og:image"), None);
    assert_eq!(as_json(&get("file.pdf").await.unwrap()), serde_json::json!({ "og:title": "file.pdf" }));
    let image = as_json(&get("real.png").await.unwrap());
    assert_eq!((&image["og:title"], &image["og:image:type"]), (&"real.png".into(), &"image/png".into()));
}

#[tokio::test]
async fn large_pages_are_read_as_far_as_allowed_and_large_images_left_out() {
    let (base, _) = website(|path| match path {
        "/pic.png" => (200, "content-type: image/png\r\n".to_owned(), png(400, 400)),
        _ => html(&format!(
            "<title>Long</title><meta property='og:image' content='/pic.png'>{}<meta property='og:title' content='late'>",
            "x".repeat(100_000)
        )),
    })
    .await;
    let config = PreviewsConfig { page_bytes_max: 1_000, image_bytes_max: 100, ..PreviewsConfig::default() };
    let small = rig(config, &["127.0.0.0/8"]);
    let preview = as_json(&small.previews.get_preview(&base).await.unwrap());
    assert_eq!(preview, serde_json::json!({ "og:title": "Long" }));
}

#[tokio::test]
async fn oembed_description_is_asked_for() {
    let (base, _) = website(|path| match path {
        "/video" => html("<link rel=alternate type='application/json+oembed' href='/oembed?url=video'>"),
        "/oembed?url=video" => {
            let body = r#"{ "type": "video", "title": "Moving", "provider_name": "Tube", "thumbnail_url": "/t.png" }"#;
            (200, "content-type: application/json\r\n".to_owned(), body.as_bytes().to_vec())
        }
        _ => (200, "content-type: image/png\r\n".to_owned(), png(8, 4)),
    })
    .await;
    let preview = as_json(&allowed().previews.get_preview(&format!("{base}/video")).await.unwrap());
    assert_eq!((&preview["og:title"], &preview["og:site_name"]), (&"Moving".into(), &"Tube".into()));
    assert_eq!(preview["og:image:width"], 8);
}

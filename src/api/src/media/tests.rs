use axum::{
    Router,
    routing::{get, post, put},
};
use chappe_services::media::MediaConfig;
use ruma::user_id;

use super::*;
use crate::{
    federation::media_download::answer_in_parts,
    test_state::{Answer, TestState, ask},
};

struct Setup {
    router: Router,
    state: TestState,
    alice: String,
    eve: String,
}

async fn setup_with(state: TestState) -> Setup {
    let alice = state.user(user_id!("@alice:a.example")).await;
    let eve = state.user(user_id!("@eve:a.example")).await;
    let router = Router::new()
        .route("/upload", post(upload::upload))
        .route("/upload/{server}/{id}", put(upload_to::upload_to))
        .route("/create", post(create::create))
        .route("/config", get(config::config))
        .route("/download/{server}/{id}", get(download::download))
        .route("/download/{server}/{id}/{name}", get(download::download_as))
        .route("/thumbnail/{server}/{id}", get(thumbnail::thumbnail))
        .route("/old/{server}/{id}", get(download::download_openly))
        .route("/old_thumbnail/{server}/{id}", get(thumbnail::thumbnail_openly))
        .layer(DefaultBodyLimit::disable())
        .with_state(state.clone());
    Setup { router, state, alice, eve }
}

async fn setup() -> Setup {
    setup_with(TestState::new()).await
}

impl Setup {
    async fn get(&self, uri: &str) -> Answer {
        ask(&self.router, &self.alice, "GET", uri, &[], "").await
    }

    /// Uploads, and answers with `server/media id`.
    async fn upload(&self, query: &str, content_type: &str, body: impl Into<axum::body::Body>) -> String {
        let answer =
            ask(&self.router, &self.alice, "POST", &format!("/upload{query}"), &[("content-type", content_type)], body)
                .await;
        assert_eq!(answer.status, 200);
        answer.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
    }
}

fn png() -> Vec<u8> {
    // One grey pixel.
    const HEX: &str = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000\
000a49444154789c636800000082008177cd72b60000000049454e44ae426082";
    (0..HEX.len()).step_by(2).filter_map(|at| u8::from_str_radix(HEX.get(at..at + 2)?, 16).ok()).collect()
}

#[tokio::test]
async fn upload_comes_back_with_headers_that_keep_it_harmless() {
    let setup = setup().await;
    let id = setup.upload("?filename=name%3Bwith%3Bsemicolons", "image/png", "bytes").await;
    let answer = setup.get(&format!("/download/{id}")).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"bytes"[..]));
    assert_eq!(answer.header("content-type"), "image/png");
    assert_eq!(answer.header("content-length"), "5");
    assert_eq!(answer.header("content-disposition"), "inline; filename=\"name;with;semicolons\"");
    assert!(answer.header("content-security-policy").starts_with("sandbox;"));
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
    assert!(answer.header("cache-control").starts_with("private"));
}

#[tokio::test]
async fn path_names_the_file_in_any_script() {
    let setup = setup().await;
    let id = setup.upload("", "text/html", "<script>").await;
    let answer = setup.get(&format!("/download/{id}/%E2%98%95")).await;
    assert_eq!(answer.header("content-disposition"), "attachment; filename*=utf-8''%E2%98%95");
    let answer = setup.get(&format!("/download/{id}")).await;
    assert_eq!(answer.header("content-disposition"), "attachment");
}

#[tokio::test]
async fn part_of_a_file_can_be_asked_for() {
    let setup = setup().await;
    let id = setup.upload("", "video/mp4", "0123456789").await;
    let uri = format!("/download/{id}");
    let answer = ask(&setup.router, &setup.alice, "GET", &uri, &[("range", "bytes=2-4")], "").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (206, &b"234"[..]));
    assert_eq!(answer.header("content-range"), "bytes 2-4/10");
    let beyond = ask(&setup.router, &setup.alice, "GET", &uri, &[("range", "bytes=20-")], "").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
    let known = ask(&setup.router, &setup.alice, "GET", &uri, &[("if-none-match", answer.header("etag"))], "").await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
}

#[tokio::test]
async fn requests_without_token_are_refused_before_the_path_is_looked_at() {
    let setup = setup().await;
    for (method, uri) in
        [("GET", "/download/mxc:%2F%2Fa.example/x"), ("POST", "/upload"), ("POST", "/create"), ("GET", "/config")]
    {
        let answer = ask(&setup.router, "", method, uri, &[], "").await;
        assert_eq!(answer.refusal(), (401, "M_MISSING_TOKEN".to_owned()), "{method} {uri}");
    }
}

#[tokio::test]
async fn unknown_malformed_and_unreachable_media_have_their_own_errors() {
    let setup = setup().await;
    assert_eq!(setup.get("/download/a.example/unknown").await.refusal(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(setup.get("/download/a.example/..%2Fetc").await.refusal(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(setup.get("/download/not%20a%20server/x").await.refusal(), (400, "M_INVALID_PARAM".to_owned()));
    assert_eq!(setup.get("/download/b.example/x").await.refusal(), (502, "M_UNKNOWN".to_owned()));
    assert_eq!(setup.get("/download/b.example/x?allow_remote=false").await.refusal(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(setup.get("/download/b.example/x?timeout_ms=soon").await.refusal(), (400, "M_INVALID_PARAM".to_owned()));
}

#[tokio::test]
async fn upload_over_the_limit_is_refused_announced_or_not() {
    let setup = setup_with(TestState::with_media(MediaConfig { upload_bytes_max: 4, ..MediaConfig::default() })).await;
    let announced = ask(&setup.router, &setup.alice, "POST", "/upload", &[("content-length", "5")], "12345").await;
    assert_eq!(announced.refusal(), (413, "M_TOO_LARGE".to_owned()));
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>("123"), Ok("45")]);
    let streamed =
        ask(&setup.router, &setup.alice, "POST", "/upload", &[], axum::body::Body::from_stream(chunks)).await;
    assert_eq!(streamed.refusal(), (413, "M_TOO_LARGE".to_owned()));
    assert_eq!(setup.get("/config").await.json(), serde_json::json!({ "m.upload.size": 4 }));
}

#[tokio::test]
async fn reserved_id_is_waited_for_and_taken_once() {
    let setup = setup().await;
    let created = ask(&setup.router, &setup.alice, "POST", "/create", &[], "").await.json();
    assert_eq!(created["unused_expires_at"], 1_700_086_400_000u64);
    let id = created["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
    let early = setup.get(&format!("/download/{id}?timeout_ms=0")).await;
    assert_eq!(early.refusal(), (504, "M_NOT_YET_UPLOADED".to_owned()));
    let early = ask(&setup.router, "", "GET", &format!("/old/{id}?timeout_ms=0"), &[], "").await;
    assert_eq!(early.refusal(), (504, "M_NOT_YET_UPLOADED".to_owned()));
    let uri = format!("/upload/{id}");
    let other = ask(&setup.router, &setup.eve, "PUT", &uri, &[], "eve's").await;
    assert_eq!(other.refusal(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(ask(&setup.router, &setup.alice, "PUT", &uri, &[], "alice's").await.status, 200);
    let again = ask(&setup.router, &setup.alice, "PUT", &uri, &[], "").await;
    assert_eq!(again.refusal(), (409, "M_CANNOT_OVERWRITE_MEDIA".to_owned()));
    let unknown = ask(&setup.router, &setup.alice, "PUT", "/upload/a.example/unknown", &[], "x").await;
    assert_eq!(unknown.refusal(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(&setup.get(&format!("/download/{id}")).await.body[..], b"alice's");
}

#[tokio::test]
async fn old_endpoints_show_new_media_only_if_the_operator_wants_it() {
    let frozen = setup().await;
    let id = frozen.upload("", "text/plain", "secret").await;
    let answer = ask(&frozen.router, "", "GET", &format!("/old/{id}"), &[], "").await;
    assert_eq!(answer.refusal(), (404, "M_NOT_FOUND".to_owned()));
    let answer = ask(&frozen.router, "", "GET", &format!("/old_thumbnail/{id}?width=1&height=1"), &[], "").await;
    assert_eq!(answer.refusal(), (404, "M_NOT_FOUND".to_owned()));

    let open =
        setup_with(TestState::with_media(MediaConfig { legacy_unauthenticated: true, ..MediaConfig::default() })).await;
    let id = open.upload("", "text/plain", "public").await;
    let answer = ask(&open.router, "", "GET", &format!("/old/{id}"), &[], "").await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"public"[..]));
    assert!(answer.header("cache-control").starts_with("public"));
}

#[tokio::test]
async fn thumbnails_are_images_and_only_of_images() {
    let setup = setup().await;
    let id = setup.upload("", "application/octet-stream", png()).await;
    let answer = setup.get(&format!("/thumbnail/{id}?width=32&height=32&method=scale")).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "image/png"));
    assert_eq!(answer.header("content-disposition"), "inline; filename=thumbnail.png");
    for query in
        ["width=32", "width=0&height=1", "width=-1&height=1", "width=1&height=1&method=squeeze", "width=a&height=1"]
    {
        assert_eq!(
            setup.get(&format!("/thumbnail/{id}?{query}")).await.refusal(),
            (400, "M_INVALID_PARAM".to_owned()),
            "{query}"
        );
    }
    let text = setup.upload("", "image/png", "no image").await;
    assert_eq!(
        setup.get(&format!("/thumbnail/{text}?width=32&height=32")).await.refusal(),
        (400, "M_UNKNOWN".to_owned())
    );
}

#[tokio::test]
async fn answer_to_another_server_holds_the_file_in_its_second_part() {
    use axum::response::IntoResponse;
    use chappe_services::media::{Access, multipart};
    use futures_util::StreamExt;

    let setup = setup().await;
    let id = setup.upload("?filename=%F0%9F%90%94", "img/png", "bytes\r\n--").await;
    let media_id = id.strip_prefix("a.example/").unwrap();
    let file =
        setup.state.media.get_own_file(media_id, Access::Authenticated, std::time::Duration::ZERO).await.unwrap();
    let response = answer_in_parts(&file).await.into_response();
    let boundary = multipart::boundary(response.headers()["content-type"].to_str().unwrap()).unwrap();
    let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
    assert_eq!(body.len(), length);
    let mut part = multipart::read_mixed(&boundary, futures_util::stream::iter([Ok::<_, String>(body)])).await.unwrap();
    assert_eq!((part.content_type.as_deref(), part.filename.as_deref()), (Some("img/png"), Some("\u{1f414}")));
    let mut bytes = Vec::new();
    while let Some(chunk) = part.body.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(bytes, b"bytes\r\n--");
}

#[tokio::test]
async fn previews_are_off_unless_the_operator_turns_them_on() {
    use crate::test_app::TestApp;
    let server = TestApp::new();
    let alice = server.register("alice").await;
    for path in ["/_matrix/client/v1/media/preview_url", "/_matrix/media/v3/preview_url"] {
        let asked = format!("{path}?url=https://a.example/");
        let (status, answer) = server.get(&asked, Some(&alice)).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (404, &"M_UNRECOGNIZED".into()));
        let (status, answer) = server.get(&asked, None).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (401, &"M_MISSING_TOKEN".into()));
        let (status, answer) = server.get(path, Some(&alice)).await;
        assert_eq!((status.as_u16(), &answer["errcode"]), (400, &"M_MISSING_PARAM".into()));
    }
}

#[tokio::test]
async fn page_is_previewed_for_users() {
    use crate::test_app::{TestApp, TestConfig};
    const PAGE: &str = "<html><head><meta property=\"og:title\" content=\"A page\"></head><body>text</body></html>";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let page = format!("http://{}/", listener.local_addr().unwrap());
    let pages = axum::Router::new().fallback(|| async { axum::response::Html(PAGE) });
    tokio::spawn(async move { axum::serve(listener, pages).await });
    let server =
        TestApp::with(TestConfig { preview_networks: vec!["127.0.0.0/8".parse().unwrap()], ..TestConfig::default() });
    let alice = server.register("alice").await;
    for path in ["/_matrix/client/v1/media/preview_url", "/_matrix/media/v3/preview_url"] {
        let (status, answer) = server.get(&format!("{path}?url={page}"), Some(&alice)).await;
        assert_eq!((status.as_u16(), &answer["og:title"]), (200, &"A page".into()), "{answer}");
    }
}

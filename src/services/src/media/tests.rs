use std::{
    io::Cursor,
    sync::atomic::{AtomicU32, Ordering},
};

use chappe_protocol::clock::ManualClock;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use ruma::{MxcUri, server_name, user_id};

use super::{remote::RemoteBody, *};

fn alice() -> &'static UserId {
    user_id!("@alice:a.example")
}

const NO_WAIT: Duration = Duration::ZERO;

/// Other servers that have one file, `known`.
#[derive(Default)]
struct Elsewhere {
    fetches: AtomicU32,
    bytes: Mutex<Vec<u8>>,
    /// The repository's folder: kept here, it goes when the repository does.
    dir: Mutex<Option<tempfile::TempDir>>,
}

impl MediaTransport for Elsewhere {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        media_id: &'a str,
    ) -> BoxFuture<'a, Result<RemoteBody, FetchMediaError>> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        async move {
            if media_id != "known" {
                return Err(FetchMediaError::NotFound(server.to_owned()));
            }
            let chunks: Vec<_> = self.bytes.lock().chunks(3).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            Ok(RemoteBody {
                content_type: Some("text/plain".to_owned()),
                filename: Some("remote.txt".to_owned()),
                body: stream::iter(chunks).boxed(),
            })
        }
        .boxed()
    }
}

struct Setup {
    media: Media,
    elsewhere: Arc<Elsewhere>,
    clock: Arc<ManualClock>,
    store: Store,
    dir: PathBuf,
}

fn setup_with(config: MediaConfig) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::in_memory();
    let clock = Arc::new(ManualClock::new(1_000_000));
    let elsewhere = Arc::new(Elsewhere::default());
    *elsewhere.bytes.lock() = b"from elsewhere".to_vec();
    let media = Media::open(
        dir.path(),
        store.clone(),
        server_name!("a.example").to_owned(),
        clock.clone(),
        elsewhere.clone(),
        config,
    )
    .unwrap();
    let path = dir.path().to_owned();
    *elsewhere.dir.lock() = Some(dir);
    Setup { media, elsewhere, clock, store, dir: path }
}

fn setup() -> Setup {
    setup_with(MediaConfig { upload_bytes_max: 1000, remote_bytes_max: 100, ..MediaConfig::default() })
}

fn body(text: &'static str) -> impl Stream<Item = Result<Bytes, String>> {
    stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
}

fn text(filename: &str) -> FileInfo {
    FileInfo { content_type: Some("text/plain".to_owned()), filename: Some(filename.to_owned()) }
}

fn id(uri: &MxcUri) -> String {
    uri.media_id().unwrap().to_owned()
}

#[tokio::test]
async fn upload_is_read_back_with_its_name_and_type() {
    let Setup { media, .. } = setup();
    let uri = media.upload(alice(), text("a.txt"), body("hello")).await.unwrap();
    let file = media.get_own_file(&id(&uri), Access::Authenticated, NO_WAIT).await.unwrap();
    assert_eq!(std::fs::read(&file.path).unwrap(), b"hello");
    assert_eq!(
        (file.size_bytes, file.filename.as_deref(), file.content_type.as_deref()),
        (5, Some("a.txt"), Some("text/plain"))
    );
}

#[tokio::test]
async fn upload_over_the_limit_makes_no_media() {
    let Setup { media, store, dir, .. } = setup_with(MediaConfig { upload_bytes_max: 4, ..MediaConfig::default() });
    let error = media.upload(alice(), text("a.txt"), body("hello")).await.unwrap_err();
    assert!(matches!(error, UploadError::TooLarge { bytes_max: 4 }));
    assert_eq!(store.scan(&MEDIA, &(), Direction::Forward).count(), 0);
    assert_eq!(std::fs::read_dir(dir.join("content")).unwrap().count(), 0);
}

#[tokio::test]
async fn new_media_is_hidden_from_the_old_endpoints_unless_allowed() {
    let Setup { media, .. } = setup();
    let uri = media.upload(alice(), text("a.txt"), body("hello")).await.unwrap();
    assert!(matches!(media.get_own_file(&id(&uri), Access::Legacy, NO_WAIT).await, Err(GetMediaError::NotFound)));

    let Setup { media, .. } = setup_with(MediaConfig { legacy_unauthenticated: true, ..MediaConfig::default() });
    let uri = media.upload(alice(), text("a.txt"), body("hello")).await.unwrap();
    assert!(media.get_own_file(&id(&uri), Access::Legacy, NO_WAIT).await.is_ok());
}

#[tokio::test]
async fn reserved_id_takes_one_upload_of_its_owner() {
    let Setup { media, .. } = setup();
    let (uri, expires_ms) = media.create(alice()).await.unwrap();
    assert_eq!(expires_ms, 1_000_000 + 24 * 3_600_000);
    let own = server_name!("a.example");
    let media_id = id(&uri);
    assert!(matches!(media.get_own_file(&media_id, Access::Legacy, NO_WAIT).await, Err(GetMediaError::NotYetUploaded)));
    let stranger = media.upload_to(user_id!("@eve:a.example"), own, &media_id, text("x"), body("x")).await;
    assert!(matches!(stranger, Err(UploadError::NotOwner)));
    media.upload_to(alice(), own, &media_id, text("x"), body("first")).await.unwrap();
    let again = media.upload_to(alice(), own, &media_id, text("x"), body("second")).await;
    assert!(matches!(again, Err(UploadError::AlreadyUploaded)));
    let file = media.get_own_file(&media_id, Access::Authenticated, NO_WAIT).await.unwrap();
    assert_eq!(std::fs::read(file.path).unwrap(), b"first");
    let unknown = media.upload_to(alice(), own, "nosuchid", text("x"), body("x")).await;
    assert!(matches!(unknown, Err(UploadError::UnknownId)));
}

#[tokio::test]
async fn waiting_download_gets_the_upload_when_it_comes() {
    let Setup { media, .. } = setup();
    let (uri, _) = media.create(alice()).await.unwrap();
    let media_id = id(&uri);
    let waiting = tokio::spawn({
        let (media, media_id) = (media.clone(), media_id.clone());
        async move { media.get_own_file(&media_id, Access::Authenticated, Duration::from_secs(10)).await }
    });
    tokio::task::yield_now().await;
    media.upload_to(alice(), server_name!("a.example"), &media_id, text("x"), body("late")).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().size_bytes, 4);
}

#[tokio::test]
async fn reserved_ids_expire_and_are_limited() {
    let Setup { media, clock, store, .. } =
        setup_with(MediaConfig { pending_uploads_max: 2, ..MediaConfig::default() });
    let (uri, _) = media.create(alice()).await.unwrap();
    media.create(alice()).await.unwrap();
    assert!(matches!(media.create(alice()).await, Err(UploadError::TooManyPending { .. })));
    clock.advance(24 * 3_600_000);
    assert!(matches!(
        media.get_own_file(&id(&uri), Access::Authenticated, NO_WAIT).await,
        Err(GetMediaError::NotFound)
    ));
    let late = media.upload_to(alice(), server_name!("a.example"), &id(&uri), text("x"), body("x")).await;
    assert!(matches!(late, Err(UploadError::UnknownId)));
    media.create(alice()).await.unwrap();
    assert_eq!(store.scan(&MEDIA, &(), Direction::Forward).count(), 1, "expired ids are gone");
}

#[tokio::test]
async fn remote_media_is_fetched_once_and_kept() {
    let Setup { media, elsewhere, .. } = setup();
    let server = server_name!("b.example");
    assert!(matches!(
        media.get_held_file(server, "known", Access::Authenticated, NO_WAIT).await,
        Err(GetMediaError::NotFound)
    ));
    let legacy = media.get_file(server, "known", Access::Legacy, NO_WAIT).await;
    assert!(matches!(legacy, Err(GetMediaError::NotFound)));
    assert_eq!(
        elsewhere.fetches.load(Ordering::SeqCst),
        0,
        "what the old endpoints may not show is not fetched for them"
    );
    let file = media.get_file(server, "known", Access::Authenticated, NO_WAIT).await.unwrap();
    assert_eq!(file.filename.as_deref(), Some("remote.txt"));
    assert_eq!(media.get_held_file(server, "known", Access::Authenticated, NO_WAIT).await.unwrap(), file);
    assert_eq!(media.get_file(server, "known", Access::Authenticated, NO_WAIT).await.unwrap(), file);
    assert_eq!(elsewhere.fetches.load(Ordering::SeqCst), 1);
    std::fs::remove_file(&file.path).unwrap();
    assert!(media.get_file(server, "known", Access::Authenticated, NO_WAIT).await.is_ok());
    assert_eq!(elsewhere.fetches.load(Ordering::SeqCst), 2, "a copy that is gone is fetched again");
}

#[tokio::test]
async fn remote_media_may_be_missing_or_too_large() {
    let Setup { media, elsewhere, .. } = setup();
    let server = server_name!("b.example");
    assert!(matches!(
        media.get_file(server, "unknown", Access::Authenticated, NO_WAIT).await,
        Err(GetMediaError::NotFound)
    ));
    assert!(matches!(
        media.get_file(server, "../etc", Access::Authenticated, NO_WAIT).await,
        Err(GetMediaError::InvalidId)
    ));
    *elsewhere.bytes.lock() = vec![b'x'; 101];
    let error = media.get_file(server, "known", Access::Authenticated, NO_WAIT).await.unwrap_err();
    assert!(matches!(error, GetMediaError::Remote(cause) if matches!(*cause, FetchMediaError::TooLarge)));
}

#[tokio::test]
async fn thumbnail_is_made_once_and_refused_for_text() {
    let Setup { media, .. } = setup_with(MediaConfig::default());
    let mut png = Vec::new();
    image::RgbImage::new(400, 200).write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let own = server_name!("a.example");
    let uri =
        media.upload(alice(), FileInfo::default(), stream::iter([Ok::<_, String>(Bytes::from(png))])).await.unwrap();
    let file = media.get_own_file(&id(&uri), Access::Authenticated, NO_WAIT).await.unwrap();
    let thumbnail = media.get_thumbnail(own, file.clone(), 32, 32, Method::Crop, None).await.unwrap();
    assert_eq!(thumbnail.content_type.as_deref(), Some("image/png"));
    assert_ne!(thumbnail.path, file.path);
    assert_eq!(media.get_thumbnail(own, file.clone(), 20, 20, Method::Crop, None).await.unwrap(), thumbnail);
    let large = media.get_thumbnail(own, file.clone(), 9000, 9000, Method::Scale, None).await.unwrap();
    assert_eq!(large.path, file.path, "beyond the largest size only the original will do");

    let uri = media.upload(alice(), text("a.txt"), body("no image")).await.unwrap();
    let file = media.get_own_file(&id(&uri), Access::Authenticated, NO_WAIT).await.unwrap();
    let error = media.get_thumbnail(own, file, 32, 32, Method::Crop, None).await.unwrap_err();
    assert!(matches!(error, ThumbnailError::Unsupported(_)));
}

#[tokio::test]
async fn quota_is_kept_and_deleting_gives_it_back() {
    let setup = setup_with(MediaConfig { user_bytes_max: Some(10), ..MediaConfig::default() });
    let upload = |text: &'static str| {
        let media = setup.media.clone();
        let body = stream::iter([Ok::<_, io::Error>(Bytes::from_static(text.as_bytes()))]);
        async move { media.upload(alice(), FileInfo::default(), body).await }
    };
    let first = upload("123456").await.unwrap();
    assert!(matches!(upload("12345").await, Err(UploadError::QuotaUsedUp { bytes_max: 10 })));
    upload("1234").await.unwrap();
    let name = setup.media.server_name().to_owned();
    setup.media.delete(&name, first.media_id().unwrap()).await.unwrap();
    upload("654321").await.unwrap();
}

#[tokio::test]
async fn file_goes_with_the_last_medium_of_its_content() {
    let setup = setup_with(MediaConfig::default());
    let upload = || {
        let body = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"shared"))]);
        setup.media.upload(alice(), FileInfo::default(), body)
    };
    let (first, second) = (upload().await.unwrap(), upload().await.unwrap());
    let name = setup.media.server_name().to_owned();
    let get = |uri: &OwnedMxcUri| {
        let (media, id) = (setup.media.clone(), uri.media_id().unwrap().to_owned());
        async move { media.get_own_file(&id, Access::Authenticated, NO_WAIT).await }
    };
    let path = get(&first).await.unwrap().path;
    setup.media.delete(&name, first.media_id().unwrap()).await.unwrap();
    assert!(matches!(get(&first).await, Err(GetMediaError::NotFound)));
    assert!(get(&second).await.unwrap().path.exists());
    setup.media.delete(&name, second.media_id().unwrap()).await.unwrap();
    assert!(!path.exists());
    setup.media.delete(&name, "never-there").await.unwrap();
}

#[tokio::test]
async fn media_are_deleted_that_nobody_asked_for_in_their_time() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let kept = Some(Duration::from_secs(10 * 24 * 3600));
    let setup = setup_with(MediaConfig { local_kept: kept, ..MediaConfig::default() });
    let body = || stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"once"))]);
    let forgotten = setup.media.upload(alice(), FileInfo::default(), body()).await.unwrap();
    let wanted = setup.media.upload(alice(), FileInfo::default(), body()).await.unwrap();
    let get = |uri: &OwnedMxcUri| {
        let (media, id) = (setup.media.clone(), uri.media_id().unwrap().to_owned());
        async move { media.get_own_file(&id, Access::Authenticated, NO_WAIT).await }
    };
    setup.clock.advance(8 * DAY_MS);
    get(&wanted).await.unwrap();
    assert_eq!(setup.media.delete_old().await.unwrap(), 0);
    setup.clock.advance(4 * DAY_MS);
    assert_eq!(setup.media.delete_old().await.unwrap(), 1);
    assert!(get(&forgotten).await.is_err());
    get(&wanted).await.unwrap();
}

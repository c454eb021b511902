use chappe_tests::conversation::{Narrator, play};

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_conversation_between_two_agencies_survives_kills() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let outcome =
        play(directory.path().to_owned(), &Narrator::silent()).await.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(outcome.kills, 2);
    assert!(outcome.messages >= 11, "only {} messages crossed", outcome.messages);
}

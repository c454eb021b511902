//! The first answer, which comes in chunks.

use super::*;

#[tokio::test]
async fn first_answer_comes_in_chunks_and_is_of_one_moment() {
    let server = Server::new();
    let filler = "x".repeat(6_000);
    let mut rooms = Vec::new();
    for _ in 0..20 {
        let room = server.room(&[]).await;
        server.say(alice(), &room, &filler).await;
        rooms.push(room);
    }
    let SyncAnswer::First(mut first) = server.sync.sync(request(alice(), None).into()).await.unwrap() else {
        panic!("a first answer was expected")
    };
    let mut chunks = vec![first.next_chunk().await.unwrap().unwrap()];
    // What happens now is for the next answer.
    for room in &rooms {
        server.say(alice(), room, "too late").await;
    }
    while let Some(chunk) = first.next_chunk().await.unwrap() {
        chunks.push(chunk);
    }
    assert!(chunks.len() > 1, "one chunk of {} bytes", chunks[0].len());
    let text = chunks.concat();
    assert!(!String::from_utf8_lossy(&text).contains("too late"));
    let answer: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(answer["rooms"]["join"].as_object().unwrap().len(), rooms.len());
    let next = server.after(alice(), &answer).await;
    for room in &rooms {
        assert_eq!(timeline(&next, "join", room), ["too late"]);
    }
}

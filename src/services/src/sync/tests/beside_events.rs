//! What is told beside events: receipts, typing, account data, messages to devices, presence.

use super::*;

#[tokio::test]
async fn receipts_and_typing_are_told_once_and_private_ones_to_their_user_only() {
    let server = Server::new();
    let room = server.room(&[bob(), carol()]).await;
    server.say(alice(), &room, "1").await;
    let (bob_at, carol_at) = (server.initial(bob()).await, server.initial(carol()).await);
    let nid = server.rooms.get_room_nid(&room).unwrap().unwrap();
    let last = server.rooms.get_last_position(nid).unwrap();
    let (events, _) = server.rooms.get_timeline(nid, chappe_store::Position::ZERO, last, 1).unwrap();
    let event_id = &events[0].1.pdu.event_id;
    server.receipts.set(&room, bob(), ReceiptKind::Private, &Thread::Unthreaded, event_id).await.unwrap();
    let ephemeral = |answer: &Value| answer["rooms"]["join"][room.as_str()]["ephemeral"]["events"].clone();
    let bob_next = server.after(bob(), &bob_at).await;
    assert!(
        ephemeral(&bob_next)[0]["content"][event_id.as_str()]["m.read.private"].get(bob().as_str()).is_some(),
        "{bob_next}"
    );
    assert!(server.after(carol(), &carol_at).await.get("rooms").is_none());
    assert!(server.after(bob(), &bob_next).await.get("rooms").is_none());

    server.receipts.set(&room, bob(), ReceiptKind::Public, &Thread::Unthreaded, event_id).await.unwrap();
    server.typing.start(&room, alice(), Duration::from_secs(30)).unwrap();
    let carol_next = server.after(carol(), &carol_at).await;
    let told = ephemeral(&carol_next);
    assert_eq!(told[0], json!({ "type": "m.typing", "content": { "user_ids": [alice()] } }));
    assert_eq!(told[1]["type"], "m.receipt");
    server.typing.stop(&room, alice()).unwrap();
    let quiet = server.after(carol(), &carol_next).await;
    assert_eq!(ephemeral(&quiet), json!([{ "type": "m.typing", "content": { "user_ids": [] } }]));
    assert!(server.after(carol(), &quiet).await.get("rooms").is_none());
}

#[tokio::test]
async fn room_account_data_comes_with_its_room() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    let tag = RawValue::from_string(r#"{"tags":{"m.favourite":{}}}"#.to_owned()).unwrap();
    server.account_data.put(bob(), Some(&room), "m.tag", &tag).await.unwrap();
    let expected = json!([{ "type": "m.tag", "content": { "tags": { "m.favourite": {} } } }]);
    let (next, anew) = (server.after(bob(), &first).await, server.initial(bob()).await);
    for answer in [&next, &anew] {
        assert_eq!(answer["rooms"]["join"][room.as_str()]["account_data"]["events"], expected);
    }
    assert!(next.get("account_data").is_none());
    assert_eq!(anew["account_data"]["events"].as_array().unwrap().len(), 1, "push rules alone are global");
}

#[tokio::test]
async fn messages_to_a_device_are_given_until_acknowledged_and_never_skipped() {
    let server = Server::new();
    server.device(bob()).await;
    let first = server.initial(bob()).await;
    for number in 0..150 {
        let content = raw(&json!({ "n": number }));
        let device = DeviceIdOrAllDevices::DeviceId("PHONE".into());
        let messages = BTreeMap::from([(bob().to_owned(), BTreeMap::from([(device, content)]))]);
        let transaction = ruma::OwnedTransactionId::from(number.to_string());
        server.to_device.send(alice(), device_id!("X"), "org.example", &transaction, &messages).await.unwrap();
    }
    let numbers = |answer: &Value| -> Vec<u64> {
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
    };
    let second = server.after(bob(), &first).await;
    assert_eq!(numbers(&second), (0..100).collect::<Vec<_>>());
    // Not acknowledged: given again.
    assert_eq!(numbers(&server.after(bob(), &first).await), (0..100).collect::<Vec<_>>());
    let third = server.after(bob(), &second).await;
    assert_eq!(numbers(&third), (100..150).collect::<Vec<_>>());
    assert_eq!(numbers(&server.after(bob(), &third).await), Vec::<u64>::new());
    assert_eq!(numbers(&server.initial(bob()).await), Vec::<u64>::new());
}

#[tokio::test]
async fn presence_of_who_comes_to_share_a_room_is_told() {
    let server = Server::new();
    let room = server.room(&[]).await;
    server.presence.set(alice(), PresenceState::Online, Some("here".to_owned())).await.unwrap();
    let first = server.initial(bob()).await;
    assert!(first.get("presence").is_none());
    server.join(bob(), &room).await;
    let second = server.after(bob(), &first).await;
    let events = &second["presence"]["events"];
    assert_eq!(
        (&events[0]["sender"], &events[0]["content"]["status_msg"]),
        (&json!(alice()), &json!("here")),
        "{second}"
    );
    assert!(server.after(bob(), &second).await.get("presence").is_none());
}

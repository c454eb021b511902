use super::{super::email::DELAY_MS, *};
use crate::{
    emails::ValidatedEmail,
    mail::{
        test_mail,
        test_smtp::{Received, SmtpServer},
    },
    push::unsubscribe::UnsubscribeError,
    test_accounts,
};

const ADDRESS: &str = "bob@mail.example";

/// Bob has an address, and is written to at it.
async fn setup() -> (Setup, SmtpServer, PusherKey) {
    let (mail, smtp) = test_mail::start("here.example").await;
    let setup = Setup::with_mail(Some(mail)).await;
    test_accounts::put_accounts(&setup.store, &[bob()]).await;
    let key =
        PusherKey { user_id: bob().to_owned(), app_id: "m.email".to_owned(), pushkey: "Bob@mail.example".to_owned() };
    let refused = setup.pushers.set(key.clone(), device_id!("WEB"), email_pusher()).await;
    assert!(matches!(refused, Err(SetPusherError::NotOwnAddress)), "the address is not his yet");
    let email = ValidatedEmail { sid: "1".to_owned(), address: ADDRESS.to_owned(), validated_ms: 1 };
    setup.emails.add(bob(), &email).await.unwrap();
    setup.pushers.set(key.clone(), device_id!("WEB"), email_pusher()).await.unwrap();
    (setup, smtp, key)
}

fn email_pusher() -> NewPusher {
    NewPusher {
        kind: "email".to_owned(),
        app_display_name: "Mail".to_owned(),
        device_display_name: "Mail".to_owned(),
        profile_tag: None,
        lang: "en".to_owned(),
        data: Default::default(),
        append: true,
    }
}

impl Setup {
    /// Lets what waits come due, and has it sent.
    async fn deliver_later(&mut self, key: &PusherKey) -> Progress {
        let Progress::RetryAt(at_ms) = self.deliver(key).await else { return Progress::Idle };
        self.clock.advance(at_ms - self.clock.now_ms());
        self.deliver(key).await
    }
}

/// The mail as its reader sees it, with the line breaks of quoted-printable taken out.
fn text_of(mail: &Received) -> String {
    mail.text.replace("=\r\n", "").replace("=3D", "=")
}

#[tokio::test]
async fn one_mail_tells_after_a_while_of_all_that_is_unread() {
    let (mut setup, smtp, key) = setup().await;
    test_rooms::send_state(&setup.rooms, alice(), &setup.room, "m.room.name", "", json!({ "name": "Here" })).await;
    setup.say(alice(), "hello <b>bob</b>").await;
    let due_ms = setup.clock.now_ms() + DELAY_MS;
    assert_eq!(setup.deliver(&key).await, Progress::RetryAt(due_ms), "not before a while");
    setup.clock.advance(60_000);
    setup.say(alice(), "are you there").await;
    assert_eq!(setup.deliver(&key).await, Progress::RetryAt(due_ms), "the later one does not put it off");
    assert!(smtp.received().is_empty());
    assert_eq!(setup.deliver_later(&key).await, Progress::Idle);
    let mails = smtp.wait(1).await;
    assert_eq!((mails.len(), &mails[0].to[..]), (1, &[ADDRESS.to_owned()][..]));
    let text = text_of(&mails[0]);
    for part in [
        "Subject: Unread at here.example: 2",
        "Here",
        "are you there",
        "hello &lt;b&gt;bob",
        "List-Unsubscribe: <https://matrix.here.example/_chappe/email/unsubscribe?user=",
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.find("hello").unwrap() < text.find("are you there").unwrap(), "oldest first");
}

#[tokio::test]
async fn what_is_read_in_time_is_not_mailed() {
    let (mut setup, smtp, key) = setup().await;
    let event_id = setup.say(alice(), "one").await;
    assert!(matches!(setup.deliver(&key).await, Progress::RetryAt(_)));
    let room = setup.room.clone();
    setup.read(&room, &event_id).await;
    setup.clock.advance(DELAY_MS / 2);
    setup.say(alice(), "two").await;
    setup.follow().await;
    setup.clock.advance(DELAY_MS / 2);
    let due_ms = setup.clock.now_ms() + DELAY_MS / 2;
    assert_eq!(setup.deliver(&key).await, Progress::RetryAt(due_ms), "the unread one has its whole time");
    assert_eq!(setup.deliver_later(&key).await, Progress::Idle);
    let mail = text_of(&smtp.wait(1).await[0]);
    assert!(mail.contains("two") && mail.contains("Unread at here.example: 1"), "{mail}");
}

#[tokio::test]
async fn what_is_said_in_an_encrypted_room_stays_there() {
    let (mut setup, smtp, key) = setup().await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    test_rooms::send_state(&setup.rooms, alice(), &setup.room, "m.room.encryption", "", encryption).await;
    setup.say(alice(), "careless").await;
    setup.deliver_later(&key).await;
    let mail = text_of(&smtp.wait(1).await[0]);
    assert!(mail.contains("an encrypted message"), "{mail}");
    assert!(!mail.contains("careless"), "{mail}");
}

#[tokio::test]
async fn who_reads_nothing_is_written_to_less_and_less() {
    let (mut setup, smtp, key) = setup().await;
    let mut event_id = setup.say(alice(), "first").await;
    let mut pauses = Vec::new();
    for mails in 1..=4 {
        let begun_ms = setup.clock.now_ms();
        setup.deliver_later(&key).await;
        assert_eq!(smtp.wait(mails).await.len(), mails);
        pauses.push(setup.clock.now_ms() - begun_ms);
        event_id = setup.say(alice(), "again").await;
    }
    assert_eq!(pauses, [DELAY_MS, DELAY_MS, 2 * DELAY_MS, 4 * DELAY_MS]);
    let room = setup.room.clone();
    setup.read(&room, &event_id).await;
    setup.deliver_later(&key).await;
    setup.say(alice(), "after all was read").await;
    let begun_ms = setup.clock.now_ms();
    setup.deliver_later(&key).await;
    assert_eq!((smtp.wait(5).await.len(), setup.clock.now_ms() - begun_ms), (5, DELAY_MS));
}

#[tokio::test]
async fn link_in_the_mail_ends_the_mails_and_so_does_giving_up_the_address() {
    let (mut setup, smtp, key) = setup().await;
    setup.say(alice(), "one").await;
    setup.deliver_later(&key).await;
    let text = text_of(&smtp.wait(1).await[0]);
    let link = text.split_once("List-Unsubscribe: <").unwrap().1.split_once('>').unwrap().0;
    let link = Url::parse(link).unwrap();
    let parameter = |name: &str| link.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    assert_eq!((parameter("user"), parameter("address")), (bob().to_string(), key.pushkey.clone()));
    let other = PusherKey { user_id: alice().to_owned(), ..key.clone() };
    for (pusher, code) in [(&key, "00"), (&key, "no code"), (&other, &*parameter("code"))] {
        let refused = setup.pushers.unsubscribe(pusher, code).await;
        assert!(matches!(refused, Err(UnsubscribeError::WrongCode)), "{code}");
    }
    assert!(setup.pushers.get_pusher(&key).unwrap().is_some());
    setup.pushers.unsubscribe(&key, &parameter("code")).await.unwrap();
    assert!(setup.pushers.get_pusher(&key).unwrap().is_none());

    setup.pushers.set(key.clone(), device_id!("WEB"), email_pusher()).await.unwrap();
    setup.emails.delete(bob(), ADDRESS).await.unwrap();
    assert!(setup.pushers.get_pusher(&key).unwrap().is_none());
}

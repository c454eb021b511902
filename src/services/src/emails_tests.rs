use chappe_protocol::clock::ManualClock;
use ruma::user_id;

use super::*;
use crate::{
    mail::{test_mail, test_smtp::SmtpServer},
    test_accounts,
};

struct Rig {
    emails: Emails,
    server: SmtpServer,
    clock: Arc<ManualClock>,
}

async fn rig() -> Rig {
    let (mail, server) = test_mail::start("a.example").await;
    let (store, clock) = (Store::in_memory(), Arc::new(ManualClock::new(1_700_000_000_000)));
    test_accounts::put_accounts(&store, &[user_id!("@alice:a.example"), user_id!("@bob:a.example")]).await;
    let url = Url::parse("https://matrix.a.example/").unwrap();
    Rig { emails: Emails::new(store, clock.clone(), Some(mail), url), server, clock }
}

fn request(purpose: Purpose, address: &str, send_attempt: u64) -> TokenRequest<'_> {
    TokenRequest { purpose, client_secret: "secret", address, send_attempt, next_link: None }
}

/// The token in the link of a mail.
fn token_of(link: &str) -> String {
    let link = Url::parse(link).unwrap();
    link.query_pairs().find(|(name, _)| name == "token").unwrap().1.into_owned()
}

impl Rig {
    async fn prove(&self, purpose: Purpose, address: &str) -> ValidatedEmail {
        let before = self.server.received().len();
        let sid = self.emails.request_token(&request(purpose, address, 1)).await.unwrap();
        let link = self.server.wait(before + 1).await[before].link();
        self.emails.submit_token(&sid, "secret", &token_of(&link)).await.unwrap();
        self.emails.check_proof(purpose, &sid, "secret").unwrap()
    }
}

#[tokio::test]
async fn address_is_proven_by_opening_the_link_and_serves_one_purpose() {
    let rig = rig().await;
    let sid = rig.emails.request_token(&request(Purpose::AddAddress, "Bob@B.example", 1)).await.unwrap();
    let mail = rig.server.wait(1).await.remove(0);
    assert_eq!(mail.to, ["bob@b.example"]);
    assert!(mail.link().starts_with("https://matrix.a.example/_chappe/email/submit_token?sid="), "{}", mail.link());
    let check = |purpose, secret| rig.emails.check_proof(purpose, &sid, secret);
    assert!(matches!(check(Purpose::AddAddress, "secret"), Err(ProofError::NotValidated)));
    for (secret, token) in [("secret", "guess"), ("other", &*token_of(&mail.link()))] {
        assert!(matches!(rig.emails.submit_token(&sid, secret, token).await, Err(ProofError::Unknown)));
    }
    rig.emails.submit_token(&sid, "secret", &token_of(&mail.link())).await.unwrap();
    assert_eq!(check(Purpose::AddAddress, "secret").unwrap().address, "bob@b.example");
    assert!(matches!(check(Purpose::AddAddress, "other"), Err(ProofError::Unknown)));
    assert!(matches!(check(Purpose::ResetPassword, "secret"), Err(ProofError::Unknown)));
    rig.clock.advance(SESSION_LIFETIME_MS + 1);
    assert!(matches!(check(Purpose::AddAddress, "secret"), Err(ProofError::Unknown)));
    rig.emails.delete_expired().await.unwrap();
    assert!(!rig.emails.store.contains(&EMAIL_SESSIONS, &sid).unwrap());
}

#[tokio::test]
async fn proof_is_not_prolonged_and_can_be_spent_once() {
    let rig = rig().await;
    let email = rig.prove(Purpose::AddAddress, "bob@b.example").await;
    rig.clock.advance(SESSION_LIFETIME_MS - 1);
    rig.emails.request_token(&request(Purpose::AddAddress, "bob@b.example", 2)).await.unwrap();
    rig.server.wait(2).await;
    rig.clock.advance(1);
    let check = |sid| rig.emails.check_proof(Purpose::AddAddress, sid, "secret");
    assert!(matches!(check(&email.sid), Err(ProofError::Unknown)), "it ends when the first one did");

    let email = rig.prove(Purpose::Register, "bob@b.example").await;
    rig.emails.spend(&email).await.unwrap();
    assert!(matches!(rig.emails.spend(&email).await, Err(ProofError::Unknown)));
}

#[tokio::test]
async fn the_same_request_sends_one_mail_and_a_later_attempt_another() {
    let rig = rig().await;
    let ask = |attempt| {
        let emails = &rig.emails;
        async move { emails.request_token(&request(Purpose::Register, "bob@b.example", attempt)).await.unwrap() }
    };
    let first = ask(1).await;
    assert_eq!(ask(1).await, first);
    assert_eq!(ask(2).await, first);
    let mails = rig.server.wait(2).await;
    assert_eq!(mails.len(), 2);
    let old = token_of(&mails[0].link());
    assert!(rig.emails.submit_token(&first, "secret", &old).await.is_err(), "the newest mail counts");
}

#[tokio::test]
async fn answers_do_not_tell_whose_address_is_known() {
    let rig = rig().await;
    let email = rig.prove(Purpose::AddAddress, "alice@b.example").await;
    rig.emails.add(user_id!("@alice:a.example"), &email).await.unwrap();

    rig.emails.request_token(&request(Purpose::Register, "alice@b.example", 1)).await.unwrap();
    let told = rig.server.wait(2).await.remove(1);
    assert!(told.text.contains("belongs to an account there already"), "{}", told.text);
    rig.emails.request_token(&request(Purpose::ResetPassword, "stranger@b.example", 1)).await.unwrap();
    rig.emails.request_token(&request(Purpose::ResetPassword, "alice@b.example", 1)).await.unwrap();
    let mails = rig.server.wait(3).await;
    assert_eq!(mails[2].to, ["alice@b.example"], "nothing is sent to a stranger");
}

#[tokio::test]
async fn address_belongs_to_one_account_and_can_be_given_up() {
    let rig = rig().await;
    let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:a.example"));
    let email = rig.prove(Purpose::AddAddress, "shared@b.example").await;
    rig.emails.add(alice, &email).await.unwrap();
    rig.emails.add(alice, &email).await.unwrap();
    assert!(matches!(rig.emails.add(bob, &email).await, Err(AddEmailError::InUse)));
    assert_eq!(rig.emails.scan_emails(alice).unwrap().len(), 1);
    assert_eq!(rig.emails.get_user("SHARED@b.example").unwrap().as_deref(), Some(alice));
    rig.emails.delete(bob, "shared@b.example").await.unwrap();
    assert!(rig.emails.get_user("shared@b.example").unwrap().is_some(), "it was not Bob's to delete");
    rig.emails.delete(alice, "Shared@b.example").await.unwrap();
    assert!(rig.emails.scan_emails(alice).unwrap().is_empty());
    rig.emails.add(bob, &email).await.unwrap();
    let other = ValidatedEmail { sid: "x".to_owned(), address: "x@b.example".to_owned(), validated_ms: 1 };
    let nobody = rig.emails.add(user_id!("@nobody:a.example"), &other);
    assert!(matches!(nobody.await, Err(AddEmailError::NoAccount)));
}

#[tokio::test]
async fn browser_is_sent_on_only_to_the_hosts_that_the_operator_has_listed() {
    let mut rig = rig().await;
    rig.emails = rig.emails.with_next_link_hosts(["Chat.b.example".to_owned()]);
    for (attempt, (link, expected)) in [
        ("https://chat.b.example/#/register?a=b", true),
        ("http://CHAT.b.example", true),
        ("https://matrix.a.example/client", true),
        ("http://matrix.a.example/client", false),
        ("https://b.example/", false),
        ("https://evil.chat.b.example/", false),
        ("https://chat.b.example@evil.example/", false),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("{attempt}@b.example");
        let request = TokenRequest { next_link: Some(link), ..request(Purpose::Register, &address, 1) };
        let sid = rig.emails.request_token(&request).await.unwrap();
        let mail = rig.server.wait(attempt + 1).await[attempt].link();
        let next = rig.emails.submit_token(&sid, "secret", &token_of(&mail)).await.unwrap();
        assert_eq!(next.is_some(), expected, "{link}: {next:?}");
    }
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let rig = rig().await;
    let refused = rig.emails.request_token(&request(Purpose::Register, "no address", 1)).await;
    assert!(matches!(refused, Err(RequestTokenError::InvalidAddress)));
    let link = TokenRequest { next_link: Some("javascript:alert(1)"), ..request(Purpose::Register, "a@b.example", 1) };
    assert!(matches!(rig.emails.request_token(&link).await, Err(RequestTokenError::InvalidLink)));
    let url = Url::parse("https://a.example/").unwrap();
    let off = Emails::new(Store::in_memory(), rig.clock.clone(), None, url);
    let refused = off.request_token(&request(Purpose::Register, "a@b.example", 1)).await;
    assert!(matches!(refused, Err(RequestTokenError::Disabled)));
}

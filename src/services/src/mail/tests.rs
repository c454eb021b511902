use serde_json::json;

use super::{
    test_smtp::{self, SmtpServer},
    *,
};

fn config(port: u16) -> MailConfig {
    test_smtp::config("a.example", port)
}

fn start(mail: Mail) -> Arc<Mail> {
    let mail = Arc::new(mail);
    tokio::spawn(mail.clone().run());
    mail
}

fn values() -> serde_json::Value {
    json!({ "service": "a <b> example", "link": "https://a.example/?x=1&y=2" })
}

#[tokio::test]
async fn mail_has_a_text_and_a_page_and_reaches_the_server() {
    let server = SmtpServer::start(0).await;
    let mail = start(Mail::new(config(server.port)).unwrap());
    mail.send("bob@b.example", "add_address", values()).unwrap();
    let received = server.wait(1).await.remove(0);
    assert_eq!(received.to, ["bob@b.example"]);
    for part in ["multipart/alternative", "text/plain", "text/html", "Auto-Submitted: auto-generated", "From: "] {
        assert!(received.text.contains(part), "{part} is missing in {}", received.text);
    }
    assert!(received.text.contains("a &lt;b&gt; example"), "what goes into a page is escaped: {}", received.text);
    assert_eq!(received.link(), "https://a.example/?x=1&y=2");
}

#[tokio::test]
async fn mail_that_is_refused_for_now_is_tried_again() {
    let server = SmtpServer::start(2).await;
    let mail = Mail::new(config(server.port)).unwrap().with_pauses(&[Duration::from_millis(5); 3]);
    start(mail).send("bob@b.example", "registration", values()).unwrap();
    assert_eq!(server.wait(1).await.len(), 1);
}

#[tokio::test]
async fn mail_is_given_up_in_the_end_and_others_pass_meanwhile() {
    let server = SmtpServer::start(2).await;
    let mail = start(Mail::new(config(server.port)).unwrap().with_pauses(&[Duration::from_millis(1)]));
    mail.send("lost@b.example", "registration", values()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    mail.send("bob@b.example", "registration", values()).unwrap();
    assert_eq!(server.wait(1).await[0].to, ["bob@b.example"]);
}

#[tokio::test]
async fn what_is_no_address_is_refused_and_cannot_bring_lines_of_its_own() {
    let mail = Mail::new(config(1)).unwrap();
    for address in ["", "bob", "bob@b.example\r\nBcc: eve@b.example", "a b@c.example"] {
        assert!(matches!(mail.send(address, "registration", values()), Err(SendMailError::Address)), "{address}");
    }
    assert!(matches!(mail.send("a@b.example", "nothing", values()), Err(SendMailError::Render(_))));
}

#[tokio::test]
async fn queue_is_bounded() {
    let mail = Mail::new(config(1)).unwrap();
    for _ in 0..QUEUE_MAX {
        mail.send("a@b.example", "registration", values()).unwrap();
    }
    assert!(matches!(mail.send("a@b.example", "registration", values()), Err(SendMailError::QueueFull)));
}

#[test]
fn operator_replaces_templates_one_by_one_and_mistakes_are_found_at_start() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("registration.subject"), "Bienvenue chez {{ service }}").unwrap();
    let templates = Templates::load(Some(dir.path())).unwrap();
    assert_eq!(templates.render("registration.subject", json!({ "service": "A" })).unwrap(), "Bienvenue chez A");
    assert!(templates.render("registration.txt", values()).unwrap().contains("https://"));
    std::fs::write(dir.path().join("registration.txt"), "{{ service").unwrap();
    assert!(matches!(Templates::load(Some(dir.path())), Err(TemplatesError::Syntax { .. })));
    let bad = MailConfig { from: "nobody".to_owned(), ..config(1) };
    assert!(matches!(Mail::new(bad), Err(MailBuildError::From(_))));
}

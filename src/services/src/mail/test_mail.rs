//! What the tests of those who send mail begin with: mail that goes to a mail server of the test's own.

use std::sync::Arc;

use super::{
    Mail,
    test_smtp::{self, SmtpServer},
};

/// A mail server, and mail that goes there.
pub(crate) async fn start(server_name: &str) -> (Arc<Mail>, SmtpServer) {
    let smtp = SmtpServer::start(0).await;
    let mail = Arc::new(Mail::new(test_smtp::config(server_name, smtp.port)).unwrap());
    tokio::spawn(mail.clone().run());
    (mail, smtp)
}

//! What the tests of those who send mail begin with: mail that goes to a mail server of the test's own, and accounts to write to.

use std::sync::Arc;

use chappe_store::{
    Batch, Store,
    tables::accounts::{ACCOUNTS, AccountKind, AccountRecord},
};
use ruma::UserId;

use super::{Mail, MailConfig, TlsMode, test_smtp::SmtpServer};

/// Mail of the server of this name, which goes to the port of this machine.
pub(crate) fn config(server_name: &str, port: u16) -> MailConfig {
    MailConfig {
        host: "127.0.0.1".to_owned(),
        port,
        tls: TlsMode::Off,
        user: None,
        password: None,
        from: format!("Chappe <chappe@{server_name}>"),
        extra_roots: Vec::new(),
        templates: None,
        service_name: server_name.to_owned(),
    }
}

/// A mail server, and mail that goes there.
pub(crate) async fn start(server_name: &str) -> (Arc<Mail>, SmtpServer) {
    let smtp = SmtpServer::start(0).await;
    let mail = Arc::new(Mail::new(config(server_name, smtp.port)).unwrap());
    tokio::spawn(mail.clone().run());
    (mail, smtp)
}

/// Accounts without passwords.
pub(crate) async fn put_accounts(store: &Store, user_ids: &[&UserId]) {
    let record = AccountRecord {
        kind: AccountKind::User,
        admin: false,
        created_at_ms: 0,
        password_hash: None,
        deactivated_at_ms: None,
        erased: false,
    };
    let mut batch = Batch::new();
    for user_id in user_ids {
        batch.put(&ACCOUNTS, &(*user_id).to_owned(), &record);
    }
    store.commit(batch).await.unwrap();
}

//! Mail to users, by SMTP.
//!
//! Mails wait in a bounded queue in memory and are tried a few times; one that is lost with the process is asked for again by its user.
//! What they say is in [`templates`]. Which user is sent what, and why, is the business of [`crate::emails`] and others.

pub mod templates;
#[cfg(test)]
pub(crate) mod test_mail;
#[cfg(test)]
pub(crate) mod test_smtp;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, MultiPart, header},
    transport::smtp::{
        authentication::Credentials,
        client::{Tls, TlsParameters},
    },
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use self::templates::{RenderError, Templates, TemplatesError};
use crate::secret::Secret;

/// How many mails wait at a time; further ones are refused.
const QUEUE_MAX: usize = 1_000;
/// How long one attempt may take.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long is waited after each failed attempt; after the last the mail is given up.
const PAUSES: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(1_800)];

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// In the clear: a server on the same machine.
    Off,
    /// The connection begins in the clear and must change to TLS.
    StartTls,
    Implicit,
}

/// The mail server, and what mails carry.
#[derive(Clone, Debug)]
pub struct MailConfig {
    pub host: String,
    pub port: u16,
    pub tls: TlsMode,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// The sender, such as `Chappe <chappe@agence.example>`.
    pub from: String,
    /// PEM certificates that are trusted beside the system's.
    pub extra_roots: Vec<Vec<u8>>,
    /// A directory with templates in place of the built-in ones.
    pub templates: Option<PathBuf>,
    /// What mails call this service.
    pub service_name: String,
}

/// Mail with which the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum MailBuildError {
    #[error("the sender {0:?} is not an address")]
    From(String),
    #[error("TLS to the mail server: {0}")]
    Tls(lettre::transport::smtp::Error),
    #[error(transparent)]
    Templates(#[from] TemplatesError),
}

/// A mail that will not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendMailError {
    #[error("this is not an email address")]
    Address,
    #[error("too many mails are waiting to be sent")]
    QueueFull,
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("the mail could not be put together: {0}")]
    Compose(String),
}

/// Sends mail. Mails are queued at once, and sent by [`Mail::run`].
pub struct Mail {
    from: Mailbox,
    service_name: String,
    templates: Templates,
    transport: AsyncSmtpTransport<Tokio1Executor>,
    queue: mpsc::Sender<Message>,
    waiting: Mutex<Option<mpsc::Receiver<Message>>>,
    pauses: Vec<Duration>,
}

impl Mail {
    pub fn new(config: MailConfig) -> Result<Self, MailBuildError> {
        let from = config.from.parse().map_err(|_| MailBuildError::From(config.from.clone()))?;
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.host)
            .port(config.port)
            .timeout(Some(ATTEMPT_TIME_MAX));
        if config.tls != TlsMode::Off {
            let mut parameters = TlsParameters::builder(config.host.clone());
            for pem in &config.extra_roots {
                let certificate =
                    lettre::transport::smtp::client::Certificate::from_pem(pem).map_err(MailBuildError::Tls)?;
                parameters = parameters.add_root_certificate(certificate);
            }
            let parameters = parameters.build_rustls().map_err(MailBuildError::Tls)?;
            let tls = match config.tls {
                TlsMode::Implicit => Tls::Wrapper(parameters),
                _ => Tls::Required(parameters),
            };
            builder = builder.tls(tls);
        }
        if let (Some(user), Some(password)) = (config.user, config.password) {
            builder = builder.credentials(Credentials::new(user, password.expose().to_owned()));
        }
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        Ok(Self {
            from,
            service_name: config.service_name,
            templates: Templates::load(config.templates.as_deref())?,
            transport: builder.build(),
            queue,
            waiting: Mutex::new(Some(waiting)),
            pauses: PAUSES.to_vec(),
        })
    }

    /// With other pauses between attempts: for tests.
    #[cfg(test)]
    pub(crate) fn with_pauses(mut self, pauses: &[Duration]) -> Self {
        self.pauses = pauses.to_vec();
        self
    }

    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    pub fn service_name(&self) -> &str {
        &self.service_name
    }

    /// Queues a mail made of the templates `<name>.subject`, `<name>.txt` and `<name>.html`.
    pub fn send(&self, to: &str, name: &str, values: impl serde::Serialize) -> Result<(), SendMailError> {
        self.queue_mail(to, name, values, None)
    }

    /// As [`Mail::send`], for mails that nobody asked for one by one: mail programs offer to end them at this URL (RFC 8058).
    pub fn send_with_unsubscribe(
        &self,
        to: &str,
        name: &str,
        values: impl serde::Serialize,
        unsubscribe_url: &str,
    ) -> Result<(), SendMailError> {
        self.queue_mail(to, name, values, Some(unsubscribe_url))
    }

    fn queue_mail(
        &self,
        to: &str,
        name: &str,
        values: impl serde::Serialize,
        unsubscribe_url: Option<&str>,
    ) -> Result<(), SendMailError> {
        let to: Address = to.parse().map_err(|_| SendMailError::Address)?;
        let subject = self.templates.render(&format!("{name}.subject"), &values)?;
        let text = self.templates.render(&format!("{name}.txt"), &values)?;
        let html = self.templates.render(&format!("{name}.html"), &values)?;
        let subject: String = subject.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .date_now()
            .message_id(None)
            // No out-of-office answers, please (RFC 3834).
            .header(AutoSubmitted);
        if let Some(url) = unsubscribe_url {
            builder = builder.header(ListUnsubscribe(format!("<{url}>"))).header(ListUnsubscribePost);
        }
        let message = builder
            .multipart(MultiPart::alternative_plain_html(text, html))
            .map_err(|error| SendMailError::Compose(error.to_string()))?;
        self.queue.try_send(message).map_err(|_| SendMailError::QueueFull)
    }

    /// Sends what is queued, for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        let Some(mut waiting) = self.waiting.lock().take() else { return };
        while let Some(message) = waiting.recv().await {
            self.deliver(message).await;
        }
    }

    async fn deliver(self: &Arc<Self>, message: Message) {
        if let Err(error) = self.attempt(&message).await {
            tracing::warn!(%error, "a mail was not taken by the mail server; it will be tried again");
            // On its own: what is behind it in the queue may be taken meanwhile.
            let this = self.clone();
            tokio::spawn(async move {
                for pause in this.pauses.clone() {
                    tokio::time::sleep(pause).await;
                    match this.attempt(&message).await {
                        Ok(()) => return,
                        Err(error) if is_final(&error) => {
                            tracing::error!(%error, "a mail was refused by the mail server");
                            return;
                        }
                        Err(error) => tracing::warn!(%error, "a mail was not taken by the mail server"),
                    }
                }
                tracing::error!("a mail was given up: the mail server did not take it");
            });
        }
    }

    async fn attempt(&self, message: &Message) -> Result<(), lettre::transport::smtp::Error> {
        self.transport.send(message.clone()).await.map(|_| ())
    }
}

/// Whether trying again is of no use.
fn is_final(error: &lettre::transport::smtp::Error) -> bool {
    error.is_permanent()
}

/// `Auto-Submitted: auto-generated`.
#[derive(Clone)]
struct AutoSubmitted;

/// `List-Unsubscribe: <URL>`.
#[derive(Clone)]
struct ListUnsubscribe(String);

/// `List-Unsubscribe-Post: List-Unsubscribe=One-Click`.
#[derive(Clone)]
struct ListUnsubscribePost;

/// Headers that lettre does not know. They are only written.
macro_rules! written_header {
    ($header:ty, $name:literal, $value:expr) => {
        impl header::Header for $header {
            fn name() -> header::HeaderName {
                header::HeaderName::new_from_ascii_str($name)
            }

            fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
                Err(concat!($name, " is only written").into())
            }

            fn display(&self) -> header::HeaderValue {
                let value: fn(&$header) -> String = $value;
                // In ASCII, and as it stands: neither is to be folded or encoded.
                header::HeaderValue::dangerous_new_pre_encoded(Self::name(), value(self), value(self))
            }
        }
    };
}

written_header!(AutoSubmitted, "Auto-Submitted", |_| "auto-generated".to_owned());
written_header!(ListUnsubscribe, "List-Unsubscribe", |header| header.0.clone());
written_header!(ListUnsubscribePost, "List-Unsubscribe-Post", |_| "List-Unsubscribe=One-Click".to_owned());

//! For tests: a mail server that takes mail, or refuses it, and shows what came; and how it is named to who sends. The tests of the API
//! take this file in too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use chappe_services::mail::{MailConfig, TlsMode};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

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

/// A mail as it came: recipients, and head and body.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) to: Vec<String>,
    pub(crate) text: String,
}

impl Received {
    /// The first link in the text, with the line breaks of quoted-printable taken out.
    pub(crate) fn link(&self) -> String {
        let text = self.text.replace("=\r\n", "").replace("=3D", "=");
        let start = text.find("http").unwrap();
        text[start..].split(|c: char| c.is_whitespace() || c == '"' || c == '<').next().unwrap().to_owned()
    }
}

pub(crate) struct SmtpServer {
    pub(crate) port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl SmtpServer {
    /// Starts a server that answers the first `refusals` mails with `451`, and takes the others.
    pub(crate) async fn start(refusals: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (noted, left) = (received.clone(), Arc::new(AtomicU32::new(refusals)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, noted.clone(), left.clone()));
            }
        });
        Self { port, received }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// Waits until so many mails have come.
    pub(crate) async fn wait(&self, count: usize) -> Vec<Received> {
        for _ in 0..500 {
            if self.received.lock().len() >= count {
                return self.received();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("only {} mails came", self.received.lock().len());
    }
}

async fn serve(stream: TcpStream, received: Arc<Mutex<Vec<Received>>>, refusals: Arc<AtomicU32>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut to = Vec::new();
    write.write_all(b"220 test ESMTP\r\n").await.unwrap();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
            "EHLO" => "250-test\r\n250 8BITMIME\r\n".to_owned(),
            "MAIL" => {
                to.clear();
                let refused =
                    refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                if refused { "451 later\r\n".to_owned() } else { "250 ok\r\n".to_owned() }
            }
            "RCPT" => {
                to.push(line.split(['<', '>']).nth(1).unwrap_or_default().to_owned());
                "250 ok\r\n".to_owned()
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await.unwrap();
                let mut text = String::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line == "." {
                        break;
                    }
                    text.push_str(&line);
                    text.push_str("\r\n");
                }
                received.lock().push(Received { to: to.clone(), text });
                "250 taken\r\n".to_owned()
            }
            "QUIT" => return,
            _ => "250 ok\r\n".to_owned(),
        };
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

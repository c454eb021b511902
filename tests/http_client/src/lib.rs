//! A Matrix client reduced to the HTTP client-server API: one device of one account, whose requests may be lost with the server.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What stopped a scenario, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Pause between attempts while the server is away.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// An answer that is not a success.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} answered {status}: {body}")]
pub struct Refusal {
    pub method: Method,
    pub path: String,
    pub status: StatusCode,
    pub body: Value,
}

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    pub user_id: String,
    pub device_id: String,
}

/// A path segment, escaped.
pub fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// A room's path below `/_matrix/client/v3`.
pub fn room_path(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", segment(room))
}

impl Client {
    /// Nobody yet, at a server. Those who register or log in through the same one share its connections.
    pub fn at(url: &str) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
        let (token, user_id, device_id) = Default::default();
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, user_id, device_id })
    }

    /// Registers an account; needs open registration.
    pub async fn register(&self, name: &str) -> Result<Self, Failure> {
        let body =
            json!({ "username": name, "password": format!("{name}-secret"), "auth": { "type": "m.login.dummy" } });
        self.open_session("/_matrix/client/v3/register", body).await
    }

    /// Registers an account as an application service does, without a password: `as_token` is the service's own.
    pub async fn register_by_service(&self, name: &str, as_token: &str) -> Result<Self, Failure> {
        let service = Self { token: as_token.to_owned(), ..self.clone() };
        let body = json!({ "type": "m.login.application_service", "username": name });
        service.open_session("/_matrix/client/v3/register", body).await
    }

    /// A further device of an account that [`Client::register`] made.
    pub async fn log_in(&self, name: &str) -> Result<Self, Failure> {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": format!("{name}-secret"),
        });
        self.open_session("/_matrix/client/v3/login", body).await
    }

    async fn open_session(&self, path: &str, body: Value) -> Result<Self, Failure> {
        let answer = self.post(path, body).await?;
        let text = |key: &str| answer[key].as_str().map(str::to_owned).ok_or_else(|| format!("no {key} in {answer}"));
        let (token, user_id, device_id) = (text("access_token")?, text("user_id")?, text("device_id")?);
        Ok(Self { http: self.http.clone(), url: self.url.clone(), token, user_id, device_id })
    }

    /// One attempt: status and body, or what became of the connection.
    pub async fn attempt(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), reqwest::Error> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        // An answer that breaks off is as good as none.
        let bytes = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// Tries until the server answers, as clients do: a lost connection and an answer of 5xx mean that nothing is known.
    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Refusal> {
        loop {
            match self.attempt(method.clone(), path, body.as_ref()).await {
                Ok((status, answer)) if status.is_success() => return Ok(answer),
                Ok((status, _)) if status.is_server_error() => {}
                Ok((status, body)) => return Err(Refusal { method, path: path.to_owned(), status, body }),
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value, Refusal> {
        self.request(Method::GET, path, None).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Result<Value, Refusal> {
        self.request(Method::PUT, path, Some(body)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Value, Refusal> {
        self.request(Method::POST, path, Some(body)).await
    }

    /// The bytes of an answer as they come, at one attempt.
    pub async fn fetch(&self, path: &str) -> Result<usize, Failure> {
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        Ok(request.send().await?.error_for_status()?.bytes().await?.len())
    }

    /// Uploads a file, and answers its `mxc://` URI.
    pub async fn upload(&self, bytes: Vec<u8>) -> Result<String, Failure> {
        let request = self.http.post(format!("{}/_matrix/media/v3/upload", self.url)).bearer_auth(&self.token);
        let request = request.header("content-type", "application/octet-stream").body(bytes);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(answer["content_uri"].as_str().ok_or("no content_uri")?.to_owned())
    }

    pub async fn download(&self, uri: &str) -> Result<usize, Failure> {
        let file = uri.strip_prefix("mxc://").ok_or("not an mxc:// URI")?;
        self.fetch(&format!("/_matrix/client/v1/media/download/{file}")).await
    }

    /// Makes a public room, and answers its id.
    pub async fn create_room(&self) -> Result<String, Failure> {
        let answer = self.post("/_matrix/client/v3/createRoom", json!({ "preset": "public_chat" })).await?;
        Ok(answer["room_id"].as_str().ok_or("no room_id")?.to_owned())
    }

    /// Joins a room, through another server where `via` is given.
    pub async fn join(&self, room: &str, via: Option<&str>) -> Result<(), Refusal> {
        let via = via.map(|server| format!("?via={}&server_name={0}", segment(server))).unwrap_or_default();
        self.post(&format!("/_matrix/client/v3/join/{}{via}", segment(room)), json!({})).await.map(|_| ())
    }

    /// Every event of a room that the user may see, oldest first.
    pub async fn history(&self, room: &str) -> Result<Vec<Value>, Refusal> {
        let mut events = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.get(&room_path(room, &format!("messages?dir=b&limit=500{from}"))).await?;
            events.extend(page["chunk"].as_array().cloned().unwrap_or_default());
            match page["end"].as_str() {
                Some(end) => from = format!("&from={}", segment(end)),
                None => break,
            }
        }
        events.reverse();
        Ok(events)
    }
}

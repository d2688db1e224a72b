//! A client of the control socket.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::{
    Apply, DataContent, DataOutcome, DataPiece, DataPush, DataRevision, DataRollback, Description, Event, Order,
    Outcomes, Problem, Service, Verb, Version,
};

/// Why the daemon could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there: no daemon runs, or it is another user's.
    #[error("no daemon answers at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The daemon refused, and did nothing.
    #[error("{}", problem.message)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        problem: Problem,
    },
    /// The connection broke, or what came is not what was promised.
    #[error("the daemon's answer broke off: {0}")]
    Broken(String),
}

impl ClientError {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Asks the daemon behind a socket. Each request has a connection of its own, for the daemon checks who asks when it is
/// opened.
///
/// ```no_run
/// # async fn example() -> Result<(), thead::control::ClientError> {
/// use thead::control::{Client, Order, Verb};
///
/// let daemon = Client::default();
/// for service in daemon.services().await? {
///     println!("{}: {}", service.name, service.phase.as_str());
/// }
/// let order = Order { targets: vec!["api".into()], ..Order::default() };
/// let done = daemon.order(Verb::Reload, &order, |event| println!("{}", event.text)).await?;
/// assert!(done.ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Default for Client {
    /// The daemon of this user; see [`socket_path`](super::socket_path).
    fn default() -> Self {
        Self::new(super::socket_path())
    }
}

impl Client {
    /// The daemon behind this socket.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What runs there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.get("/v1/version").await
    }

    /// All services, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn services(&self) -> Result<Vec<Service>, ClientError> {
        self.get("/v1/services").await
    }

    /// Everything about one service; with the values of its variables, if they are asked for.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe(&self, service: &str, env: bool) -> Result<Description, ClientError> {
        let query = if env { "?env=true" } else { "" };
        self.get(&format!("/v1/services/{}{query}", escape(service))).await
    }

    /// Orders something, and waits until it is done. What happens meanwhile is told to `progress`.
    ///
    /// # Errors
    /// [`ClientError`]. What was tried and did not succeed is in the [`Outcomes`].
    pub async fn order(
        &self,
        verb: Verb,
        order: &Order,
        progress: impl FnMut(&Event),
    ) -> Result<Outcomes, ClientError> {
        self.work(&format!("/v1/verbs/{}", verb.as_str()), order, progress)
            .await
    }

    /// Puts a configuration in force, or says what that would change.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply(&self, apply: &Apply, progress: impl FnMut(&Event)) -> Result<Outcomes, ClientError> {
        self.work("/v1/apply", apply, progress).await
    }

    /// Stops all services and ends the daemon.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&self, progress: impl FnMut(&Event)) -> Result<Outcomes, ClientError> {
        self.work("/v1/shutdown", &serde_json::json!({}), progress).await
    }

    /// What happens from now on; with `since`, also what happened after the event of that number, as far back as the
    /// daemon remembers. Unless it is to `follow`, the stream ends with the last of these.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, since: Option<u64>, follow: bool) -> Result<Events, ClientError> {
        let since = since.map(|id| format!("&since={id}")).unwrap_or_default();
        self.stream(&format!("/v1/events?follow={follow}{since}")).await
    }

    /// The data that a service pushes to its workers, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn data(&self, service: &str) -> Result<Vec<DataPiece>, ClientError> {
        self.get(&format!("/v1/data/{}", escape(service))).await
    }

    /// The content of a revision; without a number, of what workers have or are trying.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn data_content(
        &self,
        service: &str,
        name: &str,
        revision: Option<u64>,
    ) -> Result<DataContent, ClientError> {
        let query = revision.map(|number| format!("?revision={number}")).unwrap_or_default();
        self.get(&format!("{}{query}", data_path(service, name))).await
    }

    /// The revisions that are remembered, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn data_history(&self, service: &str, name: &str) -> Result<Vec<DataRevision>, ClientError> {
        self.get(&format!("{}/history", data_path(service, name))).await
    }

    /// Pushes data to all workers, and waits until they have answered.
    ///
    /// # Errors
    /// [`ClientError`]. What was refused by a worker or by the check is in the [`DataOutcome`].
    pub async fn push_data(&self, service: &str, name: &str, push: &DataPush) -> Result<DataOutcome, ClientError> {
        self.post_for_outcome(&data_path(service, name), push).await
    }

    /// Pushes the content of an older revision again, and waits until all have answered.
    ///
    /// # Errors
    /// As [`push_data`](Self::push_data).
    pub async fn roll_back_data(
        &self,
        service: &str,
        name: &str,
        rollback: &DataRollback,
    ) -> Result<DataOutcome, ClientError> {
        self.post_for_outcome(&format!("{}/rollback", data_path(service, name)), rollback)
            .await
    }

    /// Deletes a piece that was pushed by hand, with its history. Workers that run keep what they have.
    ///
    /// # Errors
    /// [`ClientError`]; one that is configured is refused.
    pub async fn delete_data(&self, service: &str, name: &str) -> Result<DataOutcome, ClientError> {
        let path = data_path(service, name);
        let (response, _connection) = self.send(Method::DELETE, &path, Bytes::new(), JSON).await?;
        decode(refusal(response).await?).await
    }

    /// A conflict is an outcome too, if it has none of the marks of a problem.
    async fn post_for_outcome(&self, path: &str, body: &impl Serialize) -> Result<DataOutcome, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::broken)?;
        let (response, _connection) = self.send(Method::POST, path, body.into(), JSON).await?;
        let status = response.status();
        if status != StatusCode::CONFLICT {
            return decode(refusal(response).await?).await;
        }
        let body = collect(response).await?;
        let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_default();
        if problem.code.is_empty() {
            return serde_json::from_slice(&body).map_err(ClientError::broken);
        }
        Err(ClientError::Refused {
            status: status.as_u16(),
            problem,
        })
    }

    /// A stream of server-sent events at any path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stream(&self, path: &str) -> Result<Events, ClientError> {
        let (response, connection) = self.send(Method::GET, path, Bytes::new(), EVENT_STREAM).await?;
        Ok(Events::of(refusal(response).await?, connection))
    }

    /// What a GET of this path answers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let (response, _connection) = self.send(Method::GET, path, Bytes::new(), JSON).await?;
        decode(refusal(response).await?).await
    }

    /// What a POST to this path answers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::broken)?;
        let (response, _connection) = self.send(Method::POST, path, body.into(), JSON).await?;
        decode(refusal(response).await?).await
    }

    /// A POST whose answer is told as it comes, and ends with a `result`.
    async fn work(
        &self,
        path: &str,
        body: &(impl Serialize + ?Sized),
        mut progress: impl FnMut(&Event),
    ) -> Result<Outcomes, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::broken)?;
        let (response, connection) = self.send(Method::POST, path, body.into(), EVENT_STREAM).await?;
        let mut events = Events::of(refusal(response).await?, connection);
        while let Some((kind, data)) = events.next_raw().await? {
            if kind == "result" {
                return serde_json::from_slice(&data).map_err(ClientError::broken);
            }
            if let Ok(event) = serde_json::from_slice(&data) {
                progress(&event);
            }
        }
        Err(ClientError::Broken("it ended before the result".into()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        accept: &str,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| ClientError::Unreachable {
                path: self.path.clone(),
                error,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::broken)?;
        let connection = Connection(tokio::spawn(async move {
            // What breaks it is an error of the request too.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "thead")
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, JSON)
            .body(Full::new(body))
            .map_err(ClientError::broken)?;
        let response = sender.send_request(request).await.map_err(ClientError::broken)?;
        Ok((response, connection))
    }
}

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";
/// The longest answer that is read whole, and the longest single event, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Ends with its request.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn refusal(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status == StatusCode::OK || is_events(&response) {
        return Ok(response);
    }
    let body = collect(response).await?;
    let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
        code: "unknown".into(),
        message: format!("the daemon answered {status}: {}", String::from_utf8_lossy(&body)),
        hint: None,
    });
    Err(ClientError::Refused {
        status: status.as_u16(),
        problem,
    })
}

fn is_events(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(EVENT_STREAM.as_bytes()))
}

async fn decode<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    serde_json::from_slice(&collect(response).await?).map_err(ClientError::broken)
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_LIMIT);
    let body = body.collect().await.map_err(ClientError::broken)?;
    Ok(body.to_bytes())
}

/// A stream of server-sent events.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    ready: VecDeque<(String, Bytes)>,
    _connection: Connection,
}

impl Events {
    fn of(response: Response<Incoming>, connection: Connection) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
            ready: VecDeque::new(),
            _connection: connection,
        }
    }

    /// The next event; `None` when the daemon has ended the stream.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match self.next_raw().await? {
            Some((_, data)) => serde_json::from_slice(&data).map(Some).map_err(ClientError::broken),
            None => Ok(None),
        }
    }

    /// As [`next`](Self::next): its kind, and what it carries as it came.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next_raw(&mut self) -> Result<Option<(String, Bytes)>, ClientError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Ok(data) = frame.map_err(ClientError::broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
                if self.buffer.len() > ANSWER_LIMIT {
                    return Err(ClientError::Broken("an event is larger than 64 MiB".into()));
                }
                self.split();
            }
        }
    }

    /// Takes whole events out of the buffer. The daemon writes each with one `data` line.
    fn split(&mut self) {
        while let Some(end) = memchr::memmem::find(&self.buffer, b"\n\n") {
            let event = self.buffer.split_to(end + 2).freeze();
            let (mut kind, mut data) = (String::new(), None);
            for line in event.split(|byte| *byte == b'\n') {
                if let Some(text) = line.strip_prefix(b"event:") {
                    kind = String::from_utf8_lossy(text.trim_ascii()).into_owned();
                } else if let Some(text) = line.strip_prefix(b"data:") {
                    data = Some(event.slice_ref(text.trim_ascii()));
                }
            }
            // Without data it is a comment that keeps the connection alive.
            self.ready.extend(data.map(|data| (kind, data)));
        }
    }
}

fn data_path(service: &str, name: &str) -> String {
    format!("/v1/data/{}/{}", escape(service), escape(name))
}

/// A name as part of a path.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

//! The control socket: HTTP, for whoever the socket's file and the kernel say is its owner.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thead::control::{Apply, Event, Order, Outcomes, Problem, Verb, Version};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::registry::{Registry, problem};

/// Connections of one user at a time; further ones are closed.
const CONNECTIONS: usize = 64;
/// Of those, streams that go on: the others are for whoever wants something.
const STREAMS: usize = 48;
/// How long a request may take to arrive, head and body.
const ARRIVAL: Duration = Duration::from_secs(5);
/// The longest body of a request, in bytes.
pub(super) const BODY_LIMIT: usize = 1 << 20;
/// Between two signs of life on a stream of events.
pub(super) const COMFORT: Duration = Duration::from_secs(15);
/// Pieces of an answer that may wait for a slow reader; further events are missed, and it is told how many.
pub(super) const PIECES: usize = 64;

#[derive(Clone)]
pub(crate) struct Server {
    pub(super) registry: Arc<Registry>,
    version: Arc<Version>,
    /// Told when everything is stopped and the daemon is to end.
    end: Arc<tokio::sync::Notify>,
    streams: Arc<Semaphore>,
}

impl Server {
    /// Room for a stream that goes on.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let text = format!("{STREAMS} streams of events and logs are open already");
            problem("too-many", text, Some("close some"))
        })
    }

    pub(crate) fn new(registry: Arc<Registry>, version: Version, end: Arc<tokio::sync::Notify>) -> Self {
        Self {
            registry,
            version: Arc::new(version),
            end,
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// Answers until it is dropped.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let shared = Arc::clone(&self.registry.shared);
        let router = Router::new()
            .route("/v1/version", get(version))
            .route(
                "/v1/openapi.json",
                get(async || json(StatusCode::OK, &super::openapi::document())),
            )
            .route("/v1/services", get(services))
            .route("/v1/services/{name}", get(describe))
            .route("/v1/events", get(events))
            .route("/v1/logs", get(super::logs::logs))
            .route("/v1/data/{service}", get(super::data::status))
            .route(
                "/v1/data/{service}/{name}",
                get(super::data::content)
                    .post(super::data::push)
                    .delete(super::data::delete),
            )
            .route("/v1/data/{service}/{name}/history", get(super::data::history))
            .route("/v1/data/{service}/{name}/rollback", post(super::data::rollback))
            .route("/v1/verbs/{verb}", post(verb))
            .route("/v1/apply", post(apply))
            .route("/v1/shutdown", post(shutdown))
            .fallback(async || {
                let hint = "docs/openapi.json has what there is";
                refuse(StatusCode::NOT_FOUND, problem("not-found", "no such path", Some(hint)))
            })
            .method_not_allowed_fallback(async || {
                let hint = "docs/openapi.json has what there is";
                refuse(
                    StatusCode::METHOD_NOT_ALLOWED,
                    problem("invalid", "this path has no such method", Some(hint)),
                )
            })
            .layer(axum::middleware::map_response(as_problem))
            .with_state(self);
        let counts = Arc::new(Mutex::new(HashMap::<u32, usize>::new()));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: those that are connected go on.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Some(guest) = Guest::admit(&counts, &stream) else {
                continue;
            };
            let router = router.clone();
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let _guest = guest;
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(ARRIVAL)
                    .max_buf_size(64 << 10)
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .await;
                shared.busy.notify_one();
            });
        }
    }
}

/// A connection that is counted.
struct Guest {
    uid: u32,
    counts: Arc<Mutex<HashMap<u32, usize>>>,
}

impl Guest {
    /// Root and the daemon's own user, each with a number of connections at a time.
    fn admit(counts: &Arc<Mutex<HashMap<u32, usize>>>, stream: &UnixStream) -> Option<Self> {
        let uid = stream.peer_cred().ok()?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut known = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = known.entry(uid).or_default();
        if *count >= CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Self {
            uid,
            counts: Arc::clone(counts),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut known = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = known.get_mut(&self.uid) {
            *count -= 1;
        }
    }
}

/// What axum itself refuses is told in words of its own.
async fn as_problem(response: Response) -> Response {
    let headers = response.headers();
    let plain = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !response.status().is_client_error() || !plain {
        return response;
    }
    let (status, body) = (response.status(), response.into_body());
    let text = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    refuse(status, problem("invalid", String::from_utf8_lossy(&text), None))
}

pub(super) fn refuse(status: StatusCode, problem: Problem) -> Response {
    json(status, &problem)
}

pub(super) fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) fn refused(problem: Problem) -> Response {
    let status = match problem.code.as_str() {
        "not-found" => StatusCode::NOT_FOUND,
        "busy" => StatusCode::CONFLICT,
        "too-many" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    refuse(status, problem)
}

/// The body of a request, if it comes in time, is not too large, and says what it should.
pub(super) async fn body<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, Response> {
    let bad = |status, text: String| refuse(status, problem("invalid", text, None));
    let body = http_body_util::Limited::new(request.into_body(), limit);
    match tokio::time::timeout(ARRIVAL, body.collect()).await {
        Err(_) => Err(bad(
            StatusCode::REQUEST_TIMEOUT,
            format!("the request did not arrive within {ARRIVAL:?}"),
        )),
        Ok(Err(error)) => Err(bad(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request could not be read: {error}; at most {limit} bytes"),
        )),
        Ok(Ok(body)) => {
            let body = body.to_bytes();
            let unexpected = |what: String| {
                bad(
                    StatusCode::BAD_REQUEST,
                    format!("the request is not as expected: {what}"),
                )
            };
            // A list of values in their order would do for serde.
            if !body.trim_ascii_start().starts_with(b"{") {
                return Err(unexpected("it is no object".into()));
            }
            serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()))
        }
    }
}

async fn version(State(server): State<Server>) -> Response {
    json(StatusCode::OK, &*server.version)
}

async fn services(State(server): State<Server>) -> Response {
    json(StatusCode::OK, &server.registry.list())
}

#[derive(Deserialize)]
struct Describe {
    #[serde(default)]
    env: bool,
}

async fn describe(State(server): State<Server>, Path(name): Path<String>, Query(query): Query<Describe>) -> Response {
    match server.registry.describe(&name, query.env).await {
        Ok(description) => json(StatusCode::OK, &description),
        Err(problem) => refused(problem),
    }
}

#[derive(Deserialize)]
struct Since {
    since: Option<u64>,
    follow: Option<bool>,
}

async fn events(State(server): State<Server>, Query(query): Query<Since>, headers: HeaderMap) -> Response {
    // How a browser says where it was when the stream broke.
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let room = match server.stream() {
        Ok(room) => room,
        Err(problem) => return refused(problem),
    };
    let (past, live) = server.registry.shared.journal.watch(last.or(query.since));
    let (sender, body) = Channel::new(PIECES);
    tokio::spawn(async move {
        let mut stream = Stream { sender, live };
        for event in past {
            if !stream.tell(&event).await {
                return;
            }
        }
        if query.follow != Some(false) {
            stream.follow(|_| true, std::future::pending::<()>()).await;
        }
    });
    event_stream(held(body, room))
}

/// A stream that takes room until its client is gone.
pub(super) fn held(
    body: Channel<Bytes, Infallible>,
    room: OwnedSemaphorePermit,
) -> impl HttpBody<Data = Bytes, Error = Infallible> {
    body.map_frame(move |frame| {
        let _ = &room;
        frame
    })
}

pub(super) fn event_stream(body: impl HttpBody<Data = Bytes, Error = Infallible> + Send + 'static) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::new(body)).into_response()
}

/// A stream of events to one client.
struct Stream {
    sender: Sender<Bytes, Infallible>,
    live: Receiver<Event>,
}

impl Stream {
    /// `false`: the client is gone.
    async fn send(&mut self, text: String) -> bool {
        self.sender.send_data(text.into()).await.is_ok()
    }

    async fn tell(&mut self, event: &Event) -> bool {
        let json = serde_json::to_string(event).unwrap_or_default();
        self.send(format!("id: {}\ndata: {json}\n\n", event.id)).await
    }

    /// Tells what is wanted until the end comes; what it brings, if the client is still there.
    async fn follow<T>(&mut self, wanted: impl Fn(&Event) -> bool, end: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(end);
        loop {
            let there = tokio::select! {
                // What was told before the end comes before it.
                biased;
                event = self.live.recv() => match event {
                    Ok(event) if wanted(&event) => self.tell(&event).await,
                    Ok(_) => true,
                    Err(RecvError::Lagged(missed)) => {
                        let text = format!("{missed} events were missed: they were not read fast enough");
                        let event = crate::told::event("", "missed", true, text, serde_json::json!({ "missed": missed }));
                        self.tell(&event).await
                    }
                    Err(RecvError::Closed) => false,
                },
                result = &mut end => return Some(result),
                () = tokio::time::sleep(COMFORT) => self.send(":\n\n".into()).await,
            };
            if !there {
                return None;
            }
        }
    }
}

/// Does something that may take long: it is done to its end whether or not somebody waits for the answer.
async fn work(
    server: &Server,
    headers: &HeaderMap,
    work: impl Future<Output = Result<Outcomes, Problem>> + Send + 'static,
) -> Response {
    let (_, live) = server.registry.shared.journal.watch(None);
    let mut task = tokio::spawn(work);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return match task.await {
            Ok(Ok(outcomes)) if outcomes.ok() => json(StatusCode::OK, &outcomes),
            Ok(Ok(outcomes)) => json(StatusCode::CONFLICT, &outcomes),
            Ok(Err(problem)) => refused(problem),
            Err(_) => broken(),
        };
    }
    // What is refused at once is told by the status, even to those who would listen.
    let quick = tokio::time::timeout(Duration::from_millis(5), &mut task).await;
    if let Ok(Ok(Err(problem))) = quick {
        return refused(problem);
    }
    let (sender, body) = Channel::new(PIECES);
    tokio::spawn(async move {
        let mut stream = Stream { sender, live };
        let result = match quick {
            Ok(result) => Some(result),
            Err(_) => stream.follow(|_| true, &mut task).await,
        };
        let text = match result {
            Some(Ok(Ok(outcomes))) => serde_json::to_string(&outcomes),
            Some(Ok(Err(problem))) => serde_json::to_string(&Outcomes {
                outcomes: vec![thead::control::Outcome {
                    text: problem.message,
                    ..Default::default()
                }],
            }),
            Some(Err(_)) | None => return,
        };
        stream
            .send(format!("event: result\ndata: {}\n\n", text.unwrap_or_default()))
            .await;
    });
    event_stream(body)
}

fn broken() -> Response {
    let text = "thead made a mistake; its error output has more, and the services run on";
    refuse(StatusCode::INTERNAL_SERVER_ERROR, problem("internal", text, None))
}

async fn verb(
    State(server): State<Server>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let Ok(verb) = serde_json::from_value::<Verb>(verb.clone().into()) else {
        let text = format!("there is no verb {verb:?}");
        return refused(problem("not-found", text, Some("docs/openapi.json has what there is")));
    };
    let order: Order = match body(request, BODY_LIMIT).await {
        Ok(order) => order,
        Err(response) => return response,
    };
    let registry = Arc::clone(&server.registry);
    work(&server, &headers, async move { registry.order(verb, &order).await }).await
}

async fn apply(State(server): State<Server>, headers: HeaderMap, request: Request) -> Response {
    let wish: Apply = match body(request, BODY_LIMIT).await {
        Ok(wish) => wish,
        Err(response) => return response,
    };
    let registry = Arc::clone(&server.registry);
    work(&server, &headers, async move { registry.apply(&wish).await }).await
}

async fn shutdown(State(server): State<Server>, headers: HeaderMap) -> Response {
    let (registry, end) = (Arc::clone(&server.registry), Arc::clone(&server.end));
    work(&server, &headers, async move {
        let outcomes = registry.shut_down().await;
        end.notify_one();
        Ok(outcomes)
    })
    .await
}

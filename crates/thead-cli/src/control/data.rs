//! What is asked about the data of services, and passed on to their primaries.

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use thead::control::{DataPush, DataRollback, Problem};

use super::server::{BODY_LIMIT, Server, body, json, refused};
use crate::config::Name;
use crate::role::Ask;
use crate::told::problem;

/// The longest body of a push, in bytes.
const PUSH_LIMIT: usize = 16 << 20;

type Piece = Path<(String, String)>;

#[derive(Deserialize)]
pub(super) struct Which {
    revision: Option<u64>,
}

pub(super) async fn status(State(server): State<Server>, Path(service): Path<String>) -> Response {
    told(server.registry.ask(&service, Ask::Status).await)
}

pub(super) async fn content(
    State(server): State<Server>,
    Path((service, name)): Piece,
    Query(Which { revision }): Query<Which>,
) -> Response {
    ask(&server, &service, &name, |name| Ask::Get { name, revision }).await
}

pub(super) async fn history(State(server): State<Server>, Path((service, name)): Piece) -> Response {
    ask(&server, &service, &name, |name| Ask::History { name }).await
}

pub(super) async fn push(State(server): State<Server>, Path((service, name)): Piece, request: Request) -> Response {
    let push: DataPush = match body(request, PUSH_LIMIT).await {
        Ok(push) => push,
        Err(response) => return response,
    };
    let push = Box::new(push);
    ask(&server, &service, &name, |name| Ask::Push { name, push }).await
}

pub(super) async fn rollback(State(server): State<Server>, Path((service, name)): Piece, request: Request) -> Response {
    let DataRollback { to, .. } = match body(request, BODY_LIMIT).await {
        Ok(rollback) => rollback,
        Err(response) => return response,
    };
    ask(&server, &service, &name, |name| Ask::Rollback { name, to }).await
}

pub(super) async fn delete(State(server): State<Server>, Path((service, name)): Piece) -> Response {
    ask(&server, &service, &name, |name| Ask::Delete { name }).await
}

async fn ask(server: &Server, service: &str, name: &str, ask: impl FnOnce(Name) -> Ask) -> Response {
    let name = match name.parse::<Name>() {
        Ok(name) => name,
        Err(error) => return refused(problem("invalid", format!("{name:?} cannot name data: {error}"), None)),
    };
    let (registry, service, ask) = (server.registry.clone(), service.to_owned(), ask(name));
    // What was begun is done to its end whether or not somebody waits for the answer.
    let asked = tokio::spawn(async move {
        let answer = registry.ask(&service, ask).await;
        answer.map(|mut answer| {
            // What came of a push: the primary does not say whose it is.
            if let Some(whose) = answer.get_mut("service") {
                *whose = Value::String(service);
            }
            answer
        })
    });
    let gone = |_| {
        Err(problem(
            "internal",
            "thead made a mistake; its error output has more",
            None,
        ))
    };
    told(asked.await.unwrap_or_else(gone))
}

fn told(answer: Result<Value, Problem>) -> Response {
    match answer {
        Ok(answer) if answer.get("ok") == Some(&Value::Bool(false)) => json(StatusCode::CONFLICT, &answer),
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(problem) => refused(problem),
    }
}

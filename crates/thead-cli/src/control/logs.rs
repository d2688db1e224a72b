//! `GET /v1/logs`: what workers printed, and go on printing, as server-sent events.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use http_body_util::channel::Channel;
use serde::Deserialize;
use thead::control::Problem;

use super::registry::problem;
use super::server::{PIECES, Server, event_stream, held, refused};
use crate::log::read::{Begin, Filter, Query as Wanted, Reader, Stream};
use crate::log::{Kind, Time};

/// Records that are sent where nothing says how many.
const LINES: usize = 100;

/// What of the logs is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Wish {
    /// Names, with commas between them.
    service: Option<String>,
    lines: Option<usize>,
    /// Milliseconds since 1970.
    since: Option<i64>,
    until: Option<i64>,
    grep: Option<String>,
    stream: Option<String>,
    worker: Option<u32>,
    pid: Option<u32>,
    follow: bool,
    /// Where an earlier answer ended: the `id` of its last event.
    after: Option<String>,
}

pub(super) async fn logs(State(server): State<Server>, Query(wish): Query<Wish>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let (names, wanted) = match understand(&server, &wish, last) {
        Ok(understood) => understood,
        Err(problem) => return refused(problem),
    };
    let room = match server.stream() {
        Ok(room) => room,
        Err(problem) => return refused(problem),
    };
    let dir = server.registry.shared.log_dir.clone();
    let newcomers = wish.service.is_none() && wish.follow;
    let opened = tokio::task::spawn_blocking(move || {
        let reader = Reader::open(&dir, &names, wanted)?;
        match newcomers {
            true => reader.with_newcomers(&dir),
            false => Ok(reader),
        }
    });
    let opened = opened.await;
    let reader = match opened {
        Ok(Ok(reader)) => reader,
        Ok(Err(error)) => return refused(problem("unreadable", error.to_string(), None)),
        Err(error) => return refused(problem("internal", error.to_string(), None)),
    };
    let (mut sender, body) = Channel::new(PIECES);
    tokio::spawn(async move {
        let mut stream = Stream::new(reader);
        loop {
            let batch = tokio::select! {
                batch = stream.next() => batch,
                // A client that has gone is noticed by its silence.
                () = tokio::time::sleep(super::server::COMFORT) => {
                    if sender.send_data(":\n\n".into()).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let text = match batch {
                Ok(Some((entries, cursor))) => {
                    let mut text = String::new();
                    for entry in &entries {
                        text.push_str("data: ");
                        text.push_str(&serde_json::to_string(entry).unwrap_or_default());
                        text.push_str("\n\n");
                    }
                    // Between batches nothing is lost and nothing comes twice.
                    format!("{}\nid: {cursor}\n\n", text.trim_end_matches('\n'))
                }
                Ok(None) => return,
                Err(error) => format!("event: error\ndata: {}\n\n", serde_json::json!(error.to_string())),
            };
            if sender.send_data(text.into()).await.is_err() {
                return;
            }
        }
    });
    event_stream(held(body, room))
}

fn understand(server: &Server, wish: &Wish, last: Option<&str>) -> Result<(Vec<String>, Wanted), Problem> {
    let invalid = |text: String| problem("invalid", text, None);
    let names = match &wish.service {
        Some(names) => names.split(',').map(str::to_owned).collect(),
        None => server
            .registry
            .saved()
            .iter()
            .map(|saved| saved.name.to_string())
            .collect(),
    };
    let grep = wish.grep.as_deref().map(regex::bytes::Regex::new).transpose();
    let kind = |text: &str| match text {
        "stdout" => Ok(Kind::Stdout),
        "stderr" => Ok(Kind::Stderr),
        "thead" => Ok(Kind::Thead),
        _ => Err(invalid(format!("there is no stream {text:?}: stdout, stderr, thead"))),
    };
    let kinds = wish.stream.as_deref().map(|text| text.split(',').map(kind).collect());
    let begin = match (last.or(wish.after.as_deref()), wish.lines, wish.since) {
        (Some(cursor), ..) => Begin::At(cursor.parse().map_err(|error| invalid(format!("{error}")))?),
        (None, Some(lines), _) => Begin::Last(lines),
        (None, None, Some(_)) => Begin::Oldest,
        (None, None, None) => Begin::Last(LINES),
    };
    let wanted = Wanted {
        filter: Filter {
            since: wish.since.map(Time),
            until: wish.until.map(Time),
            grep: grep.map_err(|error| invalid(error.to_string()))?,
            kinds: kinds.transpose()?.unwrap_or_default(),
            slot: wish.worker,
            pid: wish.pid,
        },
        begin,
        follow: wish.follow,
    };
    Ok((names, wanted))
}

//! A worker served by axum, for tests. The guide shows it.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use thead::worker::{Address, Listener, Stream, Worker};

struct Connections(Listener);

impl axum::serve::Listener for Connections {
    type Io = Stream;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.0.accept().await {
            Ok(Some(connection)) => connection,
            // There are no more, and axum is told so by `ended`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(match self.0.local_addr() {
            Address::Ip(address) => Some(*address),
            _ => None,
        })
    }
}

async fn serve(worker: Worker, listener: Listener, app: Router) -> io::Result<()> {
    let ended = listener.ended();
    let leave = async {
        ended.await;
        if std::env::var("GRACEFUL").is_ok_and(|graceful| graceful == "false") {
            // As without a graceful shutdown: whoever waits for the end of this process has to end it.
            std::future::pending::<()>().await;
        }
        // Clients that keep their connections are asked to leave before those that are idle are closed, for a request may
        // just be on its way on one.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let app = app.layer(middleware::map_response_with_state(worker, ask_to_leave));
    axum::serve(Connections(listener), app)
        .with_graceful_shutdown(leave)
        .await
}

async fn ask_to_leave(State(worker): State<Worker>, mut response: Response) -> Response {
    if worker.is_leaving() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn hello() -> impl IntoResponse {
    ([("x-worker", std::process::id().to_string())], "hello")
}

async fn slow() -> impl IntoResponse {
    tokio::time::sleep(Duration::from_millis(50)).await;
    hello().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let worker = Worker::from_env()?;
    let address = std::env::var("ADDRESS").unwrap_or("127.0.0.1:0".into());
    let listener = worker.listen(address).await?;
    println!("{{\"serves\":\"{}\"}}", listener.local_addr());
    let app = Router::new().route("/", get(hello)).route("/slow", get(slow));
    Ok(serve(worker, listener, app).await?)
}

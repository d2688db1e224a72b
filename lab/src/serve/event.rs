//! One event loop: one thread that waits for all connections at once and never for one of them. What waits costs almost
//! nothing, so connections are many; what uses the processor holds all others up, and one processor is all that it uses.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::handler::{Plan, Reply, now, perform, plan};
use super::{Announcement, ServeError, is_passing, rest_async};

/// The model.
pub(super) fn run(listener: TcpListener) -> Result<Infallible, ServeError> {
    let announcement = Announcement::of(&listener)?;
    runtime()?.block_on(async {
        let listener = to_tokio(listener).map_err(ServeError::system("the event loop refused the socket"))?;
        announcement.print()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Only a connection that has ended already refuses it.
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(converse(stream));
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => rest_async("a connection has to wait", &error).await,
            }
        }
    })
}

/// An event loop on this thread.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, ServeError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::system("there is no event loop"))
}

fn to_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Answers all requests of one connection.
pub(super) async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client that goes away midway misses its answer.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let reply = match plan(target) {
        // The one thing that the loop can do while others are served.
        Plan::Wait(time) => {
            let began = now();
            tokio::time::sleep(time).await;
            Reply::span(began)
        }
        other => perform(other),
    };
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static(reply.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

//! A worker served by hyper, for tests. The guide shows it.

use std::error::Error;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use thead::worker::{Listener, Worker};

async fn serve(worker: Worker, mut listener: Listener) -> Result<(), Box<dyn Error>> {
    let open = GracefulShutdown::new();
    while let Some((stream, _)) = listener.accept().await? {
        let worker = worker.clone();
        let service = service_fn(move |request| {
            let worker = worker.clone();
            async move {
                let mut response = answer(request).await?;
                if worker.is_leaving() {
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, hyper::http::Error>(response)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection was lost: {error}");
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.shutdown().await;
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, hyper::http::Error> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let who = std::process::id().to_string();
    Response::builder().header("x-worker", who).body("hello".into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let worker = Worker::from_env()?;
    let address = std::env::var("ADDRESS").unwrap_or("127.0.0.1:0".into());
    let listener = worker.listen(address).await?;
    println!("{{\"serves\":\"{}\"}}", listener.local_addr());
    serve(worker, listener).await
}

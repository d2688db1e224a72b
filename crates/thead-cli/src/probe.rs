//! Asking workers whether they are well: over HTTP, over TCP, by a command.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use thead::Command;
use thead::cluster::PrivateConnection;
use thead::service::{Live, Pace, Prober, Purpose, Settings, Target, Watching};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::address::{HostPort, HttpUrl};
use crate::config::{self, Argv};

/// How often it is asked whether a worker is ready, in milliseconds.
const READY_EVERY: u64 = 250;
/// What is read of an answer until its first line has ended, in bytes.
const LINE: usize = 8 << 10;

/// The probes of one service.
#[derive(Clone, Debug)]
pub(crate) struct Probes {
    ready: Vec<Question>,
    live: Vec<Question>,
    place: Place,
}

/// Where commands are run, and with which variables besides ours.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) env: Vec<(String, String)>,
}

/// What is asked.
#[derive(Clone, Debug)]
enum Question {
    /// Is it answered with 2xx or 3xx?
    Http(HttpUrl),
    /// Does it accept?
    Tcp(HostPort),
    /// Does the command exit with 0?
    Exec(Argv),
}

/// Puts what is said of readiness and life into a service's settings.
///
/// # Errors
/// An address that none can be read from.
pub(crate) fn apply(
    settings: &mut Settings,
    ready: &config::Ready,
    live: &config::Live,
    place: Place,
) -> Result<(), String> {
    let pace = |interval| Pace {
        interval,
        timeout: live.timeout.duration(),
    };
    let ready = match ready {
        config::Ready::Http(url) => vec![Question::http(url)?],
        config::Ready::Tcp(address) => vec![Question::tcp(address)?],
        config::Ready::Exec(argv) => vec![Question::Exec(argv.clone())],
        _ => Vec::new(),
    };
    let http = live.http.iter().map(|url| Question::http(url));
    let tcp = live.tcp.iter().map(|address| Question::tcp(address));
    let exec = live.exec.iter().map(|argv| Ok(Question::Exec(argv.clone())));
    let questions = http.chain(tcp).chain(exec).collect::<Result<Vec<_>, String>>()?;
    settings.watch = Watching {
        heartbeat: live.heartbeat.map(config::Span::duration),
        ready: (!ready.is_empty()).then(|| pace(std::time::Duration::from_millis(READY_EVERY))),
        live: (!questions.is_empty()).then(|| Live {
            pace: pace(live.interval.duration()),
            failures: live.failures,
        }),
    };
    let probes = Probes {
        ready,
        live: questions,
        place,
    };
    settings.prober = Some(Arc::new(probes));
    Ok(())
}

impl Question {
    fn http(url: &str) -> Result<Self, String> {
        HttpUrl::parse(url).map(Self::Http)
    }

    fn tcp(address: &str) -> Result<Self, String> {
        HostPort::parse(address.strip_prefix("tcp://").unwrap_or(address)).map(Self::Tcp)
    }

    fn port(&self) -> Option<u16> {
        match self {
            Self::Http(url) => Some(url.address.port),
            Self::Tcp(address) => Some(address.port),
            Self::Exec(_) => None,
        }
    }

    /// `connection` leads to the worker, if it could be had.
    async fn ask(&self, pid: u32, place: &Place, connection: Option<PrivateConnection>) -> Result<(), String> {
        match self {
            Self::Http(url) => {
                let stream = match connection {
                    Some(PrivateConnection { stream, .. }) => TcpStream::from_std(stream).map_err(failed)?,
                    None => connect(&url.address).await?,
                };
                get(stream, url).await
            }
            Self::Tcp(address) => match connection {
                Some(PrivateConnection { taken, .. }) => {
                    taken.await.map_err(|_| "it did not take a connection".to_owned())
                }
                None => connect(address).await.map(drop),
            },
            Self::Exec(argv) => run(argv, pid, place).await,
        }
    }
}

impl Prober for Probes {
    fn port(&self, purpose: Purpose) -> Option<u16> {
        self.questions(purpose).iter().find_map(Question::port)
    }

    fn probe(&self, target: Target) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
        let questions = self.questions(target.purpose).to_vec();
        let (place, mut connection) = (self.place.clone(), target.connection);
        Box::pin(async move {
            let private = connection.is_some();
            for question in questions {
                // The connection is for the first who can use it. Another way would lead to somebody else.
                let connection = question.port().and_then(|_| connection.take());
                if connection.is_some() || !private || question.port().is_none() {
                    question.ask(target.pid, &place, connection).await?;
                }
            }
            Ok(())
        })
    }
}

impl Probes {
    fn questions(&self, purpose: Purpose) -> &[Question] {
        match purpose {
            Purpose::Ready => &self.ready,
            Purpose::Live => &self.live,
        }
    }
}

fn failed(error: io::Error) -> String {
    error.to_string()
}

async fn connect(address: &HostPort) -> Result<TcpStream, String> {
    TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| format!("{address}: {error}"))
}

/// Asks once, and follows no redirection: one that comes is an answer.
async fn get(mut stream: TcpStream, url: &HttpUrl) -> Result<(), String> {
    let HttpUrl { address, path } = url;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: thead\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.iter().position(|byte| *byte == b'\n') {
            break end;
        }
        let read = stream.read_buf(&mut answer).await.map_err(failed)?;
        if read == 0 {
            return Err("it closed the connection without an answer".into());
        }
        if answer.len() > LINE {
            return Err("it answered with something else than HTTP".into());
        }
    };
    let line = String::from_utf8_lossy(&answer[..end]);
    match status(line.trim_end()) {
        Some(200..=399) => Ok(()),
        Some(_) => Err(format!("{path} is answered with {}", line.trim_end())),
        None => Err("it answered with something else than HTTP".into()),
    }
}

fn status(line: &str) -> Option<u16> {
    let mut words = line.strip_prefix("HTTP/1.")?.split(' ');
    let (_, code) = (words.next()?, words.next()?);
    code.parse().ok().filter(|_| code.len() == 3)
}

async fn run(argv: &Argv, pid: u32, place: &Place) -> Result<(), String> {
    let [program, args @ ..] = argv.words() else {
        return Err("no command".into());
    };
    let mut command = Command::new(program).args(args);
    if let Some(cwd) = &place.cwd {
        command = command.current_dir(cwd);
    }
    for (name, value) in &place.env {
        command = command.env(name, value);
    }
    let output = command
        .env("THEAD_WORKER_PID", pid.to_string())
        .own_group()
        .kill_on_drop();
    let Err(error) = output.output().await else {
        return Ok(());
    };
    let said = String::from_utf8_lossy(&error.output().stderr).into_owned();
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(match last {
        Some(line) => format!("{program}: {}: {line}", error.failure()),
        None => format!("{program}: {}", error.failure()),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::net::TcpListener;

    use super::*;

    fn in_runtime<T>(test: impl AsyncFnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test())
    }

    /// What is made of a server's answer, and what that was asked.
    fn answered(answer: &'static [u8]) -> (Result<(), String>, String) {
        in_runtime(async || {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/healthz?deep", listener.local_addr().unwrap());
            let server = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = vec![0; 4096];
                let read = stream.read(&mut asked).await.unwrap();
                asked.truncate(read);
                let _ = stream.write_all(answer).await;
                String::from_utf8(asked).unwrap()
            });
            let outcome = Question::http(&url).unwrap().ask(1, &Place::default(), None).await;
            (outcome, server.await.unwrap())
        })
    }

    #[test]
    fn two_hundreds_and_three_hundreds_are_well_and_all_else_is_not() {
        for line in ["HTTP/1.1 200 OK\r\n", "HTTP/1.0 204\r\n", "HTTP/1.1 302 Found\n"] {
            assert_eq!(answered(line.as_bytes()).0, Ok(()), "{line}");
        }
        for (line, expected) in [
            (
                "HTTP/1.1 503 Busy\r\n\r\n",
                "/healthz?deep is answered with HTTP/1.1 503 Busy",
            ),
            ("HTTP/1.1 404\r\n", "/healthz?deep is answered with HTTP/1.1 404"),
            ("HTTP/1.1 0200 OK\r\n", "it answered with something else than HTTP"),
            ("SSH-2.0-OpenSSH\r\n", "it answered with something else than HTTP"),
            ("HTTP/1.1 200 OK", "it closed the connection without an answer"),
        ] {
            assert_eq!(answered(line.as_bytes()).0, Err(expected.into()), "{line}");
        }
        let endless = answered([b'x'; LINE + 1].as_slice().to_vec().leak()).0;
        assert_eq!(endless, Err("it answered with something else than HTTP".into()));
    }

    #[test]
    fn it_is_asked_as_a_client_would() {
        let asked = answered(b"HTTP/1.1 200 OK\r\n").1;
        let lines: Vec<_> = asked.lines().collect();
        assert_eq!(lines[0], "GET /healthz?deep HTTP/1.1");
        assert!(lines[1].starts_with("Host: 127.0.0.1:"), "{asked}");
        assert!(lines.contains(&"Connection: close"), "{asked}");
    }

    #[test]
    fn a_command_says_by_its_exit_code_whether_it_is_well() {
        let ask = |line: &str| {
            let argv = Argv::new(vec!["sh".into(), "-c".into(), line.into()]).unwrap();
            let place = Place {
                cwd: Some("/".into()),
                env: vec![("A".into(), "1".into())],
            };
            in_runtime(async || run(&argv, 42, &place).await)
        };
        assert_eq!(ask("test $THEAD_WORKER_PID = 42 -a $A = 1 -a $PWD = /"), Ok(()));
        assert_eq!(ask("exit 3"), Err("sh: exit code 3".into()));
        assert_eq!(
            ask("echo because >&2; echo >&2; exit 1"),
            Err("sh: exit code 1: because".into())
        );
    }

    #[test]
    fn nobody_accepts_where_nobody_listens() {
        let error = in_runtime(async || {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            let question = Question::tcp(&free.to_string()).unwrap();
            question.ask(1, &Place::default(), None).await.unwrap_err()
        });
        assert!(error.contains("refused"), "{error}");
    }
}

//! A Rust program as a worker of a cluster, under thead or under Node's own primary.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let worker = thead::worker::Worker::from_env()?;
//! let mut listener = worker.listen("127.0.0.1:3000".parse()?).await?;
//! while let Some(stream) = listener.accept().await? {
//!     tokio::spawn(async move { drop(stream) });
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use thead_wire::cluster::{AddressType, Envelope, FromWorker, Query, ToWorker};
use thead_wire::endpoint::{self, Event, ReceivedHandle};
use thead_wire::env::{ChannelEnv, EnvError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::channel::{Channel, Handle, Port};
use crate::sys;

/// Why a program cannot be a worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The environment names a channel wrongly.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The descriptor that the environment names is no channel.
    #[error("descriptor {fd} is not a channel")]
    Channel {
        /// Its number.
        fd: i32,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
}

/// This process as a worker: what it has of its primary, if it has one.
#[derive(Clone, Debug)]
pub struct Worker {
    primary: Option<Primary>,
}

#[derive(Clone, Debug)]
struct Primary {
    id: u32,
    requests: mpsc::Sender<Request>,
    stay: watch::Receiver<()>,
}

/// Requests that may wait for the task of the channel.
const REQUESTS: usize = 16;
/// Connections taken from the primary that may wait for [`Listener::accept`]; beyond them an offer is declined, and goes
/// to another worker.
const WAITING: usize = 128;
/// As for a parent's channel.
const ACK_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Request {
    query: Box<Query>,
    granted: oneshot::Sender<io::Result<Granted>>,
}

#[derive(Debug)]
enum Granted {
    Offers(mpsc::Receiver<OwnedFd>),
    Listener(OwnedFd),
}

impl Worker {
    /// Reads the environment, and says `online` to the primary if there is one. Call it once, within a Tokio runtime,
    /// before anything else opens descriptors.
    ///
    /// The variables stay in the environment (removing them is not safe while other threads may read it);
    /// [`Command`](crate::Command) does not pass them on.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn from_env() -> Result<Self, WorkerError> {
        let env = ChannelEnv::read(|name| std::env::var(name).ok())?;
        let Some((env, id)) = env.and_then(|env| Some((env, env.unique_id?))) else {
            return Ok(Self { primary: None });
        };
        let config = endpoint::Config {
            serialization: env.serialization,
            ..endpoint::Config::default()
        };
        let (port, channel) = sys::inherited(env.fd)
            .and_then(|socket| Port::new(socket, config, ACK_TIMEOUT))
            .map_err(|error| WorkerError::Channel { fd: env.fd, error })?;
        let (requests, taken) = mpsc::channel(REQUESTS);
        let (stays, stay) = watch::channel(());
        let mut task = Task {
            channel,
            next_seq: 0,
            asked: HashMap::new(),
            open: HashMap::new(),
            stays: Some(stays),
        };
        task.say(FromWorker::Online);
        tokio::spawn(task.run(port, taken));
        Ok(Self {
            primary: Some(Primary { id, requests, stay }),
        })
    }

    /// The id that the primary gave it; `None` if there is no primary.
    pub fn id(&self) -> Option<u32> {
        self.primary.as_ref().map(|primary| primary.id)
    }

    /// Listens: through the primary if there is one, else by itself.
    ///
    /// # Errors
    /// As `bind` and `listen`; `EPIPE` if the primary is gone.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        let Some(primary) = &self.primary else {
            return Ok(Listener {
                source: Source::Own(TcpListener::bind(address).await?),
                stay: None,
            });
        };
        let query = Query {
            address: Some(address.ip().to_string().into()),
            port: Some(address.port().into()),
            address_type: Some(if address.is_ipv6() {
                AddressType::Ipv6
            } else {
                AddressType::Ipv4
            }),
            flags: Some(0),
            ..Query::default()
        };
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (granted, answer) = oneshot::channel();
        primary
            .requests
            .send(Request {
                query: Box::new(query),
                granted,
            })
            .await
            .map_err(|_| gone())?;
        let source = match answer.await.map_err(|_| gone())?? {
            Granted::Offers(offers) => Source::Offered(offers),
            Granted::Listener(socket) => {
                sys::listen::listen(&socket, 0)?;
                Source::Own(TcpListener::from_std(socket.into())?)
            }
        };
        Ok(Listener {
            source,
            stay: Some(primary.stay.clone()),
        })
    }
}

/// Connections, wherever they come from.
#[derive(Debug)]
pub struct Listener {
    source: Source,
    /// Its sender is gone when the primary has told this worker to leave, or is gone itself. `None` without a primary.
    stay: Option<watch::Receiver<()>>,
}

#[derive(Debug)]
enum Source {
    /// A socket of this process's, or one that all workers share.
    Own(TcpListener),
    /// The primary accepts, and offers.
    Offered(mpsc::Receiver<OwnedFd>),
}

impl Listener {
    /// The next connection; `None` when the primary has told this worker to leave, or is gone: finish what you have, then
    /// exit.
    ///
    /// # Errors
    /// As `accept`.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub async fn accept(&mut self) -> io::Result<Option<TcpStream>> {
        match (&mut self.source, &mut self.stay) {
            (Source::Own(listener), None) => Ok(Some(listener.accept().await?.0)),
            (Source::Own(listener), Some(stay)) => tokio::select! {
                accepted = listener.accept() => Ok(Some(accepted?.0)),
                _ = stay.changed() => Ok(None),
            },
            (Source::Offered(offers), _) => match offers.recv().await {
                Some(connection) => Ok(Some(TcpStream::from_std(connection.into())?)),
                None => Ok(None),
            },
        }
    }
}

/// The worker's end of the channel.
struct Task {
    channel: Channel,
    next_seq: u64,
    asked: HashMap<u64, Request>,
    open: HashMap<Arc<str>, mpsc::Sender<OwnedFd>>,
    /// Dropped when this worker is to leave.
    stays: Option<watch::Sender<()>>,
}

impl Task {
    async fn run(mut self, mut port: Port, mut requests: mpsc::Receiver<Request>) {
        loop {
            while let Some(event) = port.poll_event() {
                match event {
                    Event::Internal(body, handle) => {
                        if let Ok(message) = Envelope::<ToWorker>::from_json(&body) {
                            self.hear(message, handle);
                        }
                    }
                    Event::Closed { .. } => return,
                    _ => {}
                }
            }
            tokio::select! {
                () = port.turn(true) => {}
                Some(request) = requests.recv() => {
                    let query = request.query.clone();
                    let seq = self.say(FromWorker::QueryServer(query));
                    self.asked.insert(seq, request);
                }
            }
        }
    }

    fn say(&mut self, message: FromWorker) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut text = Vec::new();
        Envelope {
            seq: Some(seq),
            message,
        }
        .write_json(&mut text);
        // A closed channel is told by its end.
        let _ = self.channel.send_internal(&text);
        seq
    }

    fn hear(&mut self, message: Envelope<ToWorker>, handle: Option<ReceivedHandle<Handle>>) {
        let handle = handle.and_then(|received| received.handle.into_owned().ok());
        match message.message {
            ToWorker::RoundRobin { ack, key, sockname, .. } => {
                let (offers, taken) = mpsc::channel(WAITING);
                self.open.insert(key, offers);
                self.answer(ack, Ok(Granted::Offers(taken)), sockname.map(|name| name.port));
            }
            ToWorker::Shared { ack, .. } => {
                let port = handle
                    .as_ref()
                    .and_then(|socket| sys::listen::local_address(socket).ok()?)
                    .map(|local| local.port);
                let granted = handle
                    .map(Granted::Listener)
                    .ok_or_else(|| io::ErrorKind::InvalidData.into());
                self.answer(ack, granted, port);
            }
            ToWorker::Refused { ack, errno, .. } => {
                self.answer(ack, Err(io::Error::from_raw_os_error(-errno)), None);
            }
            ToWorker::NewConn { key, .. } => {
                let offers = self.open.get(&key);
                let accepted = handle
                    .zip(offers)
                    .is_some_and(|(connection, offers)| offers.try_send(connection).is_ok());
                if let Some(ack) = message.seq {
                    self.say(FromWorker::Accepted { ack, accepted });
                }
            }
            ToWorker::Disconnect => {
                self.stays = None;
                // Whoever accepts hears of it when the queue ends; connections that are open go on.
                let keys: Vec<_> = self.open.drain().map(|(key, _)| key).collect();
                for key in keys {
                    self.say(FromWorker::Close { key: (&*key).into() });
                }
            }
            ToWorker::Ack { .. } | ToWorker::Unknown { .. } => {}
        }
    }

    /// `port`: the real one, which is not the one that was asked for if that was 0.
    fn answer(&mut self, ack: u64, granted: io::Result<Granted>, port: Option<u16>) {
        let Some(Request {
            mut query,
            granted: answer,
        }) = self.asked.remove(&ack)
        else {
            return;
        };
        let listens = granted.is_ok();
        // Whoever asked may have given up; the listener is dropped then, and its offers are declined.
        let _ = answer.send(granted);
        if listens {
            query.backlog = None;
            query.port = port.map(i32::from).or(query.port);
            self.say(FromWorker::Listening(query));
        }
    }
}

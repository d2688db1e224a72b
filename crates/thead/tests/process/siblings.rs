//! What a misbehaving worker can do to its siblings and to the service: cost it a restart, and nothing else.

use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thead::channel::Fault;
use thead::core::id::WorkerId;
use thead::core::service::{Event, Outcome};
use thead::output::{self, Item};
use thead::service::{Options, Policy, Program, Service, ServiceEvent};
use thead::wire::endpoint::ProtocolError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, LocalSet};

use crate::kit::{forget_peak, in_time, misbehave, peak, test};

/// The one that misbehaves.
const BAD: WorkerId = WorkerId(1);
/// Requests after the misdeed began, or after the culprit was replaced.
const ENOUGH: usize = 500;
const CLIENTS: usize = 6;

/// What was seen of the bad worker.
#[derive(Debug, Default)]
struct Record {
    bad_messages: usize,
    messages: usize,
    faults: Vec<Fault>,
    exits: Vec<Event>,
    lines: usize,
    replaced: bool,
    grown: usize,
}

fn options(what: &str) -> Options {
    let command = misbehave("worker").env("MISBEHAVE", format!("{}={what}", BAD.0));
    let mut options = Options::new(Program::new(command));
    options.settings.life.instances = 3;
    options.settings.life.restart.backoff.first = Duration::from_millis(20);
    options.settings.life.stop.timeout = Duration::from_millis(300);
    options.settings.life.stop.drain = Duration::from_secs(1);
    options.cluster.stuck = Duration::from_secs(1);
    options
}

/// Three workers that serve.
fn honest() -> Options {
    let mut options = options("");
    options.program.command = misbehave("worker");
    options
}

/// Three workers serve, the first does `what`. Clients connect all the while, and each of them has to be answered. Over
/// when enough of them were, after the culprit was replaced if it is to be.
fn trial(what: &str, ends: bool) -> Record {
    trial_of(options(what), ends)
}

fn trial_of(mut options: Options, ends: bool) -> Record {
    let mut record = Record::default();
    test(async || {
        LocalSet::new()
            .run_until(async {
                let before = forget_peak();
                let mut lines = None;
                if options.lines.is_some() {
                    let (sink, taken) = output::queue(64 << 10);
                    (options.lines, lines) = (Some(sink), Some(taken));
                }
                let mut service = Service::start(options).unwrap();
                let operator = service.operator();
                let mut load: Option<Load> = None;
                // A number that is never reached.
                let mut goal = usize::MAX;
                let mut stopping = false;
                loop {
                    let event = tokio::select! {
                        event = service.next() => event.unwrap(),
                        Some(_) = async { Some(load.as_ref()?.reach(goal).await) }, if !stopping => {
                            load.as_mut().unwrap().stop(&mut service).await;
                            stopping = true;
                            operator.stop();
                            continue;
                        }
                        Some(item) = async { lines.as_mut()?.next().await }, if lines.is_some() => {
                            if let Item::Block(block) = item {
                                record.lines += block.line_count();
                            }
                            continue;
                        }
                    };
                    match event {
                        ServiceEvent::Listening { worker, address } => {
                            let port = address.port.unwrap().try_into().unwrap();
                            let load = load.get_or_insert_with(|| Load::start(port));
                            if worker == BAD && !ends {
                                goal = *load.served.borrow() + ENOUGH;
                            }
                            if worker.0 > 3 && ends && !record.replaced {
                                record.replaced = true;
                                goal = *load.served.borrow() + ENOUGH;
                            }
                        }
                        ServiceEvent::BadMessage { worker, .. } => {
                            assert_eq!(worker, BAD);
                            record.bad_messages += 1;
                        }
                        ServiceEvent::Message { worker, .. } => {
                            assert_eq!(worker, BAD);
                            record.messages += 1;
                        }
                        ServiceEvent::Fault { worker, fault } => {
                            assert_eq!(worker, BAD, "{fault}");
                            record.faults.push(fault);
                        }
                        ServiceEvent::Life(event @ Event::Exited { worker, .. }) if !stopping => {
                            assert_eq!(worker, BAD, "{event:?}");
                            record.exits.push(event);
                        }
                        ServiceEvent::Finished(outcome) => {
                            assert_eq!(outcome, Outcome::Stopped);
                            break;
                        }
                        _ => {}
                    }
                }
                assert!(service.next().await.is_none());
                record.grown = peak().saturating_sub(before);
            })
            .await;
    });
    assert!(record.grown < 32 << 20, "grown by {} MiB", record.grown >> 20);
    record
}

/// Clients that connect again and again, each for one request.
struct Load {
    served: watch::Sender<usize>,
    enough: Rc<Cell<bool>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(port: u16) -> Load {
        let (served, enough) = (watch::Sender::new(0), Rc::new(Cell::new(false)));
        let client = |_| {
            let (served, enough) = (served.clone(), enough.clone());
            tokio::task::spawn_local(async move {
                while !enough.get() {
                    in_time("an answer", request(port)).await;
                    served.send_modify(|served| *served += 1);
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load {
            served,
            enough,
            clients,
        }
    }

    async fn reach(&self, goal: usize) -> usize {
        let mut served = self.served.subscribe();
        *served.wait_for(|served| *served >= goal).await.unwrap()
    }

    /// Lets each client finish what it began.
    async fn stop(&mut self, service: &mut Service) {
        self.enough.set(true);
        for mut client in self.clients.drain(..) {
            loop {
                tokio::select! {
                    ended = &mut client => break ended.unwrap(),
                    event = service.next() => drop(event.unwrap()),
                }
            }
        }
    }
}

async fn request(port: u16) {
    ask(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap()).await;
}

async fn ask(mut stream: TcpStream) {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"\r\n\r\nok"), "{}", String::from_utf8_lossy(&answer));
}

/// The bad worker lost its channel for what it did, was ended and replaced.
fn is_ended(what: &str, is_expected: fn(&Fault) -> bool) {
    let record = trial(what, true);
    let [fault] = &record.faults[..] else {
        panic!("{record:?}");
    };
    assert!(is_expected(fault), "{fault:?}");
    assert_eq!(record.exits.len(), 1, "{record:?}");
}

#[test]
fn a_worker_that_sends_a_line_without_end_is_replaced() {
    is_ended("sends an endless line", |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::Frame(_)))
    });
}

#[test]
fn a_worker_that_sends_descriptors_without_need_is_replaced() {
    is_ended("sends 253 descriptors", |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::Unclaimed(_)))
    });
}

#[test]
fn a_worker_that_sends_handles_and_reads_no_answer_is_replaced() {
    is_ended("sends handles and reads no answer", |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::UnreadAnswers))
    });
}

#[test]
fn a_worker_that_closes_its_channel_and_lives_on_is_replaced() {
    let record = trial("closes its channel", true);
    assert_eq!((record.faults.len(), record.exits.len()), (0, 1), "{record:?}");
}

#[test]
fn a_worker_that_dies_in_the_middle_of_a_frame_is_replaced() {
    let record = trial("dies in the middle of a frame", true);
    assert_eq!(record.exits.len(), 1, "{record:?}");
}

#[test]
fn a_connection_in_the_hand_of_a_worker_that_dies_is_served_by_another() {
    let record = trial("dies with a connection in hand", true);
    assert_eq!(record.exits.len(), 1, "{record:?}");
}

#[test]
fn a_worker_that_leaves_its_channel_to_a_flooding_grandchild_is_replaced() {
    let record = trial("leaves its channel to a grandchild that floods", true);
    assert_eq!(record.exits.len(), 1, "{record:?}");
}

#[test]
fn a_worker_that_exits_at_once_is_restarted() {
    let record = trial("exits", true);
    assert_eq!(record.exits.len(), 1, "{record:?}");
}

#[test]
fn lines_that_mean_nothing_are_told_and_harm_nobody() {
    let record = trial("sends bad lines", false);
    assert_eq!(record.bad_messages, 2, "{record:?}");
}

#[test]
fn forged_cluster_messages_are_told_and_harm_nobody() {
    let record = trial("forges cluster messages", false);
    assert!(record.bad_messages > 1_000, "{record:?}");
}

#[test]
fn a_worker_that_asks_for_ten_thousand_listeners_harms_nobody() {
    trial("asks for 10000 listeners", false);
}

#[test]
fn what_a_worker_gives_back_unasked_goes_to_nobody() {
    let record = trial("gives back what it never had", false);
    assert_eq!(record.bad_messages, 64, "{record:?}");
}

#[test]
fn a_worker_that_acknowledges_more_than_it_got_harms_nobody() {
    trial("acknowledges twice", false);
}

#[test]
fn connections_that_a_worker_says_it_never_got_go_to_others() {
    trial("refuses every handle", false);
}

#[test]
fn connections_that_a_worker_does_not_read_go_to_others() {
    trial("never reads", false);
}

#[test]
fn connections_of_a_worker_that_is_stopped_go_to_others() {
    trial("stops", false);
}

#[test]
fn a_flood_of_messages_stops_nobody() {
    let record = trial("floods with messages", false);
    assert!(record.messages > 1_000, "{record:?}");
}

#[test]
fn a_flood_of_large_messages_stops_nobody() {
    trial("floods with large messages", false);
}

/// Among them are those of its offers, which it has not read: nothing says any more that they can be taken back.
#[test]
fn a_flood_of_acknowledgements_stops_nobody() {
    is_ended("floods with acknowledgements", |fault| {
        matches!(fault, Fault::NoAnswer(_))
    });
}

#[test]
fn connections_that_a_worker_takes_without_a_word_go_to_another_when_it_is_given_up() {
    is_ended("reads and answers nothing", |fault| matches!(fault, Fault::NoAnswer(_)));
}

#[test]
fn a_flood_of_cluster_messages_stops_nobody() {
    let record = trial("floods with cluster messages", false);
    assert!(record.bad_messages > 1_000, "{record:?}");
}

#[test]
fn a_flood_of_output_stops_nobody() {
    let mut options = options("prints without end");
    options.lines = Some(output::queue(1).0);
    let record = trial_of(options, false);
    assert!(record.lines > 1_000, "{record:?}");
}

#[test]
fn a_service_whose_workers_all_die_at_once_fails_and_frees_its_ports() {
    test(async || {
        let mut options = options("exits");
        options.program.command = misbehave("dies with a connection in hand");
        options.settings.life.restart.policy = Policy::Always;
        let mut service = Service::start(options).unwrap();
        let (mut spawned, mut outcome) = (0, None);
        while let Some(event) = in_time("the end", service.next()).await {
            match event {
                ServiceEvent::Life(Event::Spawned { .. }) => spawned += 1,
                ServiceEvent::Finished(how) => outcome = Some(how),
                _ => {}
            }
        }
        assert!(matches!(outcome, Some(Outcome::Failed { .. })), "{outcome:?}");
        assert!(spawned <= 5, "{spawned} starts to see that it is broken");
    });
}

#[test]
fn the_ports_of_a_service_are_free_when_it_is_over_though_it_is_not_dropped() {
    test(async || {
        let mut service = Service::start(honest()).unwrap();
        let operator = service.operator();
        let mut port = 0;
        while let Some(event) = in_time("the end", service.next()).await {
            if let ServiceEvent::Listening { address, .. } = event {
                port = address.port.unwrap().try_into().unwrap();
                operator.stop_now();
            }
        }
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// Takes every descriptor that there is.
fn take_all() -> Vec<OwnedFd> {
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    let mut taken: Vec<_> = std::iter::from_fn(|| file.try_clone().ok()).collect();
    taken.push(file);
    taken
}

#[test]
fn without_descriptors_connections_wait_and_with_them_they_are_served() {
    test(async || {
        let original = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(256),
                ..original
            },
        )
        .unwrap();
        let mut service = Service::start(honest()).unwrap();
        let operator = service.operator();
        let mut listening = 0;
        let mut port = 0;
        while listening < 3 {
            if let Some(ServiceEvent::Listening { address, .. }) = in_time("a listener", service.next()).await {
                port = address.port.unwrap().try_into().unwrap();
                listening += 1;
            }
        }
        let sockets: Vec<_> = (0..20).map(|_| TcpSocket::new_v4().unwrap()).collect();
        let taken = take_all();
        assert!(taken.len() > 100);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let clients = sockets.into_iter().map(|socket| async move {
            let stream = in_time("a connection", socket.connect(address)).await.unwrap();
            in_time("an answer", ask(stream)).await;
        });
        let mut clients: JoinSet<()> = clients.collect();
        // Accepting is tried, fails, rests and is tried again; the primary lives.
        let mut some_rests = pin!(tokio::time::sleep(Duration::from_millis(150)));
        loop {
            tokio::select! {
                event = service.next() => drop(event.unwrap()),
                _ = clients.join_next() => panic!("somebody was served"),
                () = &mut some_rests => break,
            }
        }
        drop(taken);
        while !clients.is_empty() {
            tokio::select! {
                event = service.next() => drop(event.unwrap()),
                served = clients.join_next() => served.unwrap().unwrap(),
            }
        }
        operator.stop_now();
        while in_time("the end", service.next()).await.is_some() {}
        setrlimit(Resource::Nofile, original).unwrap();
    });
}

//! Programs that know nothing of Node: sockets passed in, and what they say over `NOTIFY_SOCKET`. The programs are Python's,
//! with nothing but its standard library.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use conformance::{PATIENCE, Run, Thead, client, eventually};
use rustix::process::Signal;

/// What all of them begin with: `tell` writes to the socket, `say` to whoever tests.
const PRELUDE: &str = "
import os, signal, socket, sys, time
def say(*words): print(*words, flush=True)
def tell(text, to=os.environ.get('NOTIFY_SOCKET', '')):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), '\\0' + to[1:] if to.startswith('@') else to)
";

/// A server on a socket that is passed in. Told to leave, it finishes the request that it has.
const SERVER: &str = "
import select
assert os.environ['LISTEN_PID'] == str(os.getpid()), 'for me'
listener = socket.socket(fileno=3 + os.environ['LISTEN_FDNAMES'].split(':').index('http'))
say('blocking', os.get_blocking(listener.fileno()))
listener.setblocking(False)
say('port', listener.getsockname()[1])
told, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
signal.signal(signal.SIGTERM, lambda *_: None)
tell('READY=1\\nSTATUS=serving')
while told not in select.select([listener, told], [], [])[0]:
    try: connection, _ = listener.accept()
    except BlockingIOError: continue
    connection.setblocking(True)
    with connection:
        request = b''
        while b'\\r\\n\\r\\n' not in request: request += connection.recv(65536)
        head = 'HTTP/1.1 200 OK\\r\\nx-pid: %d\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\n' % os.getpid()
        connection.sendall(head.encode() + b'hello')
";

fn python(text: &str) -> Run {
    Run::words(["python3", "program.py"]).file("program.py", &format!("{PRELUDE}{text}"))
}

fn said(thead: &mut Thead, word: &str) -> String {
    let line = thead.wait_for("line", |said| said.text("text").starts_with(word));
    line.text("text")[word.len()..].trim().to_owned()
}

#[test]
fn a_plain_server_gets_its_socket_as_from_systemd_and_serves_on_all_workers() {
    let run = python(SERVER).workers(2).option("--ready", "notify");
    let mut thead = run.option("--listen", "http=tcp://127.0.0.1:0").start();
    let port = said(&mut thead, "port").parse().unwrap();
    thead.ready(2);
    // Whoever is first finds it blocking, and whoever comes later as the first left it.
    assert_eq!(said(&mut thead, "blocking"), "True");
    client::until_all(2, || [client::get(port, "/").pid()]);
    assert_eq!(thead.next("notice").json["notice"]["status"], "serving");
    thead.stop_cleanly();
}

#[test]
fn g1_a_reload_of_plain_servers_loses_no_request() {
    let run = python(SERVER)
        .workers(2)
        .option("--ready", "notify")
        .option("--soak", "200ms");
    let mut thead = run.option("--listen", "http=tcp://127.0.0.1:0").start();
    let port: u16 = said(&mut thead, "port").parse().unwrap();
    thead.ready(2);
    let load = std::thread::spawn(move || {
        let (begun, mut who) = (Instant::now(), BTreeSet::new());
        while begun.elapsed() < Duration::from_secs(4) {
            who.insert(client::get(port, "/").pid());
        }
        who
    });
    for _ in 0..3 {
        thead.signal(Signal::HUP);
        thead.next("reload_done");
    }
    assert!(load.join().unwrap().len() > 4, "the new ones served too");
    thead.stop_cleanly();
}

#[test]
fn connections_wait_in_a_socket_while_no_worker_is_there() {
    let run = python(SERVER)
        .workers(1)
        .option("--ready", "notify")
        .option("--restart-backoff", "700ms..700ms");
    let mut thead = run.option("--listen", "http=tcp://127.0.0.1:0").start();
    let port: u16 = said(&mut thead, "port").parse().unwrap();
    thead.ready(1);
    conformance::kill(thead.pid_of(1), Signal::KILL);
    thead.next("exited");
    assert_eq!(client::get(port, "/").pid(), thead.pid_of(2));
    thead.stop_cleanly();
}

#[test]
fn udp_and_unix_sockets_are_passed_in_by_their_names() {
    let text = "
names = os.environ['LISTEN_FDNAMES'].split(':')
assert os.environ['LISTEN_FDS'] == str(len(names)) == '2'
of = {name: socket.socket(fileno=3 + at) for at, name in enumerate(names)}
say('port', of['dns'].getsockname()[1])
connection, _ = of['web'].accept()
connection.sendall(of['dns'].recv(100))
connection.close()
signal.pause()
";
    let run = python(text).option("--listen", "dns=udp://127.0.0.1:0");
    let socket = run.dir().join("web.sock");
    // Both by one option each; the last of a name counts here.
    let run = run
        .under(["env"])
        .flag(&format!("--listen=web=unix://{}", socket.display()));
    let mut thead = run.start();
    let port: u16 = said(&mut thead, "port").parse().unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"by both ways", ("127.0.0.1", port)).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "by both ways");
    thead.stop();
    assert!(!socket.exists(), "its file is removed");
}

#[test]
fn a_socket_that_cannot_be_bound_is_told_before_anything_starts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("tcp://{}", taken.local_addr().unwrap());
    let end = python("").option("--listen", format!("http={url}")).end();
    assert_eq!(end.code, Some(1));
    let message = end.only("error").text("message").to_owned();
    assert!(
        message.contains(&url) && message.contains("another process has it"),
        "{message}"
    );
    assert!(end.all("spawned").is_empty());
    let end = python("").option("--listen", "http=3000").end();
    assert_eq!(end.code, Some(2));
}

#[test]
fn g4_a_program_is_ready_when_it_says_so_and_not_before() {
    let text = "
time.sleep(1.2)
tell('READY=1')
signal.pause()
";
    let mut thead = python(text).option("--ready", "notify").start();
    let took = thead.next("ready").number("took_ms");
    assert!((1200..4000).contains(&took), "{took}");
    thead.stop();
    let end = python("signal.pause()")
        .option("--ready", "notify")
        .option("--ready-timeout", "300ms")
        .end();
    assert_eq!(end.code, Some(1));
    assert!(end.only("failed").text("reason").contains("was not ready within 300ms"));
}

#[test]
fn who_needs_longer_to_start_says_so() {
    let text = "
tell('EXTEND_TIMEOUT_USEC=10000000')
time.sleep(1)
tell('READY=1')
signal.pause()
";
    let mut thead = python(text)
        .option("--ready", "notify")
        .option("--ready-timeout", "500ms")
        .start();
    assert!(thead.next("ready").number("took_ms") >= 1000);
    thead.stop();
}

#[test]
fn only_a_process_of_the_workers_can_speak_for_it() {
    let text = "
say('socket', os.environ['NOTIFY_SOCKET'])
sys.stdin.read()
while not os.path.exists('go'): time.sleep(0.01)
if os.fork() == 0:
    # A child of the worker's, in a session of its own.
    os.setsid()
    tell('READY=1\\nMAINPID=1\\nMAINPID=%d' % os.getpid())
    say('told')
    signal.pause()
signal.pause()
";
    let mut thead = python(text).option("--ready", "notify").start();
    let socket = said(&mut thead, "socket");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // This test is no process of the worker's.
    let forger = UnixDatagram::unbound().unwrap();
    forger.send_to(b"READY=1\nSTATUS=forged\nMAINPID=1", &socket).unwrap();
    std::fs::write(thead.dir().join("go"), "").unwrap();
    said(&mut thead, "told");
    thead.next("ready");
    let notices = thead.all("notice");
    let named: Vec<_> = notices
        .iter()
        .map(|said| said.json["notice"]["main_pid"].as_u64())
        .collect();
    assert!(matches!(named[..], [Some(2..)]), "{notices:?}");
    // Its main process gets the signal too, though it has left the worker's group.
    thead.stop();
    assert!(!std::path::Path::new(&socket).exists());
}

#[test]
fn g19_a_program_that_stops_its_watchdog_is_replaced_within_two_heartbeats() {
    let text = "
assert os.environ['WATCHDOG_PID'] == str(os.getpid())
every = int(os.environ['WATCHDOG_USEC']) / 2e6
tell('READY=1')
for _ in range(4):
    time.sleep(every / 2)
    tell('WATCHDOG=1')
say('hangs', every)
import faulthandler; faulthandler.enable()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: time.sleep(1)
";
    let mut thead = python(text)
        .option("--heartbeat", "800ms")
        .option("--ready", "notify")
        .start();
    assert_eq!(said(&mut thead, "hangs"), "0.8");
    let since = Instant::now();
    let told = thead.next("terminating");
    assert!(
        since.elapsed() < Duration::from_millis(1600 + 400),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(told.text("why"), "it was stuck: no heartbeat for 1.6s");
    let gone = thead.next("exited");
    assert_eq!(gone.number("signal"), 6);
    let lines = gone.json["last_lines"].to_string();
    assert!(lines.contains("program.py"), "SIGABRT lets it write its stack: {lines}");
    thead.next("ready");
    thead.signal(Signal::TERM);
    thead.wait();
}

#[test]
fn a_program_that_says_it_is_in_trouble_is_replaced_at_once() {
    let mut thead = python("tell('READY=1')\nif not os.path.exists('once'):\n    open('once', 'w')\n    tell('WATCHDOG=trigger')\nsignal.pause()").start();
    assert_eq!(thead.next("terminating").text("why"), "it was stuck: it said so itself");
    thead.ready(2);
    thead.stop();
}

#[test]
fn a_barrier_ends_when_all_before_it_was_read_and_descriptors_are_not_kept() {
    let text = "
reader, writer = os.pipe()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.connect(os.environ['NOTIFY_SOCKET'])
    s.send(b'READY=1')
    socket.send_fds(s, [b'FDSTORE=1\\nFDNAME=a'], [reader])
    socket.send_fds(s, [b'BARRIER=1'], [writer])
os.close(writer)
say('passed', os.read(reader, 1))
say('nonsense')
tell('READY=2\\nMAINPID=x')
tell('READY=1\\0')
signal.pause()
";
    let mut thead = python(text).option("--ready", "notify").start();
    assert_eq!(said(&mut thead, "passed"), "b''");
    assert_eq!(thead.next("notice").json["notice"], "fdstore");
    for _ in 0..3 {
        thead.next("bad_message");
    }
    let before = thead.process().descriptors();
    eventually("nothing is kept", || {
        (thead.process().descriptors() <= before).then_some(())
    });
    thead.stop();
}

#[test]
fn a_flood_of_notices_stops_nobody() {
    let text = "
tell('READY=1')
if not os.path.exists('once'):
    open('once', 'w')
    say('floods')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ['NOTIFY_SOCKET'])
        while True: s.send(b'STATUS=' + b'x' * 4000)
signal.pause()
";
    let mut thead = python(text).workers(2).start();
    said(&mut thead, "floods");
    thead.ready(2);
    let begun = Instant::now();
    thead.signal(Signal::TTIN);
    thead.ready(1);
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    thead.stop();
}

/// A Node server that listens on the descriptor of a socket that thead holds.
#[test]
fn a_node_worker_listens_on_a_socket_that_was_passed_in() {
    let text = "
        require('node:http').createServer((req, res) => res.setHeader('x-pid', process.pid).end('hello'))
            .listen({ fd: 3 });
    ";
    let port = client::free_port();
    let run = Run::script(conformance::Runtime::Node22, text);
    let mut thead = run.option("--listen", format!("http=tcp://127.0.0.1:{port}")).start();
    thead.next("started");
    // Before anybody listens there is somebody who holds the socket.
    let mut early = TcpStream::connect(client::local(port)).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(early, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    thead.ready(2);
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    client::until_all(2, || [client::get(port, "/").pid()]);
    thead.stop_cleanly();
}

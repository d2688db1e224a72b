//! Each model is what it says: counted, timed by its own clock, and killed, all from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::TcpListener;

use lab::model::{Candidate, Kind, Model};
use lab::peer::Peer;
use rustix::process::Signal;

use kit::{Client, Server, Span, State, eventually, kill, most_at_once, processor_time, said_to};

mod kit;

const CLUSTERS: [Model; 3] = [Model::ClusterRoundRobin, Model::ClusterShared, Model::ClusterKernel];

fn distinct<T: Ord>(values: impl IntoIterator<Item = T>) -> usize {
    values.into_iter().collect::<BTreeSet<_>>().len()
}

#[test]
fn each_model_has_as_many_processes_and_threads_as_it_says() {
    let (processes, threads) = (3, 4);
    for model in Model::ALL {
        let expected = match model {
            Model::Sync | Model::Event | Model::ForkEach | Model::ThreadEach => vec![1],
            // A parent, and those that serve.
            Model::Prefork | Model::ClusterRoundRobin | Model::ClusterShared | Model::ClusterKernel => vec![1, 1, 1, 1],
            Model::ThreadPool => vec![1, 4, 4, 4],
        };
        let server = Server::start(model, processes, threads);
        eventually(model.name(), || (server.threads() == expected).then_some(()));
        server.stop();
    }
}

#[test]
fn each_connection_gets_a_process_that_goes_with_it() {
    let server = Server::start(Model::ForkEach, 1, 1);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    let pids: BTreeSet<_> = clients.iter_mut().map(Client::pid).collect();
    let processes = server.processes();
    assert_eq!(processes.len(), 6);
    assert_eq!(processes[1..].iter().copied().collect::<BTreeSet<_>>(), pids);
    drop(clients);
    eventually("no child, no zombie", || {
        (server.processes() == [server.pid]).then_some(())
    });
    server.stop();
}

#[test]
fn each_connection_gets_a_thread_that_goes_with_it() {
    let server = Server::start(Model::ThreadEach, 1, 1);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    assert_eq!(distinct(clients.iter_mut().map(Client::pid)), 1);
    assert_eq!(server.threads(), [6]);
    drop(clients);
    eventually("no thread is left", || (server.threads() == [1]).then_some(()));
    server.stop();
}

#[test]
fn sync_does_one_request_at_a_time() {
    let server = Server::start(Model::Sync, 1, 1);
    let spans = server.at_once(5, "/io?ms=30");
    assert_eq!(most_at_once(&spans), 1, "{spans:?}");
    assert_eq!(distinct(spans.iter().map(|span| span.thread)), 1);
    let whole =
        spans.iter().map(|span| span.ended_us).max().unwrap() - spans.iter().map(|span| span.began_us).min().unwrap();
    assert!(whole >= 5 * 30_000, "two overlap: {spans:?}");
    server.stop();
}

#[test]
fn a_client_that_keeps_its_connection_does_not_keep_sync_from_others() {
    let server = Server::start(Model::Sync, 1, 1);
    let mut first = server.connect();
    assert!(!first.get("/").closes, "nobody else waits");
    let mut second = server.connect();
    second.send("/");
    assert!(first.get("/").closes, "another one waits");
    assert!(first.is_over());
    assert!(!second.receive().unwrap().closes);
    server.stop();
}

#[test]
fn prefork_does_as_many_requests_at_a_time_as_it_has_processes() {
    let server = Server::start(Model::Prefork, 3, 1);
    let spans = server.at_once(9, "/io?ms=100");
    assert_eq!(most_at_once(&spans), 3, "{spans:?}");
    assert_eq!(distinct(spans.iter().map(|span| span.pid)), 3);
    server.stop();
}

#[test]
fn a_pool_does_as_many_requests_at_a_time_as_it_has_threads_in_all_processes() {
    let server = Server::start(Model::ThreadPool, 2, 3);
    let spans = server.at_once(18, "/io?ms=100");
    assert_eq!(most_at_once(&spans), 6, "{spans:?}");
    assert_eq!(distinct(spans.iter().map(|span| span.pid)), 2);
    assert_eq!(distinct(spans.iter().map(|span| span.thread)), 6);
    server.stop();
}

#[test]
fn as_many_processes_or_threads_as_connections_do_all_requests_at_a_time() {
    for (model, processes) in [(Model::ForkEach, 20), (Model::ThreadEach, 1)] {
        let server = Server::start(model, 1, 1);
        let spans = server.at_once(20, "/io?ms=1000");
        assert_eq!(most_at_once(&spans), 20, "{model}: {spans:?}");
        assert_eq!(distinct(spans.iter().map(|span| span.pid)), processes);
        assert_eq!(distinct(spans.iter().map(|span| span.thread)), 20);
        server.stop();
    }
}

#[test]
fn a_hundred_waits_overlap_in_one_event_loop() {
    let server = Server::start(Model::Event, 1, 1);
    let spans = server.at_once(100, "/io?ms=1000");
    assert_eq!(most_at_once(&spans), 100, "{spans:?}");
    assert_eq!(distinct(spans.iter().map(|span| span.thread)), 1);
    assert_eq!(server.threads(), [1]);
    server.stop();
}

/// A short wait and a long burn at the same time.
fn wait_beside_burn(server: &Server) -> (Span, Span) {
    let (mut waits, mut burns) = (server.connect(), server.connect());
    // Both are known to the server before anything is asked.
    waits.get("/");
    burns.get("/");
    waits.send("/io?ms=50");
    burns.send("/cpu?ms=500");
    (waits.receive().unwrap().json(), burns.receive().unwrap().json())
}

#[test]
fn a_burn_holds_up_all_others_of_an_event_loop_but_none_of_another_thread() {
    let server = Server::start(Model::Event, 1, 1);
    let (wait, burn) = wait_beside_burn(&server);
    assert!(wait.ended_us >= burn.ended_us, "{wait:?} {burn:?}");
    server.stop();
    let server = Server::start(Model::ThreadEach, 1, 1);
    let (wait, burn) = wait_beside_burn(&server);
    assert!(wait.ended_us < burn.ended_us, "{wait:?} {burn:?}");
    server.stop();
}

#[test]
fn a_burn_is_processor_time_and_no_less() {
    let server = Server::start(Model::Event, 1, 1);
    let used = || processor_time(server.pid);
    server.get("/");
    let before = used();
    server.get("/cpu?ms=200");
    let burned = used() - before;
    // What the request itself costs comes on top.
    assert!((200..220).contains(&burned.as_millis()), "{burned:?}");
    server.stop();
}

#[test]
fn all_workers_of_a_cluster_serve_one_port() {
    for model in CLUSTERS {
        let server = Server::start(model, 2, 1);
        let workers: BTreeSet<_> = server
            .processes()
            .into_iter()
            .filter(|pid| *pid != server.pid)
            .collect();
        let mut served = BTreeSet::new();
        eventually(&format!("all workers of {model} have served"), || {
            // Where they accept from one socket, one that has nothing to do may take all there is.
            served.extend(server.at_once(4, "/cpu?ms=20").iter().map(|span| span.pid));
            (served == workers).then_some(())
        });
        let spans = server.at_once(40, "/io?ms=1000");
        assert_eq!(most_at_once(&spans), 40, "{model}: {spans:?}");
        server.stop();
    }
}

#[test]
fn each_process_has_a_copy_of_the_state_and_threads_share_one() {
    let requests = |server: &Server| server.get("/state").json::<State>().requests;
    let server = Server::start(Model::ForkEach, 1, 1);
    assert_eq!([requests(&server), requests(&server), requests(&server)], [1, 1, 1]);
    server.stop();
    for model in [Model::Sync, Model::ThreadEach, Model::Event] {
        let server = Server::start(model, 1, 1);
        assert_eq!(
            [requests(&server), requests(&server), requests(&server)],
            [1, 2, 3],
            "{model}"
        );
        server.stop();
    }
    for model in CLUSTERS.into_iter().chain([Model::Prefork, Model::ThreadPool]) {
        let server = Server::start(model, 2, 2);
        let states: Vec<State> = (0..40).map(|_| server.get("/state").json()).collect();
        for pid in states.iter().map(|state| state.pid).collect::<BTreeSet<_>>() {
            let counted: Vec<_> = states
                .iter()
                .filter(|state| state.pid == pid)
                .map(|state| state.requests)
                .collect();
            assert!(
                counted.iter().copied().eq(1..=counted.len() as u64),
                "{model}: {counted:?}"
            );
        }
        server.stop();
    }
}

#[test]
fn a_crash_takes_everybody_along_where_there_is_one_process() {
    for model in [Model::Sync, Model::ThreadEach, Model::Event] {
        let mut server = Server::start(model, 1, 1);
        let mut crashes = server.connect();
        crashes.pid();
        let mut other = server.connect();
        if model != Model::Sync {
            other.pid();
        }
        other.send("/io?ms=10000");
        crashes.send("/crash?n=20000");
        assert!(crashes.receive().is_err(), "{model}");
        assert!(other.receive().is_err(), "{model}");
        assert_eq!(server.ended(), Some(1), "{model}");
    }
}

#[test]
fn a_crash_takes_nobody_along_where_each_connection_has_a_process() {
    let server = Server::start(Model::ForkEach, 1, 1);
    let (mut crashes, mut other) = (server.connect(), server.connect());
    let (dies, lives) = (crashes.pid(), other.pid());
    crashes.send("/crash?n=10000");
    assert!(crashes.receive().is_err());
    assert_eq!(other.pid(), lives);
    eventually("it is collected", || {
        (server.processes() == [server.pid, lives]).then_some(())
    });
    assert_ne!(server.connect().pid(), dies);
    server.stop();
}

#[test]
fn a_crash_takes_the_connections_of_one_worker_along_and_the_worker_is_replaced() {
    // As many connections as the workers can hold, or some.
    let models = [(Model::Prefork, 2), (Model::ThreadPool, 4)];
    for (model, connections) in models.into_iter().chain(CLUSTERS.map(|model| (model, 4))) {
        let server = Server::start(model, 2, 2);
        let (mut clients, mut pids) = (Vec::new(), Vec::new());
        // One after the other: none of them has to wait, so each is kept. Who accepts first may accept many.
        while clients.len() < connections || distinct(&pids) < 2 {
            let mut client = server.connect();
            pids.push(client.pid());
            clients.push(client);
        }
        let victim = pids[0];
        clients[0].send("/crash?n=10000");
        assert!(clients[0].receive().is_err(), "{model}");
        for (client, pid) in clients.iter_mut().zip(&pids) {
            if *pid == victim {
                assert!(client.is_over(), "{model}");
            } else {
                assert_eq!(client.pid(), *pid, "{model}");
            }
        }
        // The new one serves on the same port.
        let new = eventually(&format!("a replacement, {model}"), || {
            let mut pid = server.processes().into_iter();
            pid.find(|pid| *pid != server.pid && !pids.contains(pid))
        });
        eventually("the replacement serves", || {
            (server.connect().pid() == new).then_some(())
        });
        assert_eq!(server.processes().len(), 3, "{model}");
        server.stop();
    }
}

#[test]
fn all_models_answer_alike() {
    for model in Model::ALL {
        let server = Server::start(model, 1, 1);
        answers_as_the_lab_does(&server, 0);
        let missing = server.get("/nothing");
        assert_eq!(
            (missing.status, missing.text().contains("/state")),
            (404, true),
            "{model}"
        );
        for bad in ["/io?ms=soon", "/cpu?ms=60001", "/body?bytes=1048577", "/crash?n=-1"] {
            assert_eq!(server.get(bad).status, 400, "{model}: {bad}");
        }
        server.stop();
    }
}

/// What every server can do, peers too. They may be early by so many microseconds.
fn answers_as_the_lab_does(server: &Server, early: u64) {
    let took = |span: Span, least: u64| assert!(span.ended_us - span.began_us >= least - early, "{span:?}");
    let mut client = server.connect();
    let mut get = |target: &str| {
        let response = client.get(target);
        // One request in a connection is all that some peers do.
        if response.closes {
            client = server.connect();
        }
        assert_eq!(response.status, 200, "{target}");
        response
    };
    assert_eq!(get("/").text(), "hello from the lab\n");
    assert_eq!(get("/body?bytes=1024").body, [b'x'; 1024]);
    assert_eq!(get("/body?bytes=1048576").body, [b'x'; 1 << 20]);
    took(get("/io?ms=20").json(), 20_000);
    took(get("/cpu?ms=20").json(), 20_000);
    assert_eq!(get("/mix?n=99").text(), "fast\n");
    took(get("/mix?n=300").json(), 100_000);
    assert_eq!(get("/crash?n=9999").text(), "survived\n");
    let state: State = get("/state").json();
    assert!(server.processes().contains(&state.pid));
}

#[test]
fn all_models_keep_connections_and_close_them_as_they_are_asked() {
    for model in Model::ALL {
        let server = Server::start(model, 2, 2);
        let mut client = server.connect();
        for _ in 0..3 {
            assert!(!client.get("/").closes, "{model}");
        }
        // Two at once, on one connection.
        client.write(&"GET / HTTP/1.1\r\nHost: lab\r\n\r\n".repeat(2));
        assert_eq!(
            [client.receive().unwrap().status, client.receive().unwrap().status],
            [200, 200],
            "{model}"
        );
        // In pieces.
        client.write("GET / HTTP/1.1\r\nHo");
        client.write("st: lab\r\nConnection: Close\r\n\r\n");
        assert!(client.receive().unwrap().closes, "{model}");
        assert!(client.is_over(), "{model}");
        let mut old = server.connect();
        old.write("GET / HTTP/1.0\r\n\r\n");
        assert_eq!(old.receive().unwrap().status, 200, "{model}");
        assert!(old.is_over(), "{model}");
        let mut stranger = server.connect();
        stranger.write("this is no HTTP\r\n\r\n");
        assert_eq!(stranger.receive().unwrap().status, 400, "{model}");
        assert!(stranger.is_over(), "{model}");
        server.stop();
    }
}

#[test]
fn what_the_blocking_servers_do_not_know_they_refuse() {
    let server = Server::start(Model::Sync, 1, 1);
    for (request, status) in [
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 405),
        ("GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), 400),
    ] {
        let mut client = server.connect();
        client.write(&request);
        let response = client.receive().unwrap();
        assert_eq!((response.status, response.closes), (status, true), "{request:.40}");
    }
    server.stop();
}

#[test]
fn nothing_is_left_of_any_model_whatever_it_is_doing() {
    for model in Model::ALL {
        for end in [Server::stop as fn(Server), Server::let_go] {
            let server = Server::start(model, 2, 2);
            let mut busy = server.connect();
            busy.send("/io?ms=60000");
            let _idle = server.connect();
            end(server);
            assert!(busy.receive().is_err(), "{model}");
        }
    }
}

#[test]
fn nothing_is_left_of_a_server_whose_supervisor_is_killed() {
    for model in Model::ALL {
        let server = Server::start(model, 2, 2);
        let mut busy = server.burning();
        server.signal(Signal::KILL);
        eventually(model.name(), || (!server.is_alive()).then_some(()));
        assert!(busy.receive().is_err(), "{model}");
    }
}

#[test]
fn what_outlives_a_server_is_ended_with_it() {
    let kinds = [
        Kind::Peer(Peer::NodeCluster),
        Model::Prefork.into(),
        Model::ClusterRoundRobin.into(),
    ];
    for kind in kinds {
        let mut server = Server::start(kind, 2, 1);
        let mut busy = server.burning();
        kill(server.pid, Signal::KILL);
        assert_eq!(server.ended(), Some(1), "{kind}");
        assert!(busy.receive().is_err(), "{kind}");
    }
}

#[test]
fn peers_answer_as_the_models_do_or_say_how_to_install_them() {
    for peer in Peer::ALL {
        let command = match Candidate::new(Kind::Peer(peer), 2, 2).command() {
            Ok(command) => command,
            Err(missing) => {
                assert!(missing.to_string().contains(missing.command), "{missing}");
                let output = said_to(&["serve", peer.name()]);
                assert_eq!(output.status.code(), Some(2));
                assert!(String::from_utf8(output.stderr).unwrap().contains(missing.command));
                println!("not tested: {missing}");
                continue;
            }
        };
        let server = Server::by(command);
        if peer == Peer::Nginx {
            assert_eq!(server.get("/").text(), "hello from the lab\n");
            assert_eq!(server.get("/body?bytes=1048576").body, [b'x'; 1 << 20]);
            assert_eq!(server.get("/io").status, 404);
        } else {
            // Node's timers know milliseconds only.
            answers_as_the_lab_does(&server, 1500);
            assert_eq!(server.get("/io?ms=soon").status, 400, "{peer:?}");
        }
        server.stop();
    }
}

#[test]
fn what_cannot_be_done_is_refused_with_what_would_mend_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let refused = |words: &[&str], hints: &[&str]| {
        let output = said_to(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        for hint in hints {
            assert!(said.contains(hint), "{words:?}: no {hint:?} in: {said}");
        }
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
    };
    let names = Kind::ALL.map(Kind::name);
    refused(&["serve", "evnt"], &["evnt", "a similar value exists: 'event'"]);
    refused(&["serve", "nothing-like-it"], &names);
    refused(&["serve", "prefork", "--processes", "0"], &["0 is not in 1..=1024"]);
    refused(&["serve", "pool", "--threads", "0"], &["0 is not in 1..=4096"]);
    refused(
        &["serve", "event", "--processes", "2"],
        &["one event loop", "--processes", "leave it out"],
    );
    refused(&["serve", "prefork", "--threads", "2"], &["--threads", "leave it out"]);
    refused(&["serve", "sync", "--listen", "localhost"], &["invalid socket address"]);
    for model in Model::ALL {
        refused(
            &["serve", model.name(), "--listen", &taken],
            &[&taken, "in use", "--listen"],
        );
    }
    refused(&["serve", "node", "--listen", &taken], &[&taken, "in use", "--listen"]);
    // An address that this machine does not have.
    refused(
        &["serve", "sync", "--listen", "192.0.2.1:80"],
        &["192.0.2.1:80", "--listen"],
    );
}

#[test]
fn connections_wait_while_a_server_has_no_descriptor_left() {
    for model in [Model::ThreadEach, Model::Event] {
        let server = Server::limited(model, 40);
        let mut clients: Vec<_> = (0..60).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send("/");
        }
        eventually("all descriptors are taken", || {
            let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid)).unwrap().count();
            (open == 40).then_some(())
        });
        for mut client in clients {
            assert_eq!(client.receive().unwrap().status, 200, "{model}");
        }
        server.stop();
    }
}

#[test]
fn a_candidate_has_only_what_it_takes() {
    let extent = |kind: Kind| {
        let candidate = Candidate::new(kind, 3, 4);
        (candidate.processes, candidate.threads)
    };
    assert_eq!(extent(Model::Sync.into()), (1, 1));
    assert_eq!(extent(Model::Prefork.into()), (3, 1));
    assert_eq!(extent(Model::ThreadPool.into()), (3, 4));
    assert_eq!(extent(Peer::GunicornSync.into()), (3, 1));
}

#[test]
fn names_are_read_as_they_are_written() {
    for kind in Kind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert_eq!(distinct(Kind::ALL.map(Kind::name)), Kind::ALL.len());
    let error = "rocket".parse::<Model>().unwrap_err().to_string();
    assert!(
        error.contains("rocket") && Model::ALL.iter().all(|model| error.contains(model.name())),
        "{error}"
    );
}

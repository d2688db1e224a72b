//! Who serves which listener: identity, keys, replies, and how long one lives.

use std::sync::Arc;

use serde_json::json;
use thead_core::cluster::{
    Action, BindSpec, Config, Event, Handle, Host as BindHost, Input, LeaveBy, ListenAddress, LocalAddress, MAX_KEYS,
    MAX_LISTENERS, MAX_TWINS,
};
use thead_core::id::ListenerId;
use thead_wire::cluster::{AddressType, FromWorker, Query, Sockname, ToWorker};

use crate::kit::{Host, W1, W2, W3, bind, events, ignored, ip, ms, refusals, sent, shared, tcp, udp, unix};

fn keys(host: &Host, worker: thead_core::id::WorkerId) -> Vec<&str> {
    host.laws.workers[&worker].keys.keys().map(|key| &**key).collect()
}

fn spec(actions: &[Action]) -> &BindSpec {
    match actions {
        [Action::Bind { spec, .. }] => spec,
        actions => panic!("{actions:?}"),
    }
}

fn unbound(actions: &[Action]) -> Vec<ListenerId> {
    let unbind = |action: &Action| match action {
        Action::Unbind { listener } => Some(*listener),
        _ => None,
    };
    actions.iter().filter_map(unbind).collect()
}

fn listening(query: &Query, port: i32) -> FromWorker {
    FromWorker::Listening(Box::new(Query {
        port: Some(port),
        ..query.clone()
    }))
}

#[test]
fn keys_read_as_nodes_since_22() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let any = Query {
        address: None,
        ..tcp(8080)
    };
    let v6 = Query {
        address: Some("::1".into()),
        address_type: Some(AddressType::Ipv6),
        ..tcp(3000)
    };
    let fd = Query {
        fd: Some(40),
        ..Query::default()
    };
    for (query, local, key) in [
        (tcp(3000), ip("127.0.0.1:3000"), "127.0.0.1:3000:4:undefined"),
        (any, ip("[::]:8080"), "null:8080:4:undefined"),
        (
            Query { index: 1, ..tcp(0) },
            ip("127.0.0.1:40000"),
            "127.0.0.1:0:4:undefined:1",
        ),
        (v6, ip("[::1]:3000"), "::1:3000:6:undefined"),
        (fd, ip("127.0.0.1:11114"), "null:null:null:40"),
        (udp(5000), ip("127.0.0.1:5000"), "127.0.0.1:5000:udp4:-1"),
        (
            unix("/run/a.sock"),
            LocalAddress::Unix(b"/run/a.sock".as_slice().into()),
            "/run/a.sock:-1:-1:undefined",
        ),
    ] {
        let listener = host.listen_at(W1, &query, local);
        assert_eq!(&*host.key(W1, listener), key);
    }
}

#[test]
fn a_query_says_what_to_bind() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let zone = Query {
        address: Some("fe80::1%eth0".into()),
        address_type: Some(AddressType::Ipv6),
        ..tcp(80)
    };
    let v6 = Query {
        flags: Some(1),
        backlog: Some(thead_wire::cluster::Backlog::Length(17)),
        ..zone.clone()
    };
    let modes = Query {
        readable_all: Some(true),
        ..unix("/run/b.sock")
    };
    let udp6 = Query {
        address: None,
        address_type: Some(AddressType::Udp6),
        flags: Some(5),
        ..udp(53)
    };
    let v4 = BindHost::V4([127, 0, 0, 1].into());
    let linked = BindHost::V6("fe80::1".parse().unwrap(), Some("eth0".into()));
    for (query, expected) in [
        (
            tcp(81),
            BindSpec::Tcp {
                host: v4,
                port: 81,
                v6_only: false,
                backlog: 511,
            },
        ),
        (
            v6,
            BindSpec::Tcp {
                host: linked,
                port: 80,
                v6_only: true,
                backlog: 17,
            },
        ),
        (
            Query {
                address: None,
                ..tcp(82)
            },
            BindSpec::Tcp {
                host: BindHost::Any,
                port: 82,
                v6_only: false,
                backlog: 511,
            },
        ),
        (
            modes,
            BindSpec::Unix {
                path: "/run/b.sock".into(),
                backlog: 511,
                readable_all: true,
                writable_all: false,
            },
        ),
        (
            udp6,
            BindSpec::Udp {
                host: BindHost::V6("::".parse().unwrap(), None),
                port: 53,
                v6_only: true,
                reuse_address: true,
            },
        ),
        (
            Query {
                fd: Some(3),
                ..Query::default()
            },
            BindSpec::Fd {
                fd: 3,
                udp: false,
                backlog: 511,
            },
        ),
    ] {
        assert_eq!(spec(&host.ask(W1, &query)), &expected);
    }
}

#[test]
fn a_query_for_nothing_that_can_be_is_answered_with_einval() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let v6 = Some(AddressType::Ipv6);
    for query in [
        Query::default(),
        Query {
            fd: Some(-1),
            ..Query::default()
        },
        Query { port: None, ..tcp(80) },
        tcp(-1),
        Query {
            address: Some("localhost".into()),
            ..tcp(80)
        },
        Query {
            address: Some("::1".into()),
            ..tcp(80)
        },
        Query {
            address: Some("127.0.0.1".into()),
            address_type: v6,
            ..tcp(80)
        },
        Query {
            address: Some("fe80::1%".into()),
            address_type: v6,
            ..tcp(80)
        },
        // A net.Server that Node 18 received over IPC; Node's own primary crashes on it.
        Query {
            address: None,
            ..unix("")
        },
        unix(""),
        unix("relative.sock"),
    ] {
        assert_eq!(refusals(&host.ask(W1, &query)), [-22], "{query:?}");
    }
}

#[test]
fn workers_share_a_listener_whatever_the_index_of_their_attempt() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    for index in 0..2 {
        let query = Query { index, ..tcp(80) };
        let listener = bind(&host.ask(W1, &query)).unwrap();
        assert_eq!(
            refusals(&host.input(Input::Bound {
                listener,
                bound: Err(-98)
            })),
            [-98]
        );
    }
    let first = host.listen_at(W1, &Query { index: 2, ..tcp(80) }, ip("127.0.0.1:80"));
    assert_eq!(host.listen(W2, 80), first);
}

#[test]
fn the_nth_server_on_port_0_of_each_worker_shares_one_port() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    let a = host.listen_at(W1, &tcp(0), ip("127.0.0.1:39923"));
    let b = host.listen_at(W1, &Query { index: 1, ..tcp(0) }, ip("127.0.0.1:39991"));
    assert_ne!(a, b);
    let actions = host.ask(W2, &tcp(0));
    let [
        (
            W2,
            ToWorker::RoundRobin {
                sockname: Some(sockname),
                ..
            },
        ),
    ] = &sent(&actions)[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(
        **sockname,
        Sockname {
            address: "127.0.0.1".into(),
            ipv6: false,
            port: 39923
        }
    );
}

#[test]
fn queries_for_a_listener_that_is_being_bound_are_answered_together_and_in_order() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    let listener = bind(&host.ask(W1, &tcp(80))).unwrap();
    assert_eq!(host.ask(W2, &tcp(80)), []);
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:80")),
    });
    assert_eq!(
        sent(&actions).iter().map(|(worker, _)| *worker).collect::<Vec<_>>(),
        [W1, W2]
    );
}

#[test]
fn a_failure_is_answered_to_all_who_asked_and_forgotten() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    let listener = bind(&host.ask(W1, &tcp(80))).unwrap();
    host.ask(W2, &tcp(80));
    let actions = host.input(Input::Bound {
        listener,
        bound: Err(-98),
    });
    assert_eq!(refusals(&actions), [-98, -98]);
    let failed = Event::ListenFailed {
        worker: W1,
        address: ListenAddress::from(&tcp(80)),
        errno: -98,
    };
    assert!(events(&actions).contains(&failed));
    host.listen(W2, 80);
}

#[test]
fn an_errno_is_negative_and_a_missing_directory_is_eacces() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    for (query, errno, told) in [
        (tcp(80), -99, -99),
        (tcp(80), 98, -22),
        (tcp(80), 0, -22),
        (tcp(80), -2, -2),
        (unix("/no/such/dir/a.sock"), -2, -13),
    ] {
        let listener = bind(&host.ask(W1, &query)).unwrap();
        assert_eq!(
            refusals(&host.input(Input::Bound {
                listener,
                bound: Err(errno)
            })),
            [told]
        );
    }
}

#[test]
fn listening_twice_is_a_bind_of_its_own() {
    let mut host = Host::new(Config::default());
    host.workers(2);
    let again = Query { index: 1, ..tcp(80) };
    let listener = bind(&host.ask(W1, &again)).expect("it is not the listener that it has");
    assert_eq!(
        refusals(&host.input(Input::Bound {
            listener,
            bound: Err(-98)
        })),
        [-98]
    );
    assert_eq!(
        keys(&host, W1),
        ["127.0.0.1:80:4:undefined"],
        "the first is not touched"
    );
}

#[test]
fn two_udp_sockets_with_reuse_address_in_one_worker_have_two_keys_and_are_shared_among_workers() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    let first = host.listen_at(W1, &udp(53), ip("127.0.0.1:53"));
    let second = host.listen_at(W1, &udp(53), ip("127.0.0.1:53"));
    assert_ne!(first, second);
    assert_eq!(keys(&host, W1), ["127.0.0.1:53:udp4:-1", "127.0.0.1:53:udp4:-1#2"]);
    assert_eq!(host.listen_at(W2, &udp(53), ip("127.0.0.1:53")), first);
    assert_eq!(host.listen_at(W2, &udp(53), ip("127.0.0.1:53")), second);
}

#[test]
fn an_abstract_name_is_the_same_from_any_working_directory() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    let actions = host.ask(W1, &unix("/srv/one/\0name"));
    assert!(matches!(spec(&actions), BindSpec::Unix { path, .. } if &**path == "\0name"));
    let listener = bind(&actions).unwrap();
    host.input(Input::Bound {
        listener,
        bound: Ok(LocalAddress::Unix(b"\0name".as_slice().into())),
    });
    assert_eq!(bind(&host.ask(W2, &unix("/\0name"))), None);
}

#[test]
fn a_unix_listener_has_no_sockname() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let listener = bind(&host.ask(W1, &unix("/run/a.sock"))).unwrap();
    let local = LocalAddress::Unix(b"/run/a.sock".as_slice().into());
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(local),
    });
    assert!(matches!(
        &sent(&actions)[..],
        [(W1, ToWorker::RoundRobin { sockname: None, .. })]
    ));
}

#[test]
fn the_port_that_was_asked_for_comes_back_even_if_another_is_bound() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let listener = bind(&host.ask(W1, &tcp(80))).unwrap();
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:20080")),
    });
    let [
        (
            W1,
            ToWorker::RoundRobin {
                sockname: Some(sockname),
                ..
            },
        ),
    ] = &sent(&actions)[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(sockname.port, 80);
}

#[test]
fn the_first_data_of_a_listener_is_everybodys_for_the_life_of_the_service() {
    let mut host = Host::new(Config::default());
    let with = |keys: &str| Query {
        data: Arc::new(json!({ "ticketKeys": keys })),
        ..tcp(443)
    };
    let data = |actions: &[Action]| match &sent(actions)[..] {
        [(_, ToWorker::RoundRobin { data, .. })] => data.clone(),
        sent => panic!("{sent:?}"),
    };
    host.join(W1);
    let listener = bind(&host.ask(W1, &with("first"))).unwrap();
    host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:443")),
    });
    host.join(W2);
    assert_eq!(data(&host.ask(W2, &with("second"))), with("first").data);
    host.input(Input::CloseListeners);
    host.gone(W1);
    host.gone(W2);
    host.join(W3);
    let listener = bind(&host.ask(W3, &with("third"))).unwrap();
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:443")),
    });
    assert_eq!(data(&actions), with("first").data);
}

#[test]
fn a_shared_listener_goes_to_each_worker_and_udp_always_does() {
    for (config, query) in [
        (shared(), tcp(80)),
        (shared(), unix("/a")),
        (Config::default(), udp(80)),
    ] {
        let mut host = Host::new(config);
        for worker in [W1, W2] {
            host.join(worker);
            let mut actions = host.ask(worker, &query);
            if let Some(listener) = bind(&actions) {
                actions = host.input(Input::Bound {
                    listener,
                    bound: Ok(ip("127.0.0.1:80")),
                });
            }
            let [
                Action::Send {
                    message,
                    handle: Handle::Listener(_),
                    ..
                },
            ] = &actions[..]
            else {
                panic!("{actions:?}")
            };
            assert!(matches!(message.message, ToWorker::Shared { .. }));
        }
    }
}

#[test]
fn listening_names_the_listener_also_by_the_real_port_and_may_repeat() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let random = host.listen_at(W1, &tcp(0), ip("127.0.0.1:39923"));
    let fixed = host.listen(W1, 80);
    let fd = Query {
        fd: Some(3),
        ..Query::default()
    };
    let passed = host.listen_at(W1, &fd, ip("127.0.0.1:8000"));
    for (query, port, expected) in [
        (tcp(0), 39923, Some(random)),
        (tcp(80), 80, Some(fixed)),
        (fd, 8000, Some(passed)),
        (tcp(81), 81, None),
        (tcp(80), 80, Some(fixed)),
    ] {
        let actions = host.say(W1, listening(&query, port));
        let address = ListenAddress {
            port: Some(port),
            ..ListenAddress::from(&query)
        };
        assert_eq!(
            events(&actions),
            [Event::Listening {
                worker: W1,
                listener: expected,
                address
            }]
        );
    }
}

#[test]
fn a_listener_survives_its_last_worker_however_long_the_next_one_takes() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.gone(W1);
    assert_eq!(host.pass(ms(86_400_000)), []);
    host.join(W2);
    assert_eq!(host.pass(ms(86_400_000)), [], "it is starting");
    assert_eq!(host.listen(W2, 80), listener);
}

#[test]
fn a_voluntary_disconnect_begins_with_closes_and_ends_no_listener() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.close(W1, listener);
    assert_eq!(host.pass(ms(20_000)), [], "its connections take their time");
    host.say(W1, FromWorker::ExitedAfterDisconnect);
    assert_eq!(host.pass(ms(3_600_000)), []);
    host.gone(W1);
    host.join(W2);
    assert_eq!(host.listen(W2, 80), listener);
}

#[test]
fn a_listener_that_the_application_closed_is_unbound_when_it_stays_closed() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    host.close(W1, listener);
    assert_eq!(host.pass(ms(60_000)), [], "another holds it");
    host.close(W2, listener);
    assert_eq!(unbound(&host.pass(ms(29_999))), []);
    assert_eq!(unbound(&host.pass(ms(1))), [listener]);
    assert_eq!(host.pass(ms(3_600_000)), []);
}

#[test]
fn a_listener_that_is_closed_and_asked_for_again_is_the_same() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.close(W1, listener);
    host.pass(ms(20_000));
    assert_eq!(host.listen(W1, 80), listener);
    assert_eq!(unbound(&host.pass(ms(3_600_000))), []);
}

#[test]
fn a_closed_listener_waits_for_workers_that_come_go_or_start() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.close(W1, listener);
    host.pass(ms(29_000));
    host.join(W2);
    assert_eq!(unbound(&host.pass(ms(3_600_000))), [], "it may be about to ask");
    host.listen(W2, 81);
    assert_eq!(unbound(&host.pass(ms(29_000))), []);
    host.leave(W2, LeaveBy::Disconnect);
    assert_eq!(unbound(&host.pass(ms(3_600_000))), [], "it may be about to be replaced");
    host.gone(W2);
    assert_eq!(unbound(&host.pass(ms(30_000))), [listener]);
}

#[test]
fn a_listener_whose_worker_went_waits_while_only_workers_of_other_listeners_are_left() {
    let mut host = Host::new(Config::default());
    let admin = host.workers(1);
    host.join(W2);
    host.listen(W2, 81);
    host.gone(W1);
    assert_eq!(unbound(&host.pass(ms(3_600_000))), []);
    host.join(W3);
    host.listen(W3, 81);
    assert_eq!(
        unbound(&host.pass(ms(30_000))),
        [admin],
        "the replacement does not want it"
    );
}

#[test]
fn what_waits_at_an_unbound_listener_is_released() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(1);
    let (offered, _) = host.accept(listener);
    let (waits, _) = host.accept(listener);
    host.close(W1, listener);
    let actions = host.pass(ms(30_000));
    assert_eq!(actions, [Action::Unbind { listener }, Action::Release { conn: waits }]);
    assert_eq!(host.answer(W1, offered, false), [Action::Release { conn: offered }]);
}

#[test]
fn close_listeners_stops_accepting_and_serves_what_was_accepted() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(1);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    assert_eq!(host.input(Input::CloseListeners), [Action::Unbind { listener }]);
    assert_eq!(host.primary.may_accept(listener), 0);
    assert_eq!(crate::kit::offers(&host.answer(W1, first, true)), [(W1, second)]);
    let (third, actions) = host.accept(listener);
    assert_eq!(actions, [], "accepted before the driver heard of it");
    let actions = host.leave(W1, LeaveBy::Disconnect);
    assert_eq!(actions, [Action::Release { conn: third }]);
    host.answer(W1, second, true);
    assert_eq!(host.input(Input::CloseListeners), []);
}

#[test]
fn close_listeners_answers_those_who_wait_for_a_bind() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let listener = bind(&host.ask(W1, &tcp(80))).unwrap();
    assert_eq!(refusals(&host.input(Input::CloseListeners)), [-1]);
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:80")),
    });
    assert_eq!(actions, [Action::Unbind { listener }]);
}

#[test]
fn a_worker_that_dies_while_its_listener_is_being_bound_leaves_the_listener_to_the_next() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let listener = bind(&host.ask(W1, &tcp(80))).unwrap();
    host.gone(W1);
    assert_eq!(
        host.input(Input::Bound {
            listener,
            bound: Ok(ip("127.0.0.1:80"))
        }),
        []
    );
    host.join(W2);
    assert_eq!(host.listen(W2, 80), listener);
}

#[test]
fn one_worker_has_a_limited_number_of_listeners() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let mut last = ListenerId(0);
    for port in 1..=i32::try_from(MAX_KEYS).unwrap() {
        last = host.listen(W1, port);
    }
    assert_eq!(refusals(&host.ask(W1, &tcp(60_000))), [-24]);
    host.close(W1, last);
    assert!(bind(&host.ask(W1, &tcp(60_000))).is_some());
}

#[test]
fn one_worker_has_a_limited_number_of_listeners_on_one_address() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    for _ in 0..MAX_TWINS {
        host.listen_at(W1, &udp(53), ip("127.0.0.1:53"));
    }
    assert_eq!(refusals(&host.ask(W1, &udp(53))), [-24]);
}

#[test]
fn listeners_that_a_worker_makes_and_drops_displace_its_own_first() {
    let mut host = Host::new(Config::default());
    let precious = host.workers(1);
    host.gone(W1);
    host.pass(ms(1));
    host.join(W2);
    for port in 1_000..1_000 + i32::try_from(MAX_LISTENERS).unwrap() {
        let listener = host.listen(W2, port);
        host.close(W2, listener);
    }
    assert_eq!(host.laws.listeners.len(), MAX_LISTENERS);
    assert!(host.laws.listeners.contains_key(&precious));
}

#[test]
fn a_query_with_a_number_that_was_used_is_ignored() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    for seq in [Some(0), Some(1), None] {
        let message = FromWorker::QueryServer(Box::new(tcp(81)));
        let message = thead_wire::cluster::Envelope { seq, message };
        let actions = host.input(Input::Message { worker: W1, message });
        assert!(ignored(&actions) && sent(&actions).is_empty(), "{actions:?}");
    }
}

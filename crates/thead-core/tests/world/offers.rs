//! Who gets the next connection, and what becomes of one that is not taken.

use thead_core::cluster::{Action, Config, Input, LocalAddress, Scheduling};
use thead_core::id::{ConnId, ListenerId, WorkerId};

use crate::kit::{Host, W1, W2, W3, ip, ms, offers, shared, unix};
use crate::laws::Place;

fn workers_of(actions: &[Action]) -> Vec<u32> {
    offers(actions).into_iter().map(|(worker, _)| worker.0).collect()
}

/// Accepts and answers `count` connections one after the other, and tells who took them.
fn one_by_one(host: &mut Host, listener: ListenerId, count: usize) -> Vec<u32> {
    let mut order = Vec::new();
    for _ in 0..count {
        let (conn, actions) = host.accept(listener);
        let [(worker, offered)] = offers(&actions)[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(offered, conn);
        order.push(worker.0);
        assert_eq!(host.answer(worker, conn, true), [Action::Release { conn }]);
    }
    order
}

#[test]
fn twenty_requests_to_two_idle_workers_alternate_exactly() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    assert_eq!(one_by_one(&mut host, listener, 20), [1, 2].repeat(10));
}

#[test]
fn four_idle_workers_take_turns() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(4);
    assert_eq!(one_by_one(&mut host, listener, 12), [1, 2, 3, 4].repeat(3));
}

#[test]
fn a_blocked_worker_holds_its_window_and_the_rest_flows_to_the_others() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(2);
    host.accept(listener);
    assert_eq!(one_by_one(&mut host, listener, 9), [2; 9]);
}

#[test]
fn the_worker_with_the_fewest_unanswered_offers_on_any_listener_is_next() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let other = host.listen(W1, 81);
    host.accept(other);
    host.accept(other);
    let (_, actions) = host.accept(listener);
    assert_eq!(workers_of(&actions), [2]);
}

#[test]
fn connections_are_accepted_only_for_those_who_have_room() {
    let mut host = Host::new(Config {
        window: 2,
        ..Config::default()
    });
    let listener = host.workers(2);
    assert_eq!(host.primary.may_accept(listener), 4);
    let (first, _) = host.accept(listener);
    assert_eq!(host.primary.may_accept(listener), 3);
    for _ in 0..3 {
        host.accept(listener);
    }
    assert_eq!(host.primary.may_accept(listener), 0);
    let (_, actions) = host.accept(listener);
    assert_eq!(actions, [], "one too many waits");
    assert_eq!(host.primary.waiting(), 1);
    assert_eq!(workers_of(&host.answer(W1, first, true)), [1], "until there is room");
    assert_eq!(host.primary.may_accept(ListenerId(99)), 0);
}

#[test]
fn a_worker_that_dies_with_an_unanswered_offer_strands_no_client() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    let (third, _) = host.accept(listener);
    assert_eq!(host.laws.conns[&second].place, Place::Offered(W2));
    assert_eq!(
        offers(&host.gone(W1)),
        [(W2, first), (W2, third)],
        "first, and in order"
    );
}

#[test]
fn what_the_last_worker_had_not_answered_waits_for_the_next_one() {
    let mut host = Host::new(Config {
        window: 2,
        ..Config::default()
    });
    let listener = host.workers(1);
    let conns: Vec<_> = (0..5).map(|_| host.accept(listener).0).collect();
    assert_eq!(offers(&host.gone(W1)), []);
    assert_eq!(host.primary.waiting(), 5);
    host.pass(ms(3_600_000));
    host.join(W2);
    host.listen(W2, 80);
    let order: Vec<_> = conns
        .iter()
        .flat_map(|conn| offers(&host.answer(W2, *conn, true)))
        .collect();
    assert_eq!(order, [(W2, conns[2]), (W2, conns[3]), (W2, conns[4])]);
}

#[test]
fn a_rejected_connection_goes_first_to_another() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    let (third, _) = host.accept(listener);
    assert_eq!(
        offers(&host.answer(W1, first, false)),
        [(W1, third)],
        "the second worker is busy"
    );
    let actions = host.answer(W2, second, true);
    assert_eq!(offers(&actions), [(W2, first)]);
}

#[test]
fn a_connection_that_all_rejected_is_held_for_a_while_and_not_offered_in_a_loop() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (conn, _) = host.accept(listener);
    assert_eq!(offers(&host.answer(W1, conn, false)), [(W2, conn)]);
    assert_eq!(offers(&host.answer(W2, conn, false)), []);
    assert_eq!(offers(&host.pass(ms(19))), []);
    assert_eq!(offers(&host.pass(ms(1))), [(W1, conn)]);
    assert_eq!(offers(&host.answer(W1, conn, false)), [(W2, conn)]);
    host.answer(W2, conn, true);
}

#[test]
fn a_worker_that_comes_is_asked_at_once_about_what_all_others_rejected() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    let (conn, _) = host.accept(listener);
    host.answer(W1, conn, false);
    host.join_gated(W2, true);
    host.listen(W2, 80);
    assert_eq!(offers(&host.input(Input::Open { worker: W2 })), [(W2, conn)]);
}

#[test]
fn one_that_came_since_is_asked_before_those_who_rejected_are_asked_again() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(1);
    let (conn, _) = host.accept(listener);
    host.answer(W1, conn, false);
    host.join(W2);
    let other = host.listen(W2, 81);
    let (busy, _) = host.accept(other);
    host.listen(W2, 80);
    assert_eq!(offers(&host.pass(ms(40))), [], "it has no room, but it will");
    assert_eq!(offers(&host.answer(W2, busy, true)), [(W2, conn)]);
}

#[test]
fn a_worker_whose_offers_were_taken_back_has_room_for_what_waits_elsewhere() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(2);
    let alone = host.listen(W1, 81);
    let (late, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    let (waits, _) = host.accept(alone);
    host.answer(W2, second, true);
    assert_eq!(host.pass(ms(50)), [Action::Reclaim { worker: W1 }]);
    let actions = host.input(Input::Reclaimed {
        worker: W1,
        conns: vec![late],
    });
    assert_eq!(offers(&actions), [(W2, late), (W1, waits)]);
}

#[test]
fn the_last_worker_closing_with_an_offer_in_hand_loses_neither_it_nor_those_behind() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(1);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    host.close(W1, listener);
    assert_eq!(offers(&host.answer(W1, first, false)), []);
    host.join(W2);
    let actions = host.ask(W2, &crate::kit::tcp(80));
    assert_eq!(offers(&actions), [(W2, first)]);
    assert_eq!(offers(&host.answer(W2, first, true)), [(W2, second)]);
}

#[test]
fn an_offer_that_is_late_is_asked_back_when_another_is_free() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let conns: Vec<_> = (0..4).map(|_| host.accept(listener).0).collect();
    host.answer(W2, conns[1], true);
    host.answer(W2, conns[3], true);
    assert_eq!(host.pass(ms(49)), []);
    assert_eq!(host.pass(ms(1)), [Action::Reclaim { worker: W1 }]);
    let actions = host.input(Input::Reclaimed {
        worker: W1,
        conns: vec![conns[2], conns[0], ConnId(99)],
    });
    assert_eq!(
        offers(&actions),
        [(W2, conns[0]), (W2, conns[2])],
        "in the order they came"
    );
    let actions = host.say(W1, thead_wire::cluster::FromWorker::Accepted { ack: 1, accepted: true });
    assert!(
        crate::kit::ignored(&actions),
        "what was taken back cannot be answered any more"
    );
}

#[test]
fn what_could_not_be_reclaimed_stays_with_its_worker() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    host.answer(W2, second, true);
    host.pass(ms(50));
    host.input(Input::Reclaimed {
        worker: W1,
        conns: Vec::new(),
    });
    assert_eq!(host.laws.conns[&first].place, Place::Offered(W1));
    assert_eq!(host.answer(W1, first, true), [Action::Release { conn: first }]);
}

#[test]
fn nobody_is_asked_to_give_back_what_nobody_else_could_have() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(1);
    host.accept(listener);
    assert_eq!(host.pass(ms(10_000)), []);
}

#[test]
fn a_worker_is_asked_to_give_back_once_per_lateness() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    host.answer(W2, second, true);
    assert_eq!(host.pass(ms(500)), vec![Action::Reclaim { worker: W1 }; 10]);
    host.answer(W1, first, true);
    assert_eq!(host.pass(ms(500)), []);
}

#[test]
fn a_worker_that_never_answers_is_given_up_and_what_it_had_goes_to_another() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let expelled = |actions: &[Action]| actions.contains(&Action::Expel { worker: W1 });
    assert!(!expelled(&host.pass(ms(119_000))), "it may be stopped in a debugger");
    assert!(expelled(&host.pass(ms(1_050))));
    assert_eq!(offers(&host.gone(W1)), [(W2, first)]);
}

#[test]
fn a_hanging_worker_delays_ever_fewer_connections() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let mut delayed = 0;
    for _ in 0..1_000 {
        let (conn, actions) = host.accept(listener);
        for (worker, conn) in offers(&actions) {
            if worker == W2 {
                host.answer(W2, conn, true);
            } else {
                delayed += 1;
            }
        }
        for action in host.pass(ms(10)) {
            if action == (Action::Reclaim { worker: W1 }) {
                let offers = &host.laws.workers[&W1].offers;
                let conns = offers.values().map(|(conn, _)| *conn).collect();
                for (worker, conn) in crate::kit::offers(&host.input(Input::Reclaimed { worker: W1, conns })) {
                    assert_eq!(worker, W2);
                    host.answer(W2, conn, true);
                }
            }
        }
        assert!(
            host.laws
                .conns
                .get(&conn)
                .is_none_or(|conn| conn.place != Place::Waiting)
        );
    }
    assert!(delayed < 20, "{delayed} of 1000 in ten seconds");
}

#[test]
fn a_worker_that_was_late_is_trusted_again_with_its_first_answer() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    let (conn, _) = host.accept(listener);
    host.pass(ms(60));
    assert_eq!(host.primary.may_accept(listener), 0, "one at a time");
    host.answer(W1, conn, true);
    assert_eq!(host.primary.may_accept(listener), Config::default().window);
}

#[test]
fn an_accepted_connection_is_never_offered_again() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (conn, _) = host.accept(listener);
    host.answer(W1, conn, true);
    assert_eq!(
        offers(&host.input(Input::Reclaimed {
            worker: W1,
            conns: vec![conn]
        })),
        []
    );
    assert_eq!(offers(&host.gone(W1)), []);
}

#[test]
fn a_connection_handed_back_goes_before_those_that_wait() {
    let mut host = Host::new(Config {
        window: 1,
        ..Config::default()
    });
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    host.leave(W1, thead_core::cluster::LeaveBy::HandBack);
    host.accept(listener);
    let (waits, _) = host.accept(listener);
    let back = [host.conn(), host.conn()];
    for conn in back {
        host.input(Input::HandedBack {
            worker: W1,
            conn,
            local: ip("127.0.0.1:80"),
            client: None,
        });
    }
    host.gone(W1);
    let mut taken = Vec::new();
    while let Some((_, (conn, _))) = host.laws.workers[&W2].offers.first_key_value() {
        let conn = *conn;
        host.answer(W2, conn, true);
        taken.push(conn);
    }
    assert_eq!(taken[1..], [first, back[0], back[1], waits]);
}

#[test]
fn a_connection_handed_back_finds_the_listener_of_its_address() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    host.join(W2);
    host.join(W3);
    let any = thead_wire::cluster::Query {
        address: None,
        ..crate::kit::tcp(80)
    };
    host.listen_at(W1, &any, ip("[::]:80"));
    host.listen(W2, 80);
    host.listen_at(
        W3,
        &unix("/run/a.sock"),
        LocalAddress::Unix(b"a.sock".as_slice().into()),
    );
    for (local, worker) in [
        (ip("127.0.0.1:80"), Some(W2)),
        (ip("[::ffff:127.0.0.1]:80"), Some(W2)),
        (ip("10.0.0.1:80"), Some(W1)),
        (ip("[2001:db8::1]:80"), Some(W1)),
        (LocalAddress::Unix(b"a.sock".as_slice().into()), Some(W3)),
        (ip("10.0.0.1:81"), None),
        (LocalAddress::Unix(b"b.sock".as_slice().into()), None),
    ] {
        let conn = host.conn();
        let actions = host.input(Input::HandedBack {
            worker: WorkerId(9),
            conn,
            local: local.clone(),
            client: None,
        });
        match worker {
            Some(worker) => assert_eq!(offers(&actions), [(worker, conn)], "{local:?}"),
            None => assert_eq!(actions, [Action::Release { conn }], "{local:?}"),
        }
    }
}

#[test]
fn a_shared_listener_is_the_workers_but_takes_what_was_handed_back() {
    let mut host = Host::new(shared());
    let listener = host.workers(2);
    assert_eq!(host.primary.may_accept(listener), 0);
    let conn = host.conn();
    let actions = host.input(Input::HandedBack {
        worker: W3,
        conn,
        local: ip("127.0.0.1:80"),
        client: None,
    });
    assert_eq!(offers(&actions), [(W1, conn)]);
}

#[test]
fn what_waits_beyond_the_limit_is_released_the_newest_first() {
    let mut host = Host::new(Config {
        window: 1,
        max_waiting: 2,
        ..Config::default()
    });
    let listener = host.workers(1);
    let conns: Vec<_> = (0..3).map(|_| host.accept(listener).0).collect();
    let (newest, actions) = host.accept(listener);
    assert_eq!(actions, [Action::Release { conn: newest }]);
    let back = host.conn();
    let actions = host.input(Input::HandedBack {
        worker: W2,
        conn: back,
        local: ip("127.0.0.1:80"),
        client: None,
    });
    assert_eq!(actions, [Action::Release { conn: back }]);
    host.gone(W1);
    assert_eq!(host.primary.waiting(), 3, "what somebody had is not newest");
    assert_eq!(host.laws.conns[&conns[0]].place, Place::Waiting);
}

#[test]
fn a_connection_of_no_listener_is_released() {
    let mut host = Host::new(Config {
        scheduling: Scheduling::RoundRobin,
        ..Config::default()
    });
    let (conn, actions) = host.accept(ListenerId(7));
    assert_eq!(actions, [Action::Release { conn }]);
}

#[test]
fn a_gated_worker_has_its_listeners_at_once_and_offers_when_it_is_opened() {
    let mut host = Host::new(Config::default());
    host.join_gated(W1, true);
    let listener = host.listen(W1, 80);
    assert_eq!(host.primary.may_accept(listener), 0);
    let (conn, actions) = host.accept(listener);
    assert_eq!(actions, []);
    assert_eq!(offers(&host.input(Input::Open { worker: W1 })), [(W1, conn)]);
    assert_eq!(host.input(Input::Open { worker: W1 }), []);
}

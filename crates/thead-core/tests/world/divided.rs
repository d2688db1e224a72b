//! Connections that are divided by the kernel, or by their client's address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use thead_core::cluster::{Action, Config, Handle, Input, LeaveBy, Scheduling, sticky_slot};
use thead_core::id::{LaneId, ListenerId, WorkerId};
use thead_core::worker::Slot;
use thead_wire::cluster::{FromWorker, Query};

use crate::kit::{Host, W1, W2, W3, bind, ip, ms, offers, scheduled, steered, tcp, udp, unix};
use crate::laws::Place;

fn kernel() -> Host {
    Host::new(scheduled(Scheduling::Kernel))
}

/// Workers 1 to `count` that serve port 80 on lanes 0 and so on.
fn on_lanes(host: &mut Host, count: u32) -> ListenerId {
    let mut listener = ListenerId(0);
    for worker in 1..=count {
        host.join(WorkerId(worker));
        let actions;
        (listener, actions) = host.serve(WorkerId(worker), 80);
        assert_eq!(steered(&actions), Some((0..worker).collect()));
    }
    listener
}

#[test]
fn each_worker_gets_a_lane_and_connections_from_when_it_says_that_it_listens() {
    let mut host = kernel();
    for (worker, lane) in [(W1, 0), (W2, 1)] {
        host.join(worker);
        let mut actions = host.ask(worker, &tcp(80));
        if let Some(listener) = bind(&actions) {
            let bound = Ok(ip("127.0.0.1:80"));
            actions = host.input(Input::Bound { listener, bound });
        }
        let handle = Handle::Lane(ListenerId(0), LaneId(lane));
        assert!(
            matches!(&actions[..], [Action::Send { handle: given, .. }] if *given == handle),
            "{actions:?}"
        );
        let actions = host.say(worker, FromWorker::Listening(Box::new(tcp(80))));
        assert_eq!(steered(&actions), Some((0..=lane).collect()));
        let actions = host.say(worker, FromWorker::Listening(Box::new(tcp(80))));
        assert_eq!(steered(&actions), None, "it may repeat");
    }
}

#[test]
fn a_lane_is_steered_away_from_before_its_worker_is_told_to_leave() {
    for how in [LeaveBy::Disconnect, LeaveBy::HandBack, LeaveBy::Signal] {
        let mut host = kernel();
        on_lanes(&mut host, 3);
        let actions = host.leave(W2, how);
        assert_eq!(steered(&actions[..1]), Some(vec![0, 2]), "{actions:?}");
        assert_eq!(steered(&host.gone(W2)), None, "it was before");
    }
}

#[test]
fn a_lane_is_steered_away_from_when_its_worker_dies_closes_or_leaves_by_itself() {
    let end: [fn(&mut Host, ListenerId) -> Vec<Action>; 3] = [
        |host, _| host.gone(W1),
        |host, listener| host.close(W1, listener),
        |host, _| host.say(W1, FromWorker::ExitedAfterDisconnect),
    ];
    for end in end {
        let mut host = kernel();
        let listener = on_lanes(&mut host, 2);
        assert_eq!(steered(&end(&mut host, listener)), Some(vec![1]));
        // What its queue still has, others get.
        assert!(host.primary.may_accept(listener) > 0);
        let (conn, actions) = host.accept(listener);
        assert_eq!(offers(&actions), [(W2, conn)]);
    }
}

#[test]
fn with_the_last_worker_all_lanes_are_ours_and_connections_wait_for_the_next() {
    let mut host = kernel();
    let listener = on_lanes(&mut host, 1);
    assert_eq!(steered(&host.gone(W1)), Some(vec![]));
    assert_eq!(host.primary.may_accept(listener), 0, "they wait in the kernel");
    host.join(W2);
    let (_, actions) = host.serve(W2, 80);
    assert_eq!(
        steered(&actions),
        Some(vec![0]),
        "a lane is never closed, and has a worker again"
    );
}

#[test]
fn a_successor_that_is_not_proven_has_a_lane_of_its_own_and_no_connections() {
    let mut host = kernel();
    let listener = on_lanes(&mut host, 2);
    host.join_gated(W3, true);
    let (_, actions) = host.serve(W3, 80);
    assert_eq!(steered(&actions), None);
    assert_eq!(
        steered(&host.input(Input::Open { worker: W3 })),
        Some(vec![0, 1, 2]),
        "new before old"
    );
    assert_eq!(steered(&host.leave(W1, LeaveBy::HandBack)), Some(vec![1, 2]));
    // What the old one gives back.
    let (conn, local, client) = (host.conn(), ip("127.0.0.1:80"), None);
    let actions = host.input(Input::HandedBack {
        worker: W1,
        conn,
        local,
        client,
    });
    assert!(matches!(offers(&actions)[..], [(W2 | W3, _)]));
    host.answer(offers(&actions)[0].0, conn, true);
    host.gone(W1);
    let next = WorkerId(4);
    host.join(next);
    assert_eq!(host.serve(next, 80).0, listener);
    let lanes: Vec<_> = host.laws.listeners[&listener]
        .steered
        .iter()
        .map(|lane| lane.0)
        .collect();
    assert_eq!(lanes, [0, 1, 2], "the free lane is used before there are more");
}

#[test]
fn what_the_kernel_cannot_spread_goes_round_robin_or_is_shared() {
    let fd = Query {
        fd: Some(3),
        ..Query::default()
    };
    for (query, expected) in [
        (tcp(80), Scheduling::Kernel),
        (unix("/a"), Scheduling::RoundRobin),
        (fd, Scheduling::RoundRobin),
        (udp(80), Scheduling::Shared),
    ] {
        let mut host = kernel();
        host.join(W1);
        let actions = host.ask(W1, &query);
        let [Action::Bind { scheduling, .. }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(*scheduling, expected, "{query:?}");
    }
}

#[test]
fn listeners_that_close_are_steered_no_more() {
    let mut host = kernel();
    on_lanes(&mut host, 2);
    assert!(matches!(host.input(Input::CloseListeners)[..], [Action::Unbind { .. }]));
    assert_eq!(host.gone(W1).len(), 1);
}

fn sticky() -> Config {
    scheduled(Scheduling::Sticky)
}

/// Workers 1 to `count` in slots 0 and so on, that serve port 80.
fn in_slots(host: &mut Host, count: u32) -> ListenerId {
    let mut listener = ListenerId(0);
    for worker in 1..=count {
        host.join_in(Some(worker - 1), WorkerId(worker), false);
        listener = host.listen(WorkerId(worker), 80);
    }
    listener
}

/// Who takes a connection of this client.
fn worker_of(host: &mut Host, listener: ListenerId, client: &str) -> WorkerId {
    let (conn, actions) = host.accept_from(listener, client);
    let [(worker, _)] = offers(&actions)[..] else {
        panic!("{actions:?}")
    };
    host.answer(worker, conn, true);
    worker
}

fn clients() -> impl Iterator<Item = String> {
    (0..200).map(|n| format!("10.0.{}.{}", n / 100, n % 100))
}

#[test]
fn a_client_keeps_its_worker_while_others_come_and_go() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 4);
    let workers = |host: &mut Host| -> BTreeMap<_, _> {
        let worker = |client: String| (client.clone(), worker_of(host, listener, &client));
        clients().map(worker).collect()
    };
    let before = workers(&mut host);
    assert_eq!(workers(&mut host), before);
    host.gone(W3);
    for (client, worker) in workers(&mut host) {
        assert_ne!(worker, W3);
        assert!(
            worker == before[&client] || before[&client] == W3,
            "{client} moved without need"
        );
    }
    // Its successor has its slot, and its clients.
    host.join_in(Some(2), WorkerId(5), false);
    host.listen(WorkerId(5), 80);
    for (client, worker) in workers(&mut host) {
        let expected = if before[&client] == W3 {
            WorkerId(5)
        } else {
            before[&client]
        };
        assert_eq!(worker, expected, "{client}");
    }
    // The newer of two in a slot, from when it is opened.
    host.join_in(Some(0), WorkerId(6), true);
    host.listen(WorkerId(6), 80);
    let (of_first, _) = before.iter().find(|(_, worker)| **worker == W1).unwrap();
    assert_eq!(worker_of(&mut host, listener, of_first), W1);
    host.input(Input::Open { worker: WorkerId(6) });
    assert_eq!(worker_of(&mut host, listener, of_first), WorkerId(6));
}

#[test]
fn workers_without_a_slot_get_the_lowest_that_is_free() {
    let mut host = Host::new(sticky());
    let listener = host.workers(3);
    let before: BTreeMap<_, _> = clients()
        .map(|client| (client.clone(), worker_of(&mut host, listener, &client)))
        .collect();
    host.gone(W2);
    host.join(WorkerId(4));
    host.listen(WorkerId(4), 80);
    for (client, worker) in before {
        let expected = if worker == W2 { WorkerId(4) } else { worker };
        assert_eq!(worker_of(&mut host, listener, &client), expected);
    }
}

#[test]
fn a_mapped_address_is_the_same_client() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 4);
    for client in clients() {
        let worker = worker_of(&mut host, listener, &client);
        assert_eq!(worker_of(&mut host, listener, &format!("::ffff:{client}")), worker);
    }
}

#[test]
fn a_client_waits_for_its_slow_worker_and_others_do_not() {
    let window = 2;
    let mut host = Host::new(Config { window, ..sticky() });
    let listener = in_slots(&mut host, 2);
    let (mine, others): (Vec<_>, Vec<_>) = clients().partition(|client| worker_of(&mut host, listener, client) == W1);
    let conns: Vec<_> = mine.iter().map(|client| host.accept_from(listener, client).0).collect();
    host.pass(ms(60_000));
    for client in &others {
        assert!(host.primary.may_accept(listener) > 0);
        assert_eq!(worker_of(&mut host, listener, client), W2);
    }
    assert_eq!(host.primary.waiting(), conns.len() - window);
    for conn in &conns {
        assert_eq!(host.laws.conns[conn].place, Place::Offered(W1), "in order");
        host.answer(W1, *conn, true);
    }
}

#[test]
fn a_worker_that_is_stuck_is_given_up_and_its_clients_go_where_they_then_belong() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 4);
    let client = clients()
        .find(|client| worker_of(&mut host, listener, client) == W1)
        .unwrap();
    let (conn, _) = host.accept_from(listener, &client);
    assert_eq!(host.pass(ms(119_000)), []);
    assert_eq!(host.pass(ms(2_000))[0], Action::Expel { worker: W1 });
    let actions = host.gone(W1);
    let [(next, offered)] = offers(&actions)[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(offered, conn);
    host.answer(next, conn, true);
    assert_eq!(worker_of(&mut host, listener, &client), next);
}

#[test]
fn a_worker_that_says_no_is_passed_over_and_asked_again_when_all_have() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 3);
    let home = worker_of(&mut host, listener, "10.1.2.3");
    let (conn, mut actions) = host.accept_from(listener, "10.1.2.3");
    let mut asked = BTreeSet::new();
    for _ in 0..3 {
        let [(worker, _)] = offers(&actions)[..] else {
            panic!("{actions:?}")
        };
        assert!(asked.insert(worker), "{worker} was asked twice");
        actions = host.answer(worker, conn, false);
    }
    assert_eq!(offers(&actions), []);
    assert_eq!(offers(&host.pass(ms(20))), [(home, conn)]);
}

#[test]
fn where_too_many_wait_whoever_has_room_is_better_than_nobody() {
    let max_waiting = 3;
    let mut host = Host::new(Config {
        window: 1,
        max_waiting,
        ..sticky()
    });
    let listener = in_slots(&mut host, 2);
    let client = clients()
        .find(|client| worker_of(&mut host, listener, client) == W1)
        .unwrap();
    for _ in 0..=max_waiting {
        host.accept_from(listener, &client);
    }
    let (conn, actions) = host.accept_from(listener, &client);
    assert_eq!(offers(&actions), [(W2, conn)]);
    let (conn, actions) = host.accept_from(listener, &client);
    assert_eq!(actions, [Action::Release { conn }], "accepted against the rule");
}

#[test]
fn what_is_handed_back_goes_to_the_worker_of_its_client() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 4);
    for client in clients() {
        let worker = worker_of(&mut host, listener, &client);
        let conn = host.conn();
        let actions = host.input(Input::HandedBack {
            worker: W3,
            conn,
            local: ip("127.0.0.1:80"),
            client: Some(client.parse().unwrap()),
        });
        assert_eq!(offers(&actions), [(worker, conn)]);
        host.answer(worker, conn, true);
    }
}

#[test]
fn clients_without_an_address_are_served_in_turn() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 2);
    let order: Vec<_> = (0..4).map(|_| offers(&host.accept(listener).1)[0].0).collect();
    assert_eq!(order, [W1, W2, W1, W2]);
}

#[test]
fn connections_wait_while_there_is_no_worker_and_go_home_when_there_is() {
    let mut host = Host::new(sticky());
    let listener = in_slots(&mut host, 1);
    host.leave(W1, LeaveBy::HandBack);
    let conns: Vec<_> = (0..3)
        .map(|n| host.accept_from(listener, &format!("10.0.0.{n}")).0)
        .collect();
    host.gone(W1);
    assert_eq!(host.primary.waiting(), 3);
    host.join_in(Some(0), W2, false);
    let actions = host.ask(W2, &tcp(80));
    assert_eq!(
        offers(&actions),
        conns.iter().map(|conn| (W2, *conn)).collect::<Vec<_>>()
    );
}

fn some_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into()),
    ]
}

fn slots(count: u32) -> impl Iterator<Item = Slot> {
    (0..count).map(Slot)
}

proptest! {
    #[test]
    fn a_slot_that_goes_moves_only_its_clients_and_one_that_comes_takes_clients_only_for_itself(
        client in some_address(),
        mut some in prop::collection::btree_set(0..200_u32, 1..30),
    ) {
        let before = sticky_slot(client, some.iter().copied().map(Slot)).unwrap();
        prop_assert!(some.contains(&before.0));
        prop_assert_eq!(sticky_slot(client, some.iter().rev().copied().map(Slot)), Some(before), "order means nothing");
        let gone = *some.first().unwrap();
        some.remove(&gone);
        let after = sticky_slot(client, some.iter().copied().map(Slot));
        if gone != before.0 {
            prop_assert_eq!(after, Some(before));
        } else {
            prop_assert_eq!(after.is_none(), some.is_empty());
        }
    }

    #[test]
    fn clients_spread_evenly_over_slots_whatever_addresses_they_have(
        first in some_address(),
        step in prop_oneof![Just(1_u128), Just(256), Just(1 << 64), any::<u128>()],
        count in 2..9_u32,
    ) {
        let each = 2_000;
        let mut shares = BTreeMap::new();
        for n in 0..u128::from(each * count) {
            let offset = step.wrapping_mul(n);
            let client: IpAddr = match first {
                // The low bits of the step, odd so that no address comes twice.
                IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(((step as u32) | 1).wrapping_mul(n as u32))).into(),
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset)).into(),
            };
            *shares.entry(sticky_slot(client, slots(count)).unwrap()).or_insert(0) += 1;
        }
        let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
        // Six standard deviations of a fair die, in both directions.
        prop_assert!(*least > each - 270 && *most < each + 270, "{:?}", shares);
    }
}

#[test]
fn a_mapped_address_and_its_origin_have_the_same_slot_and_no_slots_are_none() {
    let v4 = Ipv4Addr::new(192, 0, 2, 7);
    assert_eq!(
        sticky_slot(v4.into(), slots(50)),
        sticky_slot(v4.to_ipv6_mapped().into(), slots(50))
    );
    assert_eq!(sticky_slot(v4.into(), slots(0)), None);
}

//! How a worker ends, and what it gets until then.

use thead_core::cluster::{Action, Config, Event, Input, LeaveBy};
use thead_wire::cluster::{FromWorker, ToWorker};

use crate::kit::{Host, W1, W2, W3, events, ignored, ms, offers, sent, tcp};

#[test]
fn a_worker_told_to_leave_gets_nothing_new_from_that_moment() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    assert_eq!(sent(&host.leave(W1, LeaveBy::Disconnect)), [(W1, ToWorker::Disconnect)]);
    for _ in 0..Config::default().window {
        let (conn, actions) = host.accept(listener);
        assert_eq!(offers(&actions), [(W2, conn)]);
    }
    assert_eq!(host.primary.may_accept(listener), 0);
}

#[test]
fn disconnect_waits_for_the_last_answer() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    assert_eq!(host.leave(W1, LeaveBy::Disconnect), []);
    assert_eq!(sent(&host.answer(W1, second, true)), []);
    assert_eq!(sent(&host.answer(W1, first, false)), [(W1, ToWorker::Disconnect)]);
}

#[test]
fn disconnect_does_not_wait_for_a_worker_that_hangs() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.accept(listener);
    host.leave(W1, LeaveBy::Disconnect);
    assert_eq!(sent(&host.pass(ms(999))), []);
    assert_eq!(sent(&host.pass(ms(1))), [(W1, ToWorker::Disconnect)]);
}

#[test]
fn a_leaving_worker_whose_last_offer_was_reclaimed_is_told_at_once() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (conn, _) = host.accept(listener);
    host.leave(W1, LeaveBy::HandBack);
    assert_eq!(host.pass(ms(50)), [Action::Reclaim { worker: W1 }]);
    let actions = host.input(Input::Reclaimed {
        worker: W1,
        conns: vec![conn],
    });
    assert_eq!(actions[0], Action::HandBack { worker: W1 });
    assert_eq!(offers(&actions), [(W2, conn)]);
}

#[test]
fn disconnect_is_sent_once() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    host.leave(W1, LeaveBy::Disconnect);
    assert_eq!(host.leave(W1, LeaveBy::Disconnect), []);
    assert_eq!(host.leave(W1, LeaveBy::HandBack), []);
    assert_eq!(host.pass(ms(60_000)), []);
}

#[test]
fn a_worker_that_drains_by_itself_is_not_told_to_disconnect_too() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    assert_eq!(host.leave(W1, LeaveBy::HandBack), [Action::HandBack { worker: W1 }]);
    assert_eq!(host.leave(W1, LeaveBy::Disconnect), []);
}

#[test]
fn a_worker_that_leaves_of_its_own_will_is_acknowledged_and_not_told_to_disconnect() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let actions = host.say(W1, FromWorker::ExitedAfterDisconnect);
    assert_eq!(sent(&actions), [(W1, ToWorker::Ack { ack: 2 })]);
    assert_eq!(events(&actions), [Event::Leaving { worker: W1 }]);
    assert_eq!(host.leave(W1, LeaveBy::Disconnect), []);
    let (conn, actions) = host.accept(listener);
    assert_eq!(offers(&actions), [(W2, conn)]);
    assert_eq!(
        events(&host.gone(W1)),
        [Event::Left {
            worker: W1,
            voluntary: true
        }]
    );
}

#[test]
fn a_worker_that_waits_to_be_told_and_leaves_first_is_only_acknowledged() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    let (conn, _) = host.accept(listener);
    host.leave(W1, LeaveBy::Disconnect);
    let actions = host.say(W1, FromWorker::ExitedAfterDisconnect);
    assert!(matches!(sent(&actions)[..], [(W1, ToWorker::Ack { .. })]));
    assert_eq!(sent(&host.answer(W1, conn, true)), []);
    assert_eq!(host.pass(ms(60_000)), []);
}

#[test]
fn number_zero_is_acknowledged_like_any_other() {
    let mut host = Host::new(Config::default());
    host.input(Input::Joined {
        worker: W1,
        gated: false,
        slot: None,
    });
    let actions = host.say(W1, FromWorker::ExitedAfterDisconnect);
    assert_eq!(sent(&actions), [(W1, ToWorker::Ack { ack: 0 })]);
}

#[test]
fn a_worker_that_leaves_gets_no_listener() {
    let mut host = Host::new(Config::default());
    host.workers(2);
    host.say(W1, FromWorker::ExitedAfterDisconnect);
    host.leave(W2, LeaveBy::Disconnect);
    for worker in [W1, W2] {
        let actions = host.ask(worker, &tcp(81));
        assert!(sent(&actions).is_empty() && ignored(&actions), "{actions:?}");
    }
}

#[test]
fn an_end_counts_once_and_is_voluntary_only_if_somebody_began_it() {
    let mut host = Host::new(Config::default());
    host.workers(2);
    assert_eq!(
        events(&host.gone(W1)),
        [Event::Left {
            worker: W1,
            voluntary: false
        }]
    );
    assert_eq!(host.gone(W1), []);
    host.leave(W2, LeaveBy::Disconnect);
    assert_eq!(
        events(&host.gone(W2)),
        [Event::Left {
            worker: W2,
            voluntary: true
        }]
    );
    assert_eq!(host.gone(W3), []);
}

#[test]
fn a_worker_that_died_with_an_offer_in_hand_is_still_reported() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.accept(listener);
    assert_eq!(
        events(&host.gone(W1)),
        [Event::Left {
            worker: W1,
            voluntary: false
        }]
    );
}

#[test]
fn each_worker_that_leaves_is_reported_for_itself() {
    let mut host = Host::new(Config::default());
    host.workers(2);
    host.leave(W1, LeaveBy::Disconnect);
    host.leave(W2, LeaveBy::Disconnect);
    assert_eq!(
        events(&host.gone(W2)),
        [Event::Left {
            worker: W2,
            voluntary: true
        }]
    );
    assert_eq!(
        events(&host.gone(W1)),
        [Event::Left {
            worker: W1,
            voluntary: true
        }]
    );
}

#[test]
fn a_gated_worker_that_is_told_to_leave_stays_closed() {
    let mut host = Host::new(Config::default());
    host.join_gated(W1, true);
    let listener = host.listen(W1, 80);
    host.leave(W1, LeaveBy::Disconnect);
    host.input(Input::Open { worker: W1 });
    let (_, actions) = host.accept(listener);
    assert_eq!(actions, []);
}

#[test]
fn a_reload_offers_every_connection_to_the_new_worker_from_the_moment_it_is_opened() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.join_gated(W2, true);
    host.listen(W2, 80);
    let (old, actions) = host.accept(listener);
    assert_eq!(offers(&actions), [(W1, old)], "gated: the old one serves");
    host.input(Input::Open { worker: W2 });
    host.leave(W1, LeaveBy::HandBack);
    let (new, actions) = host.accept(listener);
    assert_eq!(offers(&actions), [(W2, new)]);
    let actions = host.answer(W1, old, true);
    assert_eq!(
        actions,
        [Action::Release { conn: old }, Action::HandBack { worker: W1 }]
    );
    let back = host.conn();
    let actions = host.input(Input::HandedBack {
        worker: W1,
        conn: back,
        local: crate::kit::ip("127.0.0.1:80"),
        client: None,
    });
    assert_eq!(offers(&actions), [(W2, back)]);
}

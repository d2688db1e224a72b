//! Workers that say what cannot be: it costs nobody else anything.

use thead_core::cluster::{Action, Config, Input};
use thead_core::id::{ConnId, ListenerId};
use thead_wire::cluster::{Envelope, FromWorker};

use crate::kit::{Host, W1, W2, ignored, ip, ms, offers, tcp};
use crate::laws::Place;

#[test]
fn an_answer_to_another_workers_offer_is_ignored() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = host.accept(listener);
    let (second, _) = host.accept(listener);
    // Number 1 is the first offer of each; the second worker answers its own and then once more.
    assert_eq!(host.answer(W2, second, true), [Action::Release { conn: second }]);
    assert!(ignored(&host.say(
        W2,
        FromWorker::Accepted {
            ack: 1,
            accepted: false
        }
    )));
    assert_eq!(host.laws.conns[&first].place, Place::Offered(W1));
}

#[test]
fn an_answer_to_a_reply_or_to_nothing_is_ignored() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    for ack in [0, 7, u64::MAX] {
        assert!(ignored(&host.say(W1, FromWorker::Accepted { ack, accepted: true })));
    }
}

#[test]
fn a_worker_cannot_close_anothers_listener() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    host.join(W2);
    for key in ["127.0.0.1:80:4:undefined", "no key at all"] {
        assert!(ignored(&host.say(W2, FromWorker::Close { key: key.into() })));
    }
    let (conn, actions) = host.accept(ListenerId(0));
    assert_eq!(offers(&actions), [(W1, conn)]);
}

#[test]
fn a_listener_that_is_being_bound_cannot_be_closed() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    let listener = crate::kit::bind(&host.ask(W1, &tcp(80))).unwrap();
    assert!(ignored(&host.say(
        W1,
        FromWorker::Close {
            key: "127.0.0.1:80:4:undefined".into()
        }
    )));
    let actions = host.input(Input::Bound {
        listener,
        bound: Ok(ip("127.0.0.1:80")),
    });
    assert_eq!(crate::kit::sent(&actions).len(), 1);
}

#[test]
fn a_second_online_and_an_unknown_act_are_ignored() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    assert!(ignored(&host.say(W1, FromWorker::Online)));
    assert!(ignored(&host.say(W1, FromWorker::Unknown { act: "suicide".into() })));
}

#[test]
fn a_second_exit_with_the_same_number_is_ignored() {
    let mut host = Host::new(Config::default());
    host.join(W1);
    for expected in [false, true] {
        let message = Envelope {
            seq: Some(5),
            message: FromWorker::ExitedAfterDisconnect,
        };
        assert_eq!(ignored(&host.input(Input::Message { worker: W1, message })), expected);
    }
}

#[test]
fn what_a_dead_worker_says_is_nothing() {
    let mut host = Host::new(Config::default());
    host.workers(1);
    host.gone(W1);
    assert_eq!(host.ask(W1, &tcp(81)), []);
    assert_eq!(host.say(W1, FromWorker::Accepted { ack: 0, accepted: true }), []);
    assert_eq!(host.input(Input::Open { worker: W1 }), []);
    assert_eq!(
        host.input(Input::Reclaimed {
            worker: W1,
            conns: vec![ConnId(1)]
        }),
        []
    );
    assert_eq!(
        host.input(Input::Bound {
            listener: ListenerId(9),
            bound: Err(-98)
        }),
        []
    );
}

#[test]
fn a_worker_that_joins_twice_is_one() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(1);
    host.input(Input::Joined {
        worker: W1,
        gated: true,
        slot: None,
    });
    let (conn, actions) = host.accept(listener);
    assert_eq!(offers(&actions), [(W1, conn)]);
}

#[test]
fn a_machine_with_nothing_to_do_rests() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    for _ in 0..3 {
        let (conn, actions) = host.accept(listener);
        host.answer(offers(&actions)[0].0, conn, true);
    }
    host.pass(ms(60_000));
    assert_eq!(host.primary.deadline(), None);
}

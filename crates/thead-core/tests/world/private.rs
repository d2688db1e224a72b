//! Connections by which one worker is asked how it is.

use thead_core::cluster::{Action, Config, Event, Input, LeaveBy, Private, Scheduling};
use thead_core::id::{ConnId, ListenerId, WorkerId};

use crate::kit::{Host, W1, W2, ip, ms, offers, scheduled, udp};

fn ask(host: &mut Host, worker: WorkerId, listener: ListenerId) -> (ConnId, Vec<Action>) {
    let conn = host.conn();
    (conn, host.input(Input::Private { worker, listener, conn }))
}

#[test]
fn a_worker_is_asked_alone_gated_or_not_and_however_much_it_has() {
    for gated in [false, true] {
        let mut host = Host::new(Config {
            window: 1,
            ..Config::default()
        });
        host.workers(1);
        host.join_gated(W2, gated);
        let listener = host.listen(W2, 80);
        assert_eq!(host.primary.private(W2, 80), Private::At(listener));
        assert_eq!(host.primary.private(W2, 0), Private::At(listener));
        for accepted in [true, false] {
            let (conn, actions) = ask(&mut host, W2, listener);
            assert_eq!(offers(&actions), [(W2, conn)]);
            let taken = Action::Emit(Event::Taken { worker: W2, conn });
            let release = Action::Release { conn };
            let expected = if accepted { vec![taken, release] } else { vec![release] };
            assert_eq!(host.answer(W2, conn, accepted), expected);
        }
    }
}

#[test]
fn a_worker_that_is_late_to_take_it_is_not_asked_to_give_it_back() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    ask(&mut host, W1, listener);
    let actions = host.pass(ms(10_000));
    let is_reclaim = |action: &Action| matches!(action, Action::Reclaim { .. });
    assert!(!actions.iter().any(is_reclaim), "{actions:?}");
}

#[test]
fn what_a_worker_did_not_take_is_nobodys() {
    let mut host = Host::new(Config::default());
    let listener = host.workers(2);
    let (first, _) = ask(&mut host, W1, listener);
    let (second, _) = ask(&mut host, W1, listener);
    let conns = vec![first];
    let back = host.input(Input::Reclaimed { worker: W1, conns });
    assert_eq!(back, [Action::Release { conn: first }]);
    let released = host.gone(W1);
    assert!(released.contains(&Action::Release { conn: second }), "{released:?}");
    assert!(offers(&host.pass(ms(10_000))).is_empty());
}

#[test]
fn who_does_not_listen_there_cannot_be_asked_so() {
    for scheduling in [
        Scheduling::RoundRobin,
        Scheduling::Shared,
        Scheduling::Kernel,
        Scheduling::Sticky,
    ] {
        let mut host = Host::new(scheduled(scheduling));
        let listener = host.workers(1);
        assert_eq!(host.primary.private(W1, 80), Private::At(listener));
        assert_eq!(host.primary.private(W1, 81), Private::Nowhere);
        assert_eq!(host.primary.private(W2, 80), Private::NotListening);
        host.listen_at(W1, &udp(53), ip("127.0.0.1:53"));
        assert_eq!(host.primary.private(W1, 53), Private::Nowhere);
        host.leave(W1, LeaveBy::Disconnect);
        assert_eq!(host.primary.private(W1, 80), Private::NotListening);
    }
}

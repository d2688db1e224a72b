//! When a worker counts as ready.

use std::time::Duration;

use thead_core::id::WorkerId;
use thead_core::service::{AbortCause, Action, Config, Event, Failure, Input, Order, Ready, Why};

use crate::world::{Program, World, ms, s};

fn ready_at(world: &World) -> Vec<Duration> {
    world
        .seen(|event| matches!(event, Event::Ready { .. }).then_some(()))
        .into_iter()
        .map(|(at, ())| at)
        .collect()
}

fn config(ready: Ready) -> Config {
    Config {
        ready,
        ..Config::default()
    }
}

#[test]
fn a_start_spawns_all_instances_at_once_and_ungated() {
    let mut world = World::new(
        Config {
            instances: 4,
            ..Config::default()
        },
        |_| Program::healthy(),
    );
    world.order(Order::Start);
    assert_eq!(world.orders.len(), 4);
    assert!(
        world
            .orders
            .iter()
            .all(|(_, order)| matches!(order, Action::Spawn { gated: false, .. }))
    );
    world.rest();
    assert_eq!(world.ready(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
}

#[test]
fn a_cluster_worker_is_ready_when_it_first_listens_and_not_by_saying_so() {
    let talker = || Program {
        says_ready: Some(ms(40)),
        ..Program::healthy()
    };
    let world = World::settled(Config::default(), move |_| talker());
    assert_eq!(ready_at(&world), [ms(51)]);
}

#[test]
fn a_program_without_a_channel_is_ready_after_a_second_of_life() {
    let world = World::settled(Config::default(), |_| Program::plain());
    assert_eq!(ready_at(&world), [ms(1001)]);
}

#[test]
fn a_program_that_is_no_cluster_worker_is_ready_as_soon_as_it_says_so() {
    for program in [
        Program::plain(),
        Program {
            channel: true,
            ..Program::plain()
        },
    ] {
        let program = Program {
            says_ready: Some(ms(300)),
            ..program
        };
        let world = World::settled(Config::default(), move |_| program.clone());
        assert_eq!(ready_at(&world), [ms(301)]);
    }
}

#[test]
fn at_first_start_a_worker_that_never_listens_is_taken_as_ready_with_a_warning() {
    let world = World::settled(Config::default(), |_| Program::silent());
    assert_eq!(ready_at(&world), [ms(10_001)]);
    assert_eq!(world.count(|event| matches!(event, Event::NotListening { .. })), 1);
}

#[test]
fn queue_workers_that_never_listen_can_be_reloaded() {
    let mut world = World::settled(Config::default(), |_| Program::silent());
    world.order(Order::Reload);
    world.rest();
    assert_eq!(world.ready(), [(0, 2)]);
}

#[test]
fn a_new_generation_that_does_not_listen_where_the_old_one_did_is_refused() {
    let mut world = World::settled(Config::default(), |_| Program::healthy());
    world.recast(|_| Program::silent());
    world.order(Order::Reload);
    world.rest();
    assert_eq!(world.ready(), [(0, 1)]);
    let causes = world.seen(|event| match event {
        Event::ReloadAborted {
            cause: AbortCause::Failed { failure, .. },
            ..
        } => Some(failure.clone()),
        _ => None,
    });
    assert!(matches!(&causes[..], [(_, Failure::NotListening(_))]), "{causes:?}");
}

#[test]
fn what_a_slot_has_to_do_is_learned_from_who_served_there_and_not_from_who_was_refused() {
    let mut world = World::settled(Config::default(), |call| match call.generation.0 {
        2 => Program::crashing(ms(500)),
        4 => Program::healthy(),
        _ => Program::silent(),
    });
    let mut serving = Vec::new();
    for _ in 2..=5 {
        world.order(Order::Reload);
        world.rest();
        serving.push(world.ready()[0].1);
    }
    // The second listened and was refused, so the third need not listen. The fourth listened, so the fifth has to.
    assert_eq!(serving, [1, 3, 4, 4]);
}

#[test]
fn a_server_that_is_restarted_and_does_not_listen_again_is_a_fault_and_not_a_queue_worker() {
    let mut first = true;
    let mut world = World::new(Config::default(), move |_| match std::mem::take(&mut first) {
        true => Program::crashing(s(20)),
        false => Program::silent(),
    });
    world.order(Order::Start);
    world.run_for(s(35));
    let faults = world.seen(|event| match event {
        Event::Terminating {
            why: Why::Failed(failure),
            ..
        } => Some(failure.clone()),
        _ => None,
    });
    assert!(matches!(&faults[..], [(_, Failure::NotListening(_))]), "{faults:?}");
}

#[test]
fn a_worker_that_has_to_say_ready_and_does_not_is_terminated_and_started_again() {
    let mut world = World::new(config(Ready::Message), |_| Program::healthy());
    world.order(Order::Start);
    world.run_for(s(11));
    assert_eq!(
        world.told(1),
        [(
            ms(10_001),
            Action::Terminate {
                worker: thead_core::id::WorkerId(1)
            }
        )]
    );
    assert_eq!(world.spawns(), 2);
}

#[test]
fn readiness_is_what_was_asked_for_and_nothing_else() {
    let program = || Program {
        says_ready: Some(ms(700)),
        ..Program::healthy()
    };
    for (ready, at) in [
        (Ready::Listening, 51),
        (Ready::Message, 701),
        (Ready::After(s(2)), 2001),
    ] {
        let world = World::settled(config(ready), move |_| program());
        assert_eq!(ready_at(&world), [ms(at)], "{ready:?}");
    }
}

#[test]
fn who_asks_for_more_time_to_start_gets_it_but_not_for_ever() {
    let slow = |listening| {
        move |_| Program {
            listening: Some(listening),
            ..Program::healthy()
        }
    };
    let config = || Config {
        ready: Ready::Listening,
        ..Config::default()
    };
    let worker = WorkerId(1);
    let mut world = World::new(config(), slow(s(30)));
    world.order(Order::Start);
    world.run_for(s(9));
    world.input(Input::Extend { worker, by: s(25) });
    world.input(Input::Extend { worker, by: s(1) });
    world.rest();
    assert_eq!(world.spawns(), 1, "it came in its own time");
    let mut world = World::new(config(), slow(s(3600)));
    world.order(Order::Start);
    for _ in 0..200 {
        world.run_for(s(1));
        world.input(Input::Extend { worker, by: s(10) });
    }
    let first = world.told(1)[0].0;
    assert_eq!(first, s(100) + ms(1), "ten times its ready timeout");
}

//! Orders and their answers.

use std::time::Duration;

use thead_core::id::{Generation, Ticket, WorkerId};
use thead_core::restart::Policy;
use thead_core::service::{
    AbortCause, Action, Answer, Condition, Config, ConfigError, Event, Failure, Input, Order, Outcome, Refusal, Reload,
};
use thead_core::worker::{Exit, Slot};

use crate::world::{CRASHED, Call, OUT_OF_MEMORY, OnDrain, Program, World, ms, s};

const ZERO: Slot = Slot(0);
const ONE: Slot = Slot(1);

fn of(instances: usize) -> World {
    let config = Config {
        instances,
        ..Config::default()
    };
    World::settled(config, |_| Program::healthy())
}

/// Gives an order, lets all happen, and says what came of it and how long it took.
fn obeyed(world: &mut World, order: Order) -> (Duration, Answer) {
    let begun = world.elapsed();
    let ticket = world.order(order);
    world.rest();
    let (at, answer) = world.answer(ticket).unwrap();
    (at - begun, answer)
}

fn answers(world: &World, tickets: &[Ticket]) -> Vec<Answer> {
    tickets.iter().map(|ticket| world.answer(*ticket).unwrap().1).collect()
}

fn failed(worker: u32, failure: Failure) -> Answer {
    let worker = WorkerId(worker);
    Answer::Aborted(AbortCause::Failed { worker, failure })
}

#[test]
fn each_order_is_answered_when_it_is_done() {
    let mut world = World::new(Config::default(), |_| Program::healthy());
    assert_eq!(obeyed(&mut world, Order::Start), (ms(51), Answer::Done));
    // Ready after 51 ms, proven after 1 s more, and 100 ms to drain.
    assert_eq!(obeyed(&mut world, Order::Reload), (ms(1151), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Renew(ZERO)), (ms(151), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Restart), (ms(151), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::RestartWorker(ZERO)), (ms(151), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Scale(3)), (ms(51), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Scale(3)), (ms(0), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Scale(1)), (ms(100), Answer::Done));
    assert_eq!(obeyed(&mut world, Order::Stop), (ms(100), Answer::Done));
    assert_eq!(world.outcome, Some(Outcome::Stopped));
}

#[test]
fn g6_of_a_hundred_reloads_the_first_and_the_last_are_done_and_the_others_are_told() {
    let mut world = of(2);
    let tickets: Vec<_> = (0..100)
        .map(|_| {
            world.run_for(ms(10));
            world.order(Order::Reload)
        })
        .collect();
    world.rest();
    let answers = answers(&world, &tickets);
    let (first, last) = (&answers[0], &answers[99]);
    assert_eq!((first, last), (&Answer::Done, &Answer::Done));
    assert!(answers[1..99].iter().all(|answer| *answer == Answer::Superseded));
    assert_eq!(world.ready(), [(0, 3), (1, 3)]);
}

#[test]
fn a_restart_that_waits_is_superseded_by_a_reload_and_a_reload_by_a_restart() {
    let mut world = of(1);
    let orders = [Order::Reload, Order::Restart, Order::Reload, Order::Restart];
    let tickets = orders.map(|order| world.order(order));
    world.rest();
    use Answer::{Done, Superseded};
    assert_eq!(answers(&world, &tickets), [Done, Superseded, Superseded, Done]);
    assert_eq!(world.ready(), [(0, 3)]);
}

#[test]
fn a_restart_lets_all_go_before_the_first_comes_and_connections_have_a_successor() {
    let mut world = World::settled(
        Config {
            instances: 3,
            ..Config::default()
        },
        |call| Program {
            drain: OnDrain::Exits(s(1 + u64::from(call.slot.0))),
            ..Program::healthy()
        },
    );
    let begin = world.orders.len();
    assert_eq!(obeyed(&mut world, Order::Restart), (s(3) + ms(51), Answer::Done));
    let is_spawn = |order: &Action| matches!(order, Action::Spawn { gated: false, .. });
    let orders: Vec<_> = world.orders[begin..].iter().map(|(_, order)| order).collect();
    assert!(
        orders[..3]
            .iter()
            .all(|order| matches!(order, Action::Drain { successor: true, .. }))
    );
    assert!(orders[3..].iter().all(|order| is_spawn(order)));
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.service.generation(), Generation(2));
}

#[test]
fn a_restart_that_fails_is_told_at_the_first_failure_and_the_policy_goes_on() {
    let mut world = of(2);
    world.recast(|call: Call| match call.worker.0 {
        3 => Program::crashing(ms(10)),
        _ => Program::healthy(),
    });
    let (took, answer) = obeyed(&mut world, Order::Restart);
    assert_eq!((took, answer), (ms(111), failed(3, Failure::Exit(CRASHED))));
    assert_eq!(world.ready(), [(0, 2), (1, 2)], "it came back by itself");
}

#[test]
fn a_restart_to_what_is_broken_fails_as_a_first_start_does() {
    let mut world = of(1);
    world.recast(|_| Program::crashing(ms(10)));
    assert_eq!(obeyed(&mut world, Order::Restart).1, failed(2, Failure::Exit(CRASHED)));
    assert!(matches!(world.outcome, Some(Outcome::Failed { .. })));
    assert_eq!(world.service.condition(), Condition::Ended);
}

#[test]
fn g3_a_restart_of_one_worker_touches_no_other() {
    let mut world = of(3);
    let before: Vec<_> = world.service.workers().filter(|view| view.slot != ONE).collect();
    assert_eq!(obeyed(&mut world, Order::RestartWorker(ONE)).1, Answer::Done);
    let after: Vec<_> = world.service.workers().filter(|view| view.slot != ONE).collect();
    assert_eq!(before, after);
    assert_eq!(world.ready(), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(world.spawns(), 4);
}

#[test]
fn a_restart_of_a_slot_that_was_given_up_or_waits_does_not_wait() {
    let mut config = Config {
        instances: 2,
        ..Config::default()
    };
    config.restart.intensity.restarts = 0;
    let mut world = World::settled(config, |call: Call| match call.worker.0 {
        2 => Program::crashing(ms(100)),
        _ => Program::healthy(),
    });
    assert_eq!(world.ready(), [(0, 1)]);
    assert_eq!(world.service.condition(), Condition::Degraded);
    assert_eq!(obeyed(&mut world, Order::RestartWorker(ONE)), (ms(51), Answer::Done));
    assert_eq!(world.service.condition(), Condition::Ready);
}

#[test]
fn a_renewal_brings_the_new_one_before_the_old_one_goes() {
    let mut world = of(2);
    let begin = world.orders.len();
    assert_eq!(obeyed(&mut world, Order::Renew(ONE)).1, Answer::Done);
    let worker = WorkerId(3);
    let orders: Vec<_> = world.orders[begin..].iter().map(|(_, order)| order.clone()).collect();
    let expected = [
        Action::Spawn {
            worker,
            slot: ONE,
            generation: Generation(1),
            gated: true,
        },
        Action::Open { worker },
        Action::Drain {
            worker: WorkerId(2),
            successor: true,
        },
    ];
    assert_eq!(orders, expected);
}

#[test]
fn a_renewal_that_fails_leaves_the_old_one_serving_and_the_budget_alone() {
    for program in [Program::crashing(ms(10)), Program::silent()] {
        let mut world = of(2);
        world.recast(move |_| program.clone());
        assert!(matches!(
            obeyed(&mut world, Order::Renew(ONE)).1,
            Answer::Aborted(AbortCause::Failed {
                worker: WorkerId(3),
                ..
            })
        ));
        assert!(world.told(2).is_empty());
        assert_eq!(world.ready(), [(0, 1), (1, 1)]);
        assert_eq!(world.count(|event| matches!(event, Event::RestartScheduled { .. })), 0);
    }
}

#[test]
fn whoever_dies_while_another_comes_is_replaced_by_that_one_alone() {
    let mut world = of(1);
    world.recast(|_| Program {
        listening: Some(s(2)),
        ..Program::healthy()
    });
    let ticket = world.order(Order::Renew(ZERO));
    world.run_for(s(1));
    let (worker, status) = (WorkerId(1), CRASHED);
    world.input(Input::Exited {
        worker,
        status,
        oom: false,
    });
    world.rest();
    assert_eq!(world.answer(ticket).unwrap().1, Answer::Done);
    assert_eq!((world.ready(), world.spawns()), (vec![(0, 1)], 2));
}

#[test]
fn when_both_the_old_and_the_new_one_die_a_third_comes() {
    let mut world = of(1);
    world.recast(|call: Call| match call.worker.0 {
        2 => Program {
            listening: None,
            ..Program::crashing(s(2))
        },
        _ => Program::healthy(),
    });
    let ticket = world.order(Order::Renew(ZERO));
    world.run_for(s(1));
    let (worker, status) = (WorkerId(1), CRASHED);
    world.input(Input::Exited {
        worker,
        status,
        oom: false,
    });
    world.rest();
    assert_eq!(world.answer(ticket).unwrap().1, failed(2, Failure::Exit(CRASHED)));
    assert_eq!((world.ready(), world.spawns()), (vec![(0, 1)], 3));
}

#[test]
fn a_renewal_of_one_that_was_replaced_meanwhile_is_done() {
    let mut world = of(2);
    let tickets = [Order::Reload, Order::Renew(ONE), Order::RestartWorker(ZERO)].map(|order| world.order(order));
    world.rest();
    assert_eq!(answers(&world, &tickets), [Answer::Done, Answer::Done, Answer::Done]);
    assert_eq!(world.spawns(), 4, "nobody came but the new generation");
}

#[test]
fn renewals_go_one_after_the_other_and_two_of_a_slot_fall_together() {
    let mut world = of(3);
    let slots = [0, 1, 2, 1];
    let tickets = slots.map(|slot| world.order(Order::Renew(Slot(slot))));
    world.rest();
    use Answer::{Done, Superseded};
    assert_eq!(answers(&world, &tickets), [Done, Superseded, Done, Done]);
    assert_eq!((world.ready().len(), world.spawns()), (3, 6));
}

#[test]
fn a_stop_overrides_all_and_everybody_is_told() {
    let mut world = of(2);
    let orders = [
        Order::Reload,
        Order::Restart,
        Order::Renew(ZERO),
        Order::RestartWorker(ONE),
        Order::Scale(3),
    ];
    let tickets = orders.map(|order| world.order(order));
    let stop = world.order(Order::Stop);
    let again = world.order(Order::StopNow);
    world.rest();
    for answer in answers(&world, &tickets) {
        assert_eq!(answer, Answer::Aborted(AbortCause::Stopping));
    }
    assert_eq!(answers(&world, &[stop, again]), [Answer::Done, Answer::Done]);
}

#[test]
fn of_two_numbers_that_wait_the_newer_counts() {
    let mut world = of(2);
    let tickets = [Order::Reload, Order::Scale(4), Order::Scale(3)].map(|order| world.order(order));
    world.rest();
    use Answer::{Done, Superseded};
    assert_eq!(answers(&world, &tickets), [Done, Superseded, Done]);
    assert_eq!(world.ready().len(), 3);
}

#[test]
fn more_workers_that_fail_are_told_and_tried_again() {
    let mut world = of(1);
    world.recast(|call: Call| match call.worker.0 {
        2 => Program::crashing(ms(10)),
        _ => Program::healthy(),
    });
    let (_, answer) = obeyed(&mut world, Order::Scale(2));
    assert_eq!(answer, failed(2, Failure::Exit(CRASHED)));
    assert_eq!(world.ready().len(), 2);
}

#[test]
fn other_settings_hold_at_once_and_their_number_of_instances_as_by_scale() {
    let mut world = of(1);
    let mut config = Config {
        instances: 3,
        ..Config::default()
    };
    config.restart.policy = Policy::Never;
    let order = Order::Configure(Box::new(config.clone()));
    assert_eq!(obeyed(&mut world, order.clone()), (ms(51), Answer::Done));
    assert_eq!(obeyed(&mut world, order), (ms(0), Answer::Done));
    let (worker, status) = (WorkerId(2), CRASHED);
    world.input(Input::Exited {
        worker,
        status,
        oom: false,
    });
    world.rest();
    assert_eq!(world.ready(), [(0, 1), (2, 1)], "who dies is not wanted back");
    config.ready_timeout = Duration::ZERO;
    let refused = Answer::Refused(Refusal::Invalid(ConfigError::Zero {
        setting: "ready-timeout",
    }));
    assert_eq!(obeyed(&mut world, Order::Configure(Box::new(config))).1, refused);
}

#[test]
fn a_slot_that_is_not_there_cannot_be_restarted() {
    let mut world = of(2);
    for order in [Order::Renew(Slot(2)), Order::RestartWorker(Slot(2))] {
        assert_eq!(obeyed(&mut world, order).1, Answer::Refused(Refusal::NoSuchSlot));
    }
    let tickets = [Order::Scale(1), Order::Reload, Order::Renew(ONE)].map(|order| world.order(order));
    world.rest();
    assert_eq!(answers(&world, &tickets)[2], Answer::Refused(Refusal::NoSuchSlot));
}

/// The fewest that were ready while the generation took over, and how long that took.
fn reloaded_with(max_unavailable: usize) -> (usize, Duration) {
    let mut world = World::settled(
        Config {
            instances: 4,
            reload: Reload {
                max_unavailable,
                ..Reload::default()
            },
            ..Config::default()
        },
        |_| Program {
            listening: Some(s(1)),
            ..Program::healthy()
        },
    );
    let begun = world.elapsed();
    let ticket = world.order(Order::Reload);
    let mut fewest = world.ready().len();
    let mut unproven = fewest;
    while world.answer(ticket).is_none() {
        world.run_for(ms(1));
        let ready = world.ready();
        fewest = fewest.min(ready.len());
        if !ready.iter().any(|(_, generation)| *generation == 2) {
            unproven = unproven.min(ready.len());
        }
    }
    assert_eq!(unproven, 4, "nobody is missed for a generation that is not proven");
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2), (3, 2)]);
    (fewest, world.elapsed() - begun)
}

#[test]
fn those_that_may_be_missed_leave_before_their_successors_are_ready() {
    let (fewest, slow) = reloaded_with(0);
    assert_eq!(fewest, 4);
    let (fewest, fast) = reloaded_with(2);
    assert_eq!(fewest, 2);
    assert!(fast + s(1) < slow, "{fast:?}, {slow:?}");
    assert_eq!(reloaded_with(9).0, 1, "the first new one is always there");
}

#[test]
fn an_aborted_reload_fills_the_places_of_those_that_were_missed() {
    let config = Config {
        instances: 4,
        reload: Reload {
            max_unavailable: 2,
            ..Reload::default()
        },
        ..Config::default()
    };
    let mut world = World::settled(config, |_| Program::healthy());
    world.recast(|call: Call| match (call.generation.0, call.slot.0) {
        (2, 0) | (1, _) => Program::healthy(),
        _ => Program::crashing(ms(10)),
    });
    assert!(matches!(obeyed(&mut world, Order::Reload).1, Answer::Aborted(_)));
    assert_eq!(world.ready(), [(0, 2), (1, 1), (2, 1), (3, 1)]);
    assert_eq!(world.count(|event| matches!(event, Event::RestartScheduled { .. })), 0);
}

#[test]
fn g20_what_the_kernel_ended_for_its_memory_is_told_so() {
    let mut world = World::settled(Config::default(), |call: Call| match call.worker.0 {
        1 => Program {
            exits: Some((s(1), OUT_OF_MEMORY)),
            ..Program::healthy()
        },
        _ => Program::healthy(),
    });
    world.rest();
    let failures = world.seen(|event| match event {
        Event::Exited { failure, .. } => failure.clone(),
        _ => None,
    });
    assert_eq!(failures[0].1, Failure::OutOfMemory);
    let restarts = world.seen(|event| match event {
        Event::RestartScheduled { failure, .. } => Some(failure.clone()),
        _ => None,
    });
    assert_eq!(restarts[0].1, Failure::OutOfMemory);
}

#[test]
fn the_condition_of_a_service_tells_coming_from_missing() {
    let mut world = World::new(
        Config {
            instances: 2,
            ..Config::default()
        },
        |_| Program::healthy(),
    );
    let condition = |world: &World| world.service.condition();
    world.order(Order::Start);
    assert_eq!(condition(&world), Condition::Starting);
    world.rest();
    assert_eq!(condition(&world), Condition::Ready);
    world.order(Order::Reload);
    world.run_for(ms(500));
    assert_eq!(condition(&world), Condition::Ready, "the old ones serve");
    world.rest();
    world.order(Order::Restart);
    world.run_for(ms(50));
    assert_eq!(condition(&world), Condition::Starting);
    world.rest();
    let (worker, status) = (world.service.workers().next().unwrap().worker, Exit::Code(0));
    world.input(Input::Exited {
        worker,
        status,
        oom: false,
    });
    assert_eq!(condition(&world), Condition::Degraded);
    world.rest();
    world.order(Order::Stop);
    assert_eq!(condition(&world), Condition::Stopping);
    world.rest();
    assert_eq!(condition(&world), Condition::Ended);
}

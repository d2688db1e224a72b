//! New before old.

use std::time::Duration;

use thead_core::id::{Generation, WorkerId};
use thead_core::service::{AbortCause, Action, Config, Event, Input, Order, Refusal, Reload};
use thead_core::worker::{Exit, Phase};

use crate::world::{CRASHED, Call, OnDrain, Program, World, ms, s};

fn healthy(instances: usize) -> World {
    World::settled(
        Config {
            instances,
            ..Config::default()
        },
        |_| Program::healthy(),
    )
}

fn reload(world: &mut World) {
    world.order(Order::Reload);
    world.rest();
}

fn running_after_abort(world: &World) -> Vec<(Generation, usize)> {
    let running = world.seen(|event| match event {
        Event::ReloadAborted { running, .. } => Some(running.clone()),
        _ => None,
    });
    running.last().unwrap().1.clone()
}

#[test]
fn a_reload_replaces_one_worker_after_the_other_and_opens_each_before_its_predecessor_drains() {
    let mut world = healthy(3);
    let begin = world.orders.len();
    reload(&mut world);
    let open = |worker| Action::Open {
        worker: WorkerId(worker),
    };
    let drain = |worker| Action::Drain {
        worker: WorkerId(worker),
        successor: true,
    };
    let orders: Vec<_> = world.orders[begin..].iter().map(|(_, order)| order.clone()).collect();
    let orders: Vec<_> = orders
        .into_iter()
        .filter(|order| !matches!(order, Action::Spawn { .. }))
        .collect();
    assert_eq!(orders, [open(4), drain(1), open(5), drain(2), open(6), drain(3)]);
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.service.generation(), Generation(2));
}

#[test]
fn only_the_first_of_a_generation_soaks() {
    let mut world = healthy(4);
    world.order(Order::Reload);
    let asked = world.elapsed();
    world.rest();
    let serving = world.seen(|event| matches!(event, Event::ReloadServing { .. }).then_some(()));
    assert_eq!(serving[0].0 - asked, s(1) + 4 * ms(51));
}

#[test]
fn a_reload_is_done_when_nobody_of_the_old_generation_is_left() {
    let mut world = World::settled(Config::default(), |_| Program {
        drain: OnDrain::Exits(s(20)),
        ..Program::healthy()
    });
    reload(&mut world);
    let times = world.seen(|event| match event {
        Event::ReloadServing { took, .. } | Event::ReloadDone { took, .. } => Some(*took),
        _ => None,
    });
    assert_eq!(
        times.iter().map(|(_, took)| *took).collect::<Vec<_>>(),
        [ms(1051), ms(21_051)]
    );
}

#[test]
fn an_old_worker_that_cannot_be_killed_does_not_hold_a_reload_up() {
    let undead = Program {
        drain: OnDrain::Ignores,
        term: None,
        kill: None,
        ..Program::healthy()
    };
    let mut world = World::settled(Config::default(), move |_| undead.clone());
    reload(&mut world);
    let took = world.seen(|event| match event {
        Event::ReloadDone { took, .. } => Some(*took),
        _ => None,
    });
    assert!(matches!(took[..], [(_, took)] if took == ms(1051) + s(45)), "{took:?}");
}

#[test]
fn the_steps_of_a_reload_do_not_grow_with_the_number_of_siblings() {
    let mut world = healthy(100);
    reload(&mut world);
    assert_eq!(world.ready().len(), 100);
    assert!(
        world.steps < 1024 * 12,
        "steps do not grow with the number of siblings: {}",
        world.steps
    );
}

#[test]
fn a_generation_that_is_broken_in_whatever_way_never_replaces_the_old_one() {
    let broken = [
        Program {
            fails: true,
            ..Program::healthy()
        },
        Program::crashing(Duration::ZERO),
        Program::crashing(ms(49)),
        // Ready, and dead within the soak.
        Program::crashing(ms(1049)),
        Program {
            exits: Some((ms(500), Exit::Code(0))),
            ..Program::healthy()
        },
        Program {
            hangs: Some(ms(500)),
            ..Program::healthy()
        },
        Program {
            disconnects: Some(ms(500)),
            ..Program::healthy()
        },
        Program::silent(),
        Program {
            listening: Some(s(11)),
            term: None,
            ..Program::healthy()
        },
    ];
    for (number, program) in broken.into_iter().enumerate() {
        for count in [1, 3] {
            let mut world = healthy(count);
            let old: Vec<_> = world.service.workers().map(|view| view.pid).collect();
            let program = program.clone();
            world.recast(move |_| program.clone());
            reload(&mut world);
            assert_eq!(
                world.service.workers().map(|view| view.pid).collect::<Vec<_>>(),
                old,
                "program {number}"
            );
            assert_eq!(running_after_abort(&world), [(Generation(1), count)]);
            assert!((1..=count as u32).all(|worker| world.told(worker).is_empty()));
            assert_eq!(world.running(), count, "the refused ones are gone");
            assert_eq!(world.service.generation(), Generation(1));
            assert_eq!(world.count(|event| matches!(event, Event::RestartScheduled { .. })), 0);
        }
    }
}

#[test]
fn what_served_when_a_later_one_failed_serves_on() {
    let mut world = healthy(4);
    world.recast(|call| match call.slot.0 {
        2 => Program::crashing(ms(10)),
        _ => Program::healthy(),
    });
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 1), (3, 1)]);
    assert_eq!(running_after_abort(&world), [(Generation(1), 2), (Generation(2), 2)]);
}

#[test]
fn a_new_worker_that_dies_after_it_was_opened_ends_the_reload_and_is_replaced_by_the_last_good_generation() {
    let mut world = healthy(3);
    world.recast(|call: Call| match (call.generation.0, call.slot.0) {
        (2, 0) => Program::crashing(ms(1200)),
        (2, 2) => Program {
            listening: Some(s(1)),
            ..Program::healthy()
        },
        _ => Program::healthy(),
    });
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 1), (1, 2), (2, 1)]);
    assert_eq!(
        world.count(|event| matches!(event, Event::RestartScheduled { .. })),
        0,
        "the budget is not touched"
    );
}

#[test]
fn ten_refused_reloads_do_not_spend_the_restart_budget() {
    let mut world = healthy(2);
    for _ in 0..50 {
        world.recast(|_| Program::crashing(ms(10)));
        reload(&mut world);
    }
    assert_eq!(world.count(|event| matches!(event, Event::ReloadAborted { .. })), 50);
    world.recast(|_| Program::healthy());
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 52), (1, 52)], "a refused number is not used again");
}

#[test]
fn after_a_refused_reload_the_dead_are_replaced_by_the_last_good_generation() {
    let mut world = healthy(1);
    world.recast(|call| match call.generation.0 {
        2 => Program::crashing(ms(10)),
        _ => Program::healthy(),
    });
    reload(&mut world);
    world.input(Input::Unhealthy {
        worker: WorkerId(1),
        reason: "stuck".into(),
    });
    world.rest();
    assert_eq!(world.ready(), [(0, 1)]);
    assert!(world.service.workers().all(|view| view.worker == WorkerId(3)));
}

#[test]
fn an_old_worker_that_dies_during_a_reload_is_replaced_by_a_new_one() {
    let mut world = World::new(
        Config {
            instances: 3,
            ..Config::default()
        },
        |call| match call.worker.0 {
            3 => Program::crashing(s(20)),
            _ => Program::healthy(),
        },
    );
    world.order(Order::Start);
    world.run_for(s(20) - ms(500));
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.spawns(), 6, "nobody of the old generation came back");
}

#[test]
fn a_reload_mends_a_service_that_never_was_ready() {
    let mut world = World::new(
        Config {
            instances: 2,
            ..Config::default()
        },
        |call| match call.generation.0 {
            1 => Program {
                boot: s(1),
                ..Program::crashing(ms(40))
            },
            _ => Program::healthy(),
        },
    );
    world.order(Order::Start);
    world.run_for(ms(1020));
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 2), (1, 2)]);
}

#[test]
fn failed_starts_of_the_old_generation_do_not_end_a_service_whose_mended_one_is_on_its_way() {
    let mut world = World::new(
        Config {
            instances: 4,
            ..Config::default()
        },
        |call| match call.generation.0 {
            1 => Program::crashing(ms(40)),
            _ => Program::healthy(),
        },
    );
    world.order(Order::Start);
    reload(&mut world);
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2), (3, 2)]);
}

#[test]
fn empty_slots_are_filled_first() {
    let mut world = World::settled(
        Config {
            instances: 4,
            ..Config::default()
        },
        |call| match call.slot.0 {
            3 => Program::crashing(ms(60)),
            _ => Program::healthy(),
        },
    );
    world.recast(|_| Program::healthy());
    let begin = world.orders.len();
    world.order(Order::Reload);
    let slots = world.orders[begin..].iter().map(|(_, order)| match order {
        Action::Spawn { slot, .. } => slot.0,
        other => panic!("{other:?}"),
    });
    assert_eq!(slots.collect::<Vec<_>>(), [3, 0]);
}

#[test]
fn a_hundred_reloads_in_a_second_are_done_one_at_a_time_and_the_last_one_counts() {
    let mut world = healthy(2);
    for request in 0..100 {
        world.later(ms(10 * request), Order::Reload);
    }
    world.rest();
    assert_eq!(world.count(|event| matches!(event, Event::ReloadDone { .. })), 2);
    let last = world.seen(|event| matches!(event, Event::ReloadStarted { .. }).then_some(()));
    assert!(last[1].0 >= ms(51 + 990), "the last one began after the last request");
    assert_eq!(world.ready(), [(0, 3), (1, 3)]);
}

#[test]
fn a_reload_asked_for_during_one_that_is_refused_is_done_all_the_same() {
    let mut world = healthy(2);
    world.recast(|call| match call.generation.0 {
        2 => Program::crashing(ms(500)),
        _ => Program::healthy(),
    });
    world.order(Order::Reload);
    world.later(ms(100), Order::Reload);
    world.rest();
    assert_eq!(world.ready(), [(0, 3), (1, 3)]);
}

#[test]
fn a_surge_of_three_brings_three_at_a_time_and_no_more() {
    let reload_by_three = Reload {
        surge: 3,
        ..Reload::default()
    };
    let config = Config {
        instances: 5,
        reload: reload_by_three,
        ..Config::default()
    };
    let mut world = World::settled(config, |_| Program::healthy());
    world.order(Order::Reload);
    world.run_for(ms(900));
    assert_eq!(world.running(), 8);
    world.rest();
    assert_eq!(world.ready(), [(0, 2), (1, 2), (2, 2), (3, 2), (4, 2)]);
}

#[test]
fn a_new_number_of_instances_waits_for_the_reload() {
    for (to, ready) in [(1, vec![(0, 2)]), (3, vec![(0, 2), (1, 2), (2, 2)])] {
        let mut world = healthy(2);
        world.order(Order::Reload);
        world.later(ms(100), Order::Scale(5));
        world.later(ms(200), Order::Scale(to));
        world.rest();
        assert_eq!(world.ready(), ready);
        assert_eq!(
            world.count(|event| matches!(event, Event::Scaled { .. })),
            1,
            "only the last one counts"
        );
    }
}

#[test]
fn scaling_up_spawns_and_scaling_down_lets_the_highest_slots_go() {
    let mut world = healthy(2);
    world.order(Order::Scale(4));
    world.rest();
    assert_eq!(world.ready(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    world.order(Order::Scale(1));
    world.rest();
    assert_eq!(world.ready(), [(0, 1)]);
    assert!(world.told(1).is_empty());
    assert_eq!(world.spawns(), 4);
}

#[test]
fn a_stop_wins_over_a_reload() {
    let mut world = healthy(3);
    world.order(Order::Reload);
    world.order(Order::Reload);
    world.later(ms(1100), Order::Stop);
    world.rest();
    assert!(world.outcome.is_some());
    assert_eq!(world.running(), 0);
    let stopped = |event: &Event| {
        matches!(
            event,
            Event::ReloadAborted {
                cause: AbortCause::Stopping,
                ..
            }
        )
    };
    assert_eq!(world.count(stopped), 1);
    assert_eq!(world.count(|event| matches!(event, Event::ReloadStarted { .. })), 1);
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let mut world = World::new(Config::default(), |_| Program {
        drain: OnDrain::Exits(s(5)),
        ..Program::healthy()
    });
    world.order(Order::Reload);
    world.order(Order::Scale(2));
    world.order(Order::Start);
    world.order(Order::Start);
    world.order(Order::Scale(0));
    world.order(Order::Scale(1025));
    world.run_for(s(1));
    world.order(Order::Stop);
    world.order(Order::Reload);
    world.order(Order::Scale(2));
    world.order(Order::Start);
    world.rest();
    let refused = world.seen(|event| match event {
        Event::Refused { order, reason } => Some((order.clone(), *reason)),
        _ => None,
    });
    let expected = [
        (Order::Reload, Refusal::NotStarted),
        (Order::Scale(2), Refusal::NotStarted),
        (Order::Start, Refusal::AlreadyStarted),
        (Order::Scale(0), Refusal::OutOfRange),
        (Order::Scale(1025), Refusal::OutOfRange),
        (Order::Reload, Refusal::Stopping),
        (Order::Scale(2), Refusal::Stopping),
        (Order::Start, Refusal::Stopping),
    ];
    assert_eq!(
        refused.into_iter().map(|(_, refusal)| refusal).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn a_day_of_1440_reloads_leaves_nothing_behind() {
    let mut world = healthy(4);
    for minute in 0..1440 {
        world.later(s(60 * minute), Order::Reload);
    }
    world.rest();
    assert_eq!(world.service.generation(), Generation(1441));
    assert_eq!(world.count(|event| matches!(event, Event::ReloadDone { .. })), 1440);
    assert_eq!((world.running(), world.service.workers().count()), (4, 4));
    assert!(world.service.workers().all(|view| view.phase == Phase::Ready));
    assert!(
        world.steps < 1440 * 50,
        "a reload takes few steps: {}",
        world.steps / 1440
    );
}

#[test]
fn who_crashes_in_step_with_reloads_is_still_replaced() {
    let mut world = World::settled(
        Config {
            instances: 2,
            ..Config::default()
        },
        |_| Program::healthy(),
    );
    world.recast(|_| Program {
        exits: Some((s(12), CRASHED)),
        ..Program::healthy()
    });
    for request in 0..20 {
        world.later(s(10 * request), Order::Reload);
    }
    world.run_for(s(205));
    world.recast(|_| Program::healthy());
    world.rest();
    assert_eq!(world.ready().len(), 2);
}

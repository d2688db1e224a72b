//! A stop always ends.

use thead_core::id::WorkerId;
use thead_core::service::{Action, Config, ConfigError, Event, Input, Order, Outcome, Ready, Service};

use crate::world::{OnDrain, Program, World, ms, s};

fn stopped(program: Program) -> World {
    let mut world = World::settled(Config::default(), move |_| program.clone());
    world.order(Order::Stop);
    world.rest();
    assert_eq!(world.outcome, Some(Outcome::Stopped));
    world
}

/// When, after being asked to drain, the worker was told what.
fn told(world: &World) -> Vec<(u128, &'static str)> {
    let told = world.told(1);
    let name = |order: &Action| match order {
        Action::Drain { successor: true, .. } => "drain",
        Action::Drain { .. } => "drain alone",
        Action::Terminate { .. } => "terminate",
        Action::Abort { .. } => "abort",
        Action::Kill { .. } => "kill",
        _ => "other",
    };
    told.iter()
        .map(|(at, order)| ((*at - told[0].0).as_millis(), name(order)))
        .collect()
}

#[test]
fn a_stop_drains_and_knows_no_successor() {
    let world = stopped(Program::healthy());
    assert_eq!(told(&world), [(0, "drain alone")]);
    assert_eq!(
        world.count(|event| matches!(event, Event::Exited { expected: true, .. })),
        1
    );
}

#[test]
fn who_ignores_everything_is_terminated_at_the_drain_timeout_and_killed_at_the_stop_timeout() {
    let world = stopped(Program {
        drain: OnDrain::Ignores,
        term: None,
        ..Program::healthy()
    });
    assert_eq!(
        told(&world),
        [(0, "drain alone"), (30_000, "terminate"), (40_000, "kill")]
    );
}

#[test]
fn who_cannot_even_be_killed_is_reported_and_not_waited_for() {
    let world = stopped(Program {
        drain: OnDrain::Ignores,
        term: None,
        kill: None,
        ..Program::healthy()
    });
    assert_eq!(world.count(|event| matches!(event, Event::Stuck { .. })), 1);
    assert_eq!(world.running(), 1);
    let asked = world.told(1)[0].0;
    assert_eq!(world.elapsed() - asked, s(45));
}

#[test]
fn a_node_worker_that_lives_on_without_its_channel_is_terminated_after_a_grace() {
    let world = stopped(Program {
        drain: OnDrain::Lingers(s(3)),
        ..Program::healthy()
    });
    assert_eq!(told(&world), [(0, "drain alone"), (5_000, "terminate")]);
}

#[test]
fn who_has_nothing_to_drain_is_terminated_at_once() {
    let world = stopped(Program {
        drain: OnDrain::Drained(ms(0)),
        ..Program::healthy()
    });
    assert_eq!(told(&world), [(0, "drain alone"), (0, "terminate")]);
}

#[test]
fn a_drain_that_hangs_is_aborted() {
    let program = Program {
        drain: OnDrain::Ignores,
        hangs: Some(s(8)),
        term: None,
        ..Program::healthy()
    };
    let mut world = World::new(Config::default(), move |_| program.clone());
    world.order(Order::Start);
    world.run_for(s(7));
    world.order(Order::Stop);
    world.rest();
    assert_eq!(told(&world), [(0, "drain alone"), (1_001, "abort"), (3_001, "kill")]);
}

#[test]
fn who_is_still_starting_when_the_service_stops_is_terminated_at_once() {
    let mut world = World::new(
        Config {
            instances: 3,
            ..Config::default()
        },
        |_| Program::healthy(),
    );
    world.order(Order::Start);
    world.run_for(ms(20));
    world.order(Order::Stop);
    world.rest();
    assert_eq!(told(&world), [(0, "terminate")]);
    assert_eq!(world.orders.last(), Some(&(ms(21), Action::Finish(Outcome::Stopped))));
}

#[test]
fn who_is_not_even_spawned_when_the_service_stops_is_terminated_when_it_is() {
    let mut world = World::new(Config::default(), |_| Program {
        boot: s(2),
        ..Program::healthy()
    });
    world.order(Order::Start);
    world.order(Order::Stop);
    world.rest();
    assert_eq!(told(&world), [(0, "terminate")]);
    assert_eq!((world.outcome.clone(), world.running()), (Some(Outcome::Stopped), 0));
}

#[test]
fn the_second_signal_is_meant_for_those_too_that_are_not_even_spawned() {
    let mut world = World::new(Config::default(), |_| Program {
        boot: s(2),
        term: None,
        ..Program::healthy()
    });
    world.order(Order::Start);
    world.order(Order::Stop);
    world.later(s(1), Order::StopNow);
    world.rest();
    assert_eq!(told(&world), [(0, "kill")]);
}

#[test]
fn a_process_that_comes_when_nobody_waits_for_it_any_more_is_killed() {
    let mut world = World::new(Config::default(), |_| Program {
        boot: s(20),
        ..Program::healthy()
    });
    world.order(Order::Start);
    world.order(Order::Stop);
    world.run_for(s(6));
    assert_eq!(world.outcome, Some(Outcome::Stopped));
    world.rest();
    assert_eq!(told(&world), [(0, "kill")]);
    assert_eq!(world.running(), 0);
}

#[test]
fn the_second_signal_kills_at_once() {
    let mut world = World::settled(
        Config {
            instances: 3,
            ..Config::default()
        },
        |_| Program {
            drain: OnDrain::Ignores,
            term: None,
            ..Program::healthy()
        },
    );
    world.order(Order::Stop);
    world.order(Order::Stop);
    world.later(ms(500), Order::StopNow);
    world.rest();
    assert_eq!(told(&world), [(0, "drain alone"), (500, "kill")]);
    assert_eq!((world.outcome.clone(), world.running()), (Some(Outcome::Stopped), 0));
}

#[test]
fn a_stop_that_overtakes_a_drain_says_that_there_is_no_successor_any_more() {
    let mut world = World::settled(Config::default(), |_| Program {
        drain: OnDrain::Exits(s(10)),
        ..Program::healthy()
    });
    world.order(Order::Reload);
    world.later(s(5), Order::Stop);
    world.rest();
    let told = told(&world);
    assert_eq!(
        told.iter().map(|(_, what)| *what).collect::<Vec<_>>(),
        ["drain", "drain alone"]
    );
}

#[test]
fn a_service_that_was_not_started_stops_at_once() {
    for stop in [Order::Stop, Order::StopNow] {
        let mut world = World::new(Config::default(), |_| Program::healthy());
        world.order(stop);
        assert_eq!(world.outcome, Some(Outcome::Stopped));
    }
}

#[test]
fn after_the_end_nothing_is_answered() {
    let mut world = stopped(Program::healthy());
    let orders = world.orders.len();
    let events = world.events.len();
    for order in [
        Order::Start,
        Order::Reload,
        Order::Scale(3),
        Order::Stop,
        Order::StopNow,
    ] {
        world.order(order);
    }
    world.input(Input::Listening { worker: WorkerId(1) });
    assert_eq!((world.orders.len(), world.events.len()), (orders, events));
}

#[test]
fn a_wish_that_makes_no_sense_is_refused_by_name() {
    let default = Config::default;
    let mut jitter = default();
    jitter.restart.backoff.jitter_percent = 101;
    let mut surge = default();
    surge.reload.surge = 0;
    let mut first = default();
    first.restart.backoff.first = s(6);
    let mut drain = default();
    drain.stop.drain = s(u64::MAX);
    let cases = [
        (
            Config {
                instances: 0,
                ..default()
            },
            "instances is 0, it must be from 1 to 1024",
        ),
        (
            Config {
                instances: 1025,
                ..default()
            },
            "instances is 1025, it must be from 1 to 1024",
        ),
        (
            Config {
                ready_timeout: s(0),
                ..default()
            },
            "ready-timeout is zero, it must be longer",
        ),
        (
            Config {
                ready: Ready::After(s(40_000_000)),
                ..default()
            },
            "ready is longer than a year",
        ),
        (jitter, "restart.backoff.jitter is 101, it must be from 0 to 100"),
        (surge, "reload.surge is 0, it must be from 1 to 1024"),
        (first, "restart.backoff.first is longer than restart.backoff.max"),
        (drain, "stop.drain is longer than a year"),
    ];
    for (config, told) in cases {
        let error: ConfigError = Service::new(config).unwrap_err();
        assert_eq!(error.to_string(), told);
    }
}

//! What happens to the dead.

use std::time::Duration;

use thead_core::restart::{Backoff, Intensity, Policy, Restart};
use thead_core::service::{Config, Event, Failure, GiveUp, Holder, Input, Order, Outcome};
use thead_core::worker::Exit;

use crate::world::{CRASHED, Call, OnDrain, Program, World, ms, s};

fn instances(instances: usize) -> Config {
    Config {
        instances,
        ..Config::default()
    }
}

/// Ready after 50 ms, dead after `life`.
fn dies_after(life: Duration) -> impl Fn(Call) -> Program + Clone {
    move |_| Program::crashing(life)
}

fn delays(world: &World) -> Vec<Duration> {
    let delay = |event: &Event| match event {
        Event::RestartScheduled { delay, .. } => Some(*delay),
        _ => None,
    };
    world.seen(delay).into_iter().map(|(_, delay)| delay).collect()
}

#[test]
fn a_broken_program_is_told_within_two_seconds_however_many_instances() {
    for count in [1, 2, 4, 16] {
        let world = World::settled(instances(count), dies_after(ms(40)));
        let Some(Outcome::Failed {
            reason: GiveUp::NeverReady { starts: 3, last },
        }) = &world.outcome
        else {
            panic!("{count} instances: {:?}", world.outcome);
        };
        assert_eq!(*last, Failure::Exit(CRASHED));
        let failed = world.seen(|event| matches!(event, Event::Failed { .. }).then_some(()));
        assert!(matches!(failed[..], [(at, ())] if at < s(2)));
        assert!(world.spawns() <= count.max(3) + 2);
        assert_eq!(world.running(), 0);
    }
}

#[test]
fn a_program_that_cannot_be_spawned_fails_as_fast_and_says_why() {
    let world = World::settled(instances(1), |_| Program {
        fails: true,
        ..Program::healthy()
    });
    let Some(Outcome::Failed { reason }) = &world.outcome else {
        panic!("{:?}", world.outcome)
    };
    let told = "never ready, 3 starts failed in a row; the last worker could not be started: no such file or directory";
    assert_eq!(reason.to_string(), told);
    assert_eq!(world.spawns(), 3);
}

#[test]
fn a_crash_loop_ends_after_exactly_instances_plus_the_restarts_of_the_period() {
    for count in [1, 2, 4, 16] {
        let world = World::settled(instances(count), dies_after(ms(60)));
        assert_eq!(world.spawns(), count + 10, "{count} instances");
        let Some(Outcome::Failed {
            reason: GiveUp::TooManyRestarts { restarts: 10, .. },
        }) = &world.outcome
        else {
            panic!("{:?}", world.outcome);
        };
    }
}

#[test]
fn spawns_that_fail_later_on_do_not_spin_and_spend_the_same_budget() {
    let mut first = true;
    let world = World::settled(instances(1), move |_| match std::mem::take(&mut first) {
        true => Program::crashing(s(15)),
        false => Program {
            fails: true,
            ..Program::healthy()
        },
    });
    assert_eq!(world.spawns(), 11);
    assert!(world.elapsed() > s(15 + 20), "the delays grow: {:?}", world.elapsed());
}

#[test]
fn a_program_that_dies_every_1200_ms_ends_in_failed() {
    for seed in 0..100 {
        let config = Config { seed, ..instances(1) };
        let program = |_| Program {
            exits: Some((ms(1200), CRASHED)),
            ..Program::plain()
        };
        let world = World::settled(config, program);
        assert!(matches!(world.outcome, Some(Outcome::Failed { .. })), "seed {seed}");
        assert_eq!(world.spawns(), 11);
        assert!(world.elapsed() < s(60));
    }
}

#[test]
fn delays_grow_with_each_death_and_stay_within_their_jitter() {
    let world = World::settled(instances(1), dies_after(ms(60)));
    let delays = delays(&world);
    let expected = [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000];
    assert_eq!(delays.len(), expected.len());
    for (delay, expected) in delays.iter().zip(expected) {
        assert!(
            *delay >= ms(expected * 80 / 100) && *delay <= ms(expected * 120 / 100),
            "{delay:?} for {expected} ms"
        );
    }
}

#[test]
fn services_with_different_seeds_do_not_restart_in_step() {
    let first = |seed| delays(&World::settled(Config { seed, ..instances(1) }, dies_after(ms(60))))[0];
    let mut firsts: Vec<_> = (0..20).map(first).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 20);
}

#[test]
fn a_first_death_after_a_long_good_life_is_replaced_after_the_first_delay() {
    let mut world = World::new(instances(1), dies_after(s(15)));
    world.order(Order::Start);
    world.run_for(s(300));
    assert!(world.spawns() > 15, "it is never given up");
    assert!(delays(&world).iter().all(|delay| *delay <= ms(120)));
}

#[test]
fn siblings_of_a_crashing_worker_are_untouched() {
    let program = |call: Call| match call.slot.0 {
        2 => Program::crashing(ms(60)),
        _ => Program::healthy(),
    };
    let world = World::settled(instances(4), program);
    assert_eq!(world.ready(), [(0, 1), (1, 1), (3, 1)]);
    assert!([1, 2, 4].iter().all(|worker| world.told(*worker).is_empty()));
    assert_eq!(world.spawns(), 4 + 10);
    assert!(world.outcome.is_none(), "the others serve on");
    assert!(matches!(
        world.service.slots().nth(2),
        Some(Holder::GivenUp(GiveUp::TooManyRestarts { .. }))
    ));
    assert_eq!(world.count(|event| matches!(event, Event::GaveUp { .. })), 1);
}

#[test]
fn a_slot_that_was_given_up_comes_back_by_a_reload_with_a_fresh_budget() {
    let broken = |call: Call| match call.slot.0 {
        1 => Program::crashing(ms(60)),
        _ => Program::healthy(),
    };
    let mut world = World::settled(instances(2), broken);
    world.recast(|_| Program::healthy());
    world.order(Order::Reload);
    world.rest();
    assert_eq!(world.ready(), [(0, 2), (1, 2)]);

    world.recast(broken);
    let before = world.spawns();
    let worker = world.service.workers().find(|view| view.slot.0 == 1).unwrap().worker;
    world.input(Input::Unhealthy {
        worker,
        reason: "stuck".into(),
    });
    world.rest();
    assert_eq!(world.spawns(), before + 10);
}

#[test]
fn a_new_generation_begins_with_the_first_delay() {
    let mut world = World::settled(instances(2), |call: Call| match call.slot.0 {
        1 => Program::crashing(ms(60)),
        _ => Program::healthy(),
    });
    world.recast(|_| Program::healthy());
    world.order(Order::Reload);
    world.rest();
    let worker = world.service.workers().find(|view| view.slot.0 == 1).unwrap().worker;
    world.input(Input::Exited {
        worker,
        status: CRASHED,
        oom: false,
    });
    assert!(*delays(&world).last().unwrap() <= ms(120));
}

#[test]
fn the_service_has_failed_when_the_last_worker_beside_a_given_up_slot_is_gone() {
    let program = |call: Call| match call.slot.0 {
        0 => Program {
            exits: Some((s(3600), Exit::Code(0))),
            ..Program::healthy()
        },
        _ => Program::crashing(ms(60)),
    };
    let mut config = instances(2);
    config.restart.policy = Policy::OnFailure;
    let world = World::settled(config, program);
    assert!(matches!(world.outcome, Some(Outcome::Failed { .. })));
    assert!(world.elapsed() > s(3600));
}

#[test]
fn who_exits_well_is_done_if_only_failures_are_restarted() {
    let program = |_| Program {
        exits: Some((s(2), Exit::Code(0))),
        ..Program::healthy()
    };
    let mut config = instances(3);
    config.restart.policy = Policy::OnFailure;
    let world = World::settled(config, program);
    assert_eq!((world.spawns(), world.outcome.clone()), (3, Some(Outcome::Done)));
    assert_eq!(world.count(|event| matches!(event, Event::NotRestarted { .. })), 3);
}

#[test]
fn a_fault_is_a_failure_even_if_the_worker_then_exits_with_0() {
    let mut first = true;
    let mut config = instances(1);
    config.restart.policy = Policy::OnFailure;
    let mut world = World::new(config, move |_| match std::mem::take(&mut first) {
        true => Program {
            disconnects: Some(s(3)),
            exits: Some((s(5) + ms(1), Exit::Code(0))),
            ..Program::healthy()
        },
        false => Program::healthy(),
    });
    world.order(Order::Start);
    world.rest();
    assert_eq!((world.spawns(), world.ready()), (2, vec![(0, 1)]));
}

#[test]
fn nobody_is_restarted_if_the_policy_is_never() {
    let mut config = instances(2);
    config.restart.policy = Policy::Never;
    let world = World::settled(config, dies_after(s(1)));
    assert_eq!((world.spawns(), world.outcome.clone()), (2, Some(Outcome::Done)));
}

#[test]
fn without_any_restarts_the_first_death_is_the_last() {
    let restart = Restart {
        intensity: Intensity {
            restarts: 0,
            period: s(1),
        },
        ..Restart::default()
    };
    let world = World::settled(
        Config {
            restart,
            ..Config::default()
        },
        dies_after(ms(60)),
    );
    assert_eq!(world.spawns(), 1);
    assert!(matches!(world.outcome, Some(Outcome::Failed { .. })));
}

#[test]
fn a_backoff_of_nothing_is_bounded_by_the_budget_alone() {
    let backoff = Backoff {
        first: Duration::ZERO,
        max: Duration::ZERO,
        ..Backoff::default()
    };
    let restart = Restart {
        backoff,
        ..Restart::default()
    };
    let world = World::settled(
        Config {
            restart,
            ..Config::default()
        },
        dies_after(ms(60)),
    );
    assert_eq!(world.spawns(), 11);
}

#[test]
fn a_closed_channel_of_a_living_process_is_a_fault_and_resolved_in_time() {
    let mut first = true;
    let mut world = World::new(instances(2), move |_| match std::mem::take(&mut first) {
        true => Program {
            disconnects: Some(s(60)),
            term: None,
            drain: OnDrain::Ignores,
            ..Program::healthy()
        },
        false => Program::healthy(),
    });
    world.order(Order::Start);
    world.rest();
    assert_eq!(world.ready(), [(0, 1), (1, 1)]);
    let told: Vec<_> = world.told(1).into_iter().map(|(at, _)| at).collect();
    assert_eq!(
        told,
        [ms(62_001), ms(72_001)],
        "terminated after the grace, killed after the timeout"
    );
    let unexpected = world.count(|event| matches!(event, Event::Exited { expected: false, .. }));
    assert_eq!(unexpected, 1);
}

#[test]
fn a_stuck_worker_is_aborted_then_killed_then_replaced() {
    let mut first = true;
    let mut world = World::new(instances(2), move |_| match std::mem::take(&mut first) {
        true => Program {
            hangs: Some(s(60)),
            term: None,
            ..Program::healthy()
        },
        false => Program::healthy(),
    });
    world.order(Order::Start);
    world.rest();
    let told = world.told(1);
    assert_eq!(
        told.iter().map(|(at, _)| *at).collect::<Vec<_>>(),
        [ms(60_001), ms(62_001)]
    );
    assert!(format!("{told:?}").contains("Abort") && format!("{told:?}").contains("Kill"));
    assert_eq!(world.ready(), [(0, 1), (1, 1)]);
    let replaced = world.seen(|event| matches!(event, Event::RestartScheduled { .. }).then_some(()));
    assert_eq!(replaced, [(ms(62_002), ())]);
}

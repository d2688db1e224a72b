//! Thousands of random worlds.

use std::collections::BTreeMap;
use std::time::Duration;

use thead_core::id::WorkerId;
use thead_core::restart::{Intensity, Policy};
use thead_core::service::{Config, Event, Holder, Input, Order, Ready, Reload, Stop};
use thead_core::worker::{Exit, Phase, Slot};

use crate::world::{ABORTED, CRASHED, Call, Dice, OUT_OF_MEMORY, OnDrain, Program, World, ms, s};

fn some_config(seed: u64, dice: &mut Dice) -> Config {
    let mut config = Config {
        instances: 1 + dice.roll(5) as usize,
        seed,
        ..Config::default()
    };
    config.ready = match dice.roll(6) {
        0 => Ready::Listening,
        1 => Ready::Message,
        2 => Ready::After(dice.upto(s(3))),
        _ => Ready::Auto,
    };
    config.restart.policy = match dice.roll(8) {
        0 => Policy::Never,
        1 => Policy::OnFailure,
        _ => Policy::Always,
    };
    if dice.chance(30) {
        config.restart.intensity = Intensity {
            restarts: dice.roll(5) as usize,
            period: s(1 + dice.roll(60)),
        };
    }
    if dice.chance(30) {
        config.reload = Reload {
            surge: 1 + dice.roll(4) as usize,
            soak: dice.upto(s(2)),
            max_unavailable: dice.roll(4) as usize,
        };
    }
    if dice.chance(20) {
        config.reload.soak = Duration::ZERO;
    }
    if dice.chance(20) {
        config.stop = Stop {
            drain: dice.upto(s(3)),
            timeout: dice.upto(s(1)),
        };
    }
    if dice.chance(10) {
        config.stop = Stop {
            drain: Duration::ZERO,
            timeout: Duration::ZERO,
        };
    }
    config
}

/// One that is well in the eyes of such a configuration.
fn good_program(ready: Ready, dice: &mut Dice) -> Program {
    let mut program = if ready == Ready::Listening || dice.chance(80) {
        Program::healthy()
    } else {
        Program::plain()
    };
    program.boot = dice.upto(ms(200));
    program.listening = program.listening.map(|_| ms(30) + dice.upto(ms(500)));
    program.says_ready = Some(ms(30) + dice.upto(ms(500)));
    program.drain = OnDrain::Exits(dice.upto(s(5)));
    program
}

fn some_program(ready: Ready, trouble: u64, dice: &mut Dice) -> Program {
    let mut program = good_program(ready, dice);
    if !dice.chance(trouble) {
        return program;
    }
    match dice.roll(12) {
        0 => program.fails = true,
        1 => (program.listening, program.says_ready) = (None, None),
        2 => program.listening = Some(dice.upto(s(20))),
        3 => program.disconnects = Some(dice.upto(s(20))),
        4 => program.hangs = Some(dice.upto(s(40))),
        5 => program.exits = Some((dice.upto(s(2)), if dice.chance(80) { CRASHED } else { OUT_OF_MEMORY })),
        6 => program.exits = Some((dice.upto(s(60)), ABORTED)),
        7 => program.exits = Some((dice.upto(s(20)), Exit::Code(0))),
        8 => program.boot = dice.upto(s(20)),
        9 => program.drain = OnDrain::Lingers(dice.upto(s(40))),
        10 => program.drain = OnDrain::Drained(dice.upto(s(40))),
        _ => program.drain = OnDrain::Ignores,
    }
    if dice.chance(40) {
        program.drain = OnDrain::Ignores;
        program.term = dice.chance(50).then(|| dice.upto(s(12)));
    }
    if dice.chance(10) {
        program.kill = dice.chance(50).then(|| dice.upto(s(8)));
    }
    program
}

/// Of what may be changed while it runs: not what its programs were made for, nor what the laws count.
fn other_settings(config: &Config, dice: &mut Dice) -> Config {
    let mut config = config.clone();
    config.instances = dice.roll(7) as usize;
    config.stop.drain = dice.upto(s(20));
    config.stop.timeout = dice.upto(s(10));
    config.reload.surge = 1 + dice.roll(3) as usize;
    config.reload.max_unavailable = dice.roll(3) as usize;
    config.ready_timeout = s(6) + dice.upto(s(10));
    config
}

fn disturb(world: &mut World, config: &Config, dice: &mut Dice) {
    // Some of them are about workers that are gone or never were, or say what has been said.
    let worker = WorkerId(dice.roll(30) as u32);
    let slot = Slot(dice.roll(6) as u32);
    let order = match dice.roll(30) {
        0..9 => Order::Reload,
        9..12 => Order::Restart,
        12..15 => Order::RestartWorker(slot),
        15..18 => Order::Renew(slot),
        18..22 => Order::Scale(dice.roll(8) as usize),
        22..24 => Order::Configure(Box::new(other_settings(config, dice))),
        24 => Order::Start,
        25 => return world.input(Input::Listening { worker }),
        26 => return world.input(Input::SaidReady { worker }),
        27 if dice.chance(50) => return world.input(Input::Drained { worker }),
        27 => {
            let by = dice.upto(s(300));
            return world.input(Input::Extend { worker, by });
        }
        28 => {
            let reason = "it is said so".into();
            return world.input(Input::Unhealthy { worker, reason });
        }
        _ => return world.input(Input::Online { worker }),
    };
    world.order(order);
}

/// A random life; then either the end of it, or the end of all trouble.
fn live(seed: u64) -> World {
    let mut dice = Dice(seed);
    let config = some_config(seed, &mut dice);
    let trouble = [0, 10, 30, 60][dice.roll(4) as usize];
    let ready = config.ready;
    let settings = config.clone();
    let mut lots = Dice(seed ^ 0xca57);
    // A generation is often good or bad as a whole.
    let mut world = World::new(config, move |call: Call| {
        let bad = Dice(seed ^ u64::from(call.generation.0) << 32).chance(30);
        some_program(ready, if bad { 100 - trouble / 2 } else { trouble }, &mut lots)
    });
    if dice.chance(30) {
        let lag = dice.upto(ms(500));
        world = world.lagging(lag);
    }
    if dice.chance(95) {
        world.order(Order::Start);
    }
    for _ in 0..dice.roll(12) {
        let pause = if dice.chance(30) { ms(10) } else { s(40) };
        world.run_for(dice.upto(pause));
        disturb(&mut world, &settings, &mut dice);
    }
    world.run_for(dice.upto(s(30)));
    world
}

fn kind(event: &Event) -> String {
    let mut kind = format!("{event:?}");
    kind.truncate(kind.find(' ').unwrap_or(kind.len()));
    kind
}

#[test]
fn the_laws_hold_in_thousands_of_random_lives_that_are_stopped() {
    let mut seen = BTreeMap::<String, usize>::new();
    for seed in 0..4000 {
        let mut world = live(seed);
        let mut dice = Dice(!seed);
        let stop = if dice.chance(70) { Order::Stop } else { Order::StopNow };
        world.order(stop);
        if dice.chance(30) {
            world.run_for(dice.upto(s(45)));
            if dice.chance(50) {
                world.order(Order::StopNow);
            } else {
                disturb(&mut world, &Config::default(), &mut dice);
            }
        }
        world.rest();
        assert!(world.outcome.is_some(), "seed {seed}: a stop always ends");
        for (_, event) in &world.events {
            *seen.entry(kind(event)).or_default() += 1;
        }
    }
    let rarest = seen.iter().min_by_key(|(_, count)| **count).unwrap();
    assert!(seen.len() == 30 && *rarest.1 > 30, "the worlds are lively: {seen:?}");
}

#[test]
fn whatever_happened_a_service_is_well_again_when_its_programs_are() {
    let mut healed = 0;
    for seed in 0..4000 {
        let mut world = live(seed);
        let (ready, mut lots) = (world.ready_when, Dice(seed));
        world.recast(move |_| good_program(ready, &mut lots));
        world.rest();
        if world.outcome.is_some() || world.service.instances() == 0 {
            continue;
        }
        for holder in world.service.slots() {
            match holder {
                Holder::Worker(id) => {
                    let view = world.service.workers().find(|view| view.worker == *id).unwrap();
                    let stuck = view.phase == Phase::Killed;
                    healed += usize::from(!stuck);
                    assert!(stuck || view.phase == Phase::Ready, "seed {seed}: {view:?}");
                }
                Holder::Waiting { .. } | Holder::Vacant => panic!("seed {seed}: nobody comes"),
                Holder::Done | Holder::GivenUp(_) => {}
            }
        }
    }
    assert!(healed > 5_000, "the worlds are lively: {healed}");
}

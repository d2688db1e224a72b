//! Thousands of machines, each with another fate, and the same laws.

use std::time::Duration;

use thead_core::cluster::{Config, Input, Scheduling};
use thead_wire::cluster::{AddressType, Query};

use crate::kit::{ms, tcp, udp, unix};
use crate::laws::Place;
use crate::machine::{Dice, Machine};

/// What applications listen on.
fn queries() -> Vec<Query> {
    let any = Query {
        address: None,
        ..tcp(8080)
    };
    let v6 = Query {
        address: Some("::1".into()),
        address_type: Some(AddressType::Ipv6),
        ..tcp(80)
    };
    let fd = Query {
        fd: Some(3),
        ..Query::default()
    };
    vec![
        tcp(80),
        tcp(80),
        tcp(81),
        tcp(0),
        any,
        v6,
        fd,
        unix("/run/a.sock"),
        unix("/srv/\0name"),
        udp(53),
    ]
}

fn some_config(dice: &mut Dice) -> Config {
    let upto = |dice: &mut Dice, most: u64| ms(1 + dice.roll(most));
    Config {
        scheduling: match dice.roll(20) {
            0..7 => Scheduling::RoundRobin,
            7..9 => Scheduling::Shared,
            9..14 => Scheduling::Kernel,
            _ => Scheduling::Sticky,
        },
        window: usize::try_from(1 + dice.roll(5)).unwrap(),
        late: upto(dice, 100),
        stuck: upto(dice, 2_000),
        retry: upto(dice, 50),
        answer: upto(dice, 500),
        linger: upto(dice, 1_000),
        max_waiting: usize::try_from(1 + dice.roll(30)).unwrap(),
    }
}

fn step(machine: &mut Machine, trouble: u64, crowd: usize) {
    let queries = queries();
    let worker = machine.some_worker();
    match (machine.dice.roll(20 + trouble), worker) {
        (0..4, _) => machine.connect(),
        (4..9, Some(worker)) => {
            let messages = usize::try_from(1 + machine.dice.roll(4)).unwrap();
            machine.run(worker, messages);
            if machine.dice.chance(80) {
                machine.read(worker);
            }
        }
        (9..12, Some(worker)) => machine.read(worker),
        (12..14, Some(worker)) => {
            let query = machine.dice.one_of(&queries).unwrap();
            machine.ask(worker, query);
        }
        (14..16, _) => machine.finish_bind(true),
        (16, Some(worker)) => machine.input(Input::Open { worker }),
        (17, Some(worker)) if machine.dice.chance(30) => machine.ask_privately(worker),
        (17, _) => {
            let most = if machine.dice.chance(5) { 3_000 } else { 30 };
            let time = machine.dice.roll(most);
            machine.pass(ms(time));
        }
        (18 | 19, _) if machine.processes.len() < crowd => {
            let gated = machine.dice.chance(30);
            let worker = machine.spawn(gated);
            for _ in 0..machine.dice.roll(3) {
                let query = machine.dice.one_of(&queries).unwrap();
                machine.ask(worker, query);
            }
            machine.read(worker);
        }
        (20, Some(worker)) => machine.kill(worker),
        (21, Some(worker)) => machine.leave(worker),
        (22, Some(worker)) => machine.close_one(worker),
        (23, Some(worker)) => machine.forge(worker),
        (24, _) => machine.confuse(),
        (25 | 26, Some(worker)) => {
            let process = machine.processes.get_mut(&worker).unwrap();
            process.hangs = !process.hangs;
        }
        (27, Some(worker)) => {
            let process = machine.processes.get_mut(&worker).unwrap();
            process.rejects = !process.rejects;
        }
        (28, Some(worker)) => {
            let with_closes = machine.dice.chance(70);
            machine.exit_voluntarily(worker, with_closes);
        }
        (29, _) if machine.dice.chance(5) => machine.input(Input::CloseListeners),
        _ => machine.connect(),
    }
}

fn world(seed: u64) {
    let mut dice = Dice(seed);
    let config = some_config(&mut dice);
    let trouble = dice.roll(11);
    let crowd = usize::try_from(1 + dice.roll(6)).unwrap();
    let mut machine = Machine::new(config, dice);
    for _ in 0..200 {
        step(&mut machine, trouble, crowd);
    }
    // The trouble ends, and there is a worker for everything: then everything is served.
    let healer = machine.spawn(false);
    for query in queries() {
        machine.ask(healer, query);
    }
    machine.calm();
    assert_eq!(machine.stranded(), 0, "what can be served is served");
    assert_eq!(machine.host.laws.unanswered_queries(), 0, "each query is answered");
    for (id, taken) in &machine.host.laws.released {
        assert_eq!(*taken, machine.was_served(*id), "{id}");
    }
    for (id, conn) in &machine.host.laws.conns {
        // It came back to a listener that nobody holds.
        assert_eq!(conn.place, Place::Waiting, "{id} is not at rest");
        assert!(!machine.was_served(*id), "{id} waits and is served");
    }
    // The service stops: nothing is left.
    machine.input(Input::CloseListeners);
    for worker in machine.processes.keys().copied().collect::<Vec<_>>() {
        machine.leave(worker);
        machine.kill(worker);
    }
    machine.pass(Duration::from_secs(10));
    assert_eq!(machine.host.primary.deadline(), None);
    assert_eq!((machine.host.primary.waiting(), machine.listeners()), (0, 0));
    let rest = format!("{:?}", machine.host.primary);
    assert!(rest.contains("listeners: {}, by_key: {}"), "{rest}");
    assert!(machine.host.laws.conns.is_empty(), "{:?}", machine.host.laws.conns);
}

fn worlds(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let survives = std::panic::catch_unwind(|| world(seed)).is_ok();
        assert!(survives, "see above what happened in the world of seed {seed}");
    }
}

#[test]
fn the_laws_hold_in_every_world() {
    worlds(0..1_000);
}

#[test]
fn the_laws_hold_in_as_many_other_worlds() {
    worlds(1_000..2_000);
}

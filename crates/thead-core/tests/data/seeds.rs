//! Random histories.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use thead_core::data::{Input, Standing};
use thead_core::id::{Revision, WorkerId};

use crate::world::{CONTENT, Program, World};

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Join(Program),
    Read(usize),
    ReadAll,
    Die(usize),
    Leave(usize),
    Pass(u64),
    Lie { worker: usize, revision: u64, refuse: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let program = prop_oneof![
        4 => Just(CONTENT),
        3 => (1..9u8).prop_map(Program::Refuses),
        1 => Just(Program::Unmodified),
        1 => Just(Program::Files),
    ];
    prop_oneof![
        4 => (0..9u8).prop_map(Step::Push),
        3 => program.prop_map(Step::Join),
        12 => (0..9usize).prop_map(Step::Read),
        3 => Just(Step::ReadAll),
        1 => (0..9usize).prop_map(Step::Die),
        1 => (0..9usize).prop_map(Step::Leave),
        2 => (0..40_000u64).prop_map(Step::Pass),
        1 => (0..9usize, 0..30u64, any::<bool>()).prop_map(|(worker, revision, refuse)| Step::Lie { worker, revision, refuse }),
    ]
}

fn nth(world: &World, n: usize) -> Option<WorkerId> {
    world.workers.keys().nth(n).copied()
}

fn play(world: &mut World, step: &Step) {
    match *step {
        Step::Push(badness) => drop(world.push(badness)),
        Step::Join(program) if world.workers.len() < 9 => drop(world.join(program)),
        Step::Join(_) => {}
        Step::Read(n) => nth(world, n).into_iter().for_each(|worker| world.read(worker)),
        Step::ReadAll => world.read_all(),
        Step::Die(n) => nth(world, n).into_iter().for_each(|worker| world.gone(worker, true)),
        Step::Leave(n) => nth(world, n).into_iter().for_each(|worker| world.gone(worker, false)),
        Step::Pass(ms) => world.pass(Duration::from_millis(ms)),
        // Only what was not sent last: that would be an answer.
        Step::Lie {
            worker,
            revision,
            refuse,
        } => {
            let Some(worker) = nth(world, worker) else { return };
            let revision = Revision(revision);
            if world.standing(worker).revision() == Some(revision) {
                return;
            }
            world.input(if refuse {
                let reason = "a lie".into();
                Input::Refused {
                    worker,
                    revision,
                    reason,
                }
            } else {
                Input::Applied { worker, revision }
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The laws themselves are in the world, checked after each step.
    #[test]
    fn g41_whatever_happens_all_end_with_the_newest_or_have_said_why_not(steps in vec(step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            play(&mut world, step);
        }
        world.rest();
        let in_force = world.content_in_force();
        for (id, standing) in world.piece.standings().collect::<Vec<_>>() {
            match standing {
                Standing::Applied { revision } => {
                    prop_assert!(Some(revision) == world.piece.offered() || in_force.is_none());
                    prop_assert!(in_force.is_none() || world.content(id) == in_force);
                }
                Standing::Pending { .. } => prop_assert!(false, "nobody is waited for at rest"),
                _ => {}
            }
        }
    }

    #[test]
    fn g43_what_all_accept_is_in_force_whatever_was_refused_before(
        steps in vec(step(), 1..60),
        joins in 1..5usize,
    ) {
        let mut world = World::new();
        for step in &steps {
            play(&mut world, step);
        }
        world.rest();
        for _ in 0..joins {
            world.join(CONTENT);
        }
        world.rest();
        world.push(0);
        world.rest();
        prop_assert_eq!(world.content_in_force(), Some(0));
        for (id, standing) in world.piece.standings().collect::<Vec<_>>() {
            if matches!(standing, Standing::Applied { .. }) {
                prop_assert_eq!(standing.revision(), Some(world.piece.newest()));
                prop_assert_eq!(world.content(id), Some(0));
            }
            prop_assert!(!matches!(standing, Standing::Refused { .. } | Standing::Nothing), "{:?}", standing);
        }
    }
}

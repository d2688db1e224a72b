//! Each rule by an example.

use std::time::Duration;

use thead_core::data::{ANSWER, Event, FIRST_ANSWER, Input, QUEUE, Standing, Tally};
use thead_core::id::{Revision, Ticket, WorkerId};

use crate::world::{CONTENT, Program, World};

fn three() -> (World, [WorkerId; 3]) {
    let mut world = World::new();
    world.push(0);
    let workers = [CONTENT, Program::Refuses(5), CONTENT].map(|program| world.join(program));
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(1)));
    (world, workers)
}

fn applied(revision: u64) -> Standing {
    Standing::Applied {
        revision: Revision(revision),
    }
}

#[test]
fn g41_a_push_is_in_force_when_all_have_answered() {
    let (mut world, [a, b, c]) = three();
    let ticket = world.push(1);
    world.read(a);
    world.read(b);
    assert_eq!(world.piece.in_force(), Some(Revision(1)));
    assert_eq!(
        world.piece.offered(),
        Some(Revision(2)),
        "whoever comes now gets the newest"
    );
    world.read(c);
    let tally = Tally {
        applied: 3,
        ..Tally::default()
    };
    let event = Event::InForce {
        ticket,
        revision: Revision(2),
        tally,
    };
    assert_eq!(world.events.last(), Some(&event));
}

#[test]
fn g43_one_refusal_sends_everybody_back_under_a_new_number() {
    let (mut world, workers) = three();
    let ticket = world.push(7);
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(3)));
    for worker in workers {
        assert_eq!(world.standing(worker), applied(3));
        assert_eq!(world.content(worker), Some(0));
    }
    let refused = Event::Refused {
        ticket,
        revision: Revision(2),
        worker: workers[1],
        reason: "too bad".into(),
        back: Some(Revision(3)),
    };
    assert!(world.events.contains(&refused));
    let returned = Event::Returned {
        ticket,
        revision: Revision(3),
    };
    assert_eq!(world.events.last(), Some(&returned));
}

#[test]
fn g43_nobody_gets_what_was_refused_when_nothing_was_before_it() {
    let mut world = World::new();
    let a = world.join(Program::Refuses(5));
    world.push(9);
    world.read_all();
    assert!(matches!(world.standing(a), Standing::Refused { .. }));
    assert_eq!((world.piece.in_force(), world.piece.offered()), (None, None));
    let b = world.join(CONTENT);
    assert_eq!(world.standing(b), Standing::Nothing);
    world.push(1);
    world.read_all();
    assert_eq!(world.standing(b), applied(2));
    assert_eq!(world.standing(a), applied(2));
}

#[test]
fn g41_pushes_wait_for_one_another() {
    let (mut world, [a, ..]) = three();
    world.push(1);
    world.push(2);
    world.push(3);
    assert_eq!(world.piece.newest(), Revision(2));
    world.read_all();
    assert_eq!(world.standing(a), applied(4));
    for _ in 0..QUEUE + 1 {
        world.push(0);
    }
    let ticket = world.push(0);
    assert_eq!(world.events.last(), Some(&Event::Busy { ticket }));
}

#[test]
fn who_does_not_answer_is_waited_for_once_and_refuses_nothing() {
    let mut world = World::new();
    let deaf = world.join(Program::Unmodified);
    let fine = world.join(CONTENT);
    world.push(0);
    world.read_all();
    world.pass(ANSWER);
    assert_eq!(world.piece.in_force(), Some(Revision(1)));
    world.pass(FIRST_ANSWER);
    world.push(0);
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(2)), "it is known not to answer");
    let silent = Standing::Unacknowledged { revision: Revision(2) };
    assert_eq!(world.standing(deaf), silent);
    assert_eq!(world.standing(fine), applied(2));
}

#[test]
fn who_answers_late_takes_part_again() {
    let (mut world, [a, b, c]) = three();
    world.push(1);
    world.read(a);
    world.read(b);
    world.pass(ANSWER);
    assert_eq!(world.piece.in_force(), Some(Revision(2)));
    assert!(matches!(world.standing(c), Standing::Unacknowledged { .. }));
    assert!(world.events.contains(&Event::Unanswered {
        worker: c,
        revision: Revision(2)
    }));
    world.read(c);
    assert_eq!(world.standing(c), applied(2));
    world.push(1);
    world.read(a);
    world.read(b);
    assert_eq!(world.piece.in_force(), Some(Revision(2)), "it is waited for again");
}

#[test]
fn g43_a_newcomer_that_refuses_what_is_in_force_rolls_nothing_back() {
    let (mut world, [a, ..]) = three();
    world.push(4);
    world.read_all();
    let strict = world.join(Program::Refuses(1));
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(2)));
    assert!(matches!(world.standing(strict), Standing::Refused { .. }));
    assert_eq!(world.standing(a), applied(2));
    assert!(matches!(world.events.last(), Some(Event::Declined { .. })));
}

#[test]
fn g43_a_newcomer_during_the_trial_may_refuse() {
    let (mut world, [a, ..]) = three();
    world.push(3);
    let strict = world.join(Program::Refuses(1));
    world.read(strict);
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(3)));
    assert_eq!(world.content(a), Some(0));
}

#[test]
fn g43_data_that_kills_a_worker_is_refused() {
    let (mut world, [a, b, c]) = three();
    world.push(1);
    world.gone(a, true);
    world.read_all();
    assert_eq!(world.content_in_force(), Some(0));
    assert_eq!((world.standing(b), world.standing(c)), (applied(3), applied(3)));
    world.push(1);
    world.gone(b, false);
    world.read_all();
    assert_eq!(
        world.content_in_force(),
        Some(1),
        "one that was told to leave has not refused"
    );
    let new = world.join(CONTENT);
    world.push(2);
    world.gone(new, true);
    world.read_all();
    assert_eq!(
        world.content_in_force(),
        Some(2),
        "one that has never answered does not take part"
    );
}

#[test]
fn g43_what_was_pushed_while_nobody_ran_is_tried_by_the_first_who_comes() {
    let mut world = World::after(Revision(7), Some(Revision(6)));
    world.push(5);
    world.pass(Duration::from_secs(3600));
    assert_eq!(
        (world.piece.in_force(), world.piece.is_busy()),
        (Some(Revision(6)), false)
    );
    let early = world.join(CONTENT);
    world.gone(early, true);
    let ticket = world.push(6);
    assert_eq!(world.piece.newest(), Revision(9), "what nobody has needs no trial");
    assert!(world.events.contains(&Event::Superseded {
        ticket: Ticket(1),
        revision: Revision(8)
    }));
    let strict = world.join(Program::Refuses(5));
    world.read_all();
    assert_eq!(world.standing(strict), applied(10));
    assert_eq!(world.content(strict), Some(0));
    assert!(world.events.contains(&Event::Returned {
        ticket,
        revision: Revision(10)
    }));
}

#[test]
fn programs_without_a_channel_are_told_and_not_waited_for() {
    let mut world = World::new();
    let program = world.join(Program::Files);
    world.push(1);
    assert_eq!(world.piece.in_force(), Some(Revision(1)));
    let told = Standing::Told { revision: Revision(1) };
    assert_eq!(world.standing(program), told);
    let late = world.join(Program::Files);
    assert_eq!(world.standing(late), told);
}

#[test]
fn g42_what_nobody_uses_is_let_go() {
    let (mut world, [a, b, c]) = three();
    world.push(1);
    world.read(a);
    world.read(b);
    let kept = |world: &World| world.contents.keys().map(|revision| revision.0).collect::<Vec<_>>();
    assert_eq!(kept(&world), [1, 2]);
    world.read(c);
    assert_eq!(kept(&world), [2], "the last user has acknowledged");
}

#[test]
fn what_is_said_of_others_revisions_does_nothing() {
    let (mut world, [a, ..]) = three();
    world.push(1);
    for revision in [0, 1, 3, u64::MAX].map(Revision) {
        world.input(Input::Applied { worker: a, revision });
        world.input(Input::Refused {
            worker: a,
            revision,
            reason: "no".into(),
        });
    }
    let stranger = WorkerId(99);
    world.input(Input::Refused {
        worker: stranger,
        revision: Revision(2),
        reason: "no".into(),
    });
    world.read_all();
    assert_eq!(world.piece.in_force(), Some(Revision(2)));
}

#[test]
fn g43_who_comes_after_a_refusal_is_not_given_what_was_refused() {
    let (mut world, [a, b, c]) = three();
    world.push(9);
    world.read(b);
    world.gone(a, true);
    // It waits for the answer of the third, and all the while workers come.
    let new = world.join(CONTENT);
    world.read(new);
    assert_eq!(world.standing(new), applied(1));
    world.read(c);
    world.read_all();
    assert_eq!(world.standing(new), applied(3));
    assert_eq!(world.content(c), Some(0));
}

//! When a worker is taken as ready, and when as stuck, in virtual time.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::time::{Duration, Instant};

use thead_core::probe::{Action, Config, Input, Live, Pace, Purpose, Watch};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// From when a probe begins to how long it takes and what it says.
type Answers = dyn Fn(Duration) -> (Duration, Result<(), String>);

/// A worker whose probes are answered by a function of the time, and who beats as long as it is alive.
struct World {
    watch: Watch,
    start: Instant,
    now: Instant,
    /// Probes that run: their number, when they are answered, and what.
    running: Vec<(u32, Instant, Result<(), String>)>,
    answers: Box<Answers>,
    beat: Option<Duration>,
    next_beat: Option<Instant>,
    seen: Vec<(Duration, Action)>,
}

impl World {
    fn new(config: Config, answers: impl Fn(Duration) -> (Duration, Result<(), String>) + 'static) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let start = Instant::now();
        let mut world = Self {
            watch: Watch::new(start, config),
            start,
            now: start,
            running: Vec::new(),
            answers: Box::new(answers),
            beat: None,
            next_beat: None,
            seen: Vec::new(),
        };
        world.obey();
        world
    }

    fn input(&mut self, input: Input) {
        self.watch.input(self.now, input);
        self.obey();
    }

    fn obey(&mut self) {
        while let Some(action) = self.watch.poll() {
            self.seen.push((self.now - self.start, action.clone()));
            match action {
                Action::Probe { number, .. } => {
                    let (after, outcome) = (self.answers)(self.now - self.start);
                    self.running.push((number, self.now + after, outcome));
                }
                Action::IsReady => self.watch.input(self.now, Input::Ready),
                Action::Failed(_) | Action::IsStuck(_) => {}
            }
        }
        assert!(self.watch.deadline().is_none_or(|deadline| deadline > self.now));
    }

    fn beats(&mut self, every: Duration) {
        (self.beat, self.next_beat) = (Some(every), Some(self.now));
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let answer = self.running.iter().map(|(_, at, _)| *at).min();
            let next = [self.watch.deadline(), answer, self.next_beat]
                .into_iter()
                .flatten()
                .min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at;
            if let Some(place) = self.running.iter().position(|(_, due, _)| *due <= at) {
                let (number, _, outcome) = self.running.remove(place);
                self.input(Input::Probed { number, outcome });
            } else if self.next_beat.is_some_and(|due| due <= at) {
                self.next_beat = self.beat.map(|every| at + every);
                self.input(Input::Beat);
            } else {
                self.watch.advance(at);
                self.obey();
            }
        }
        self.now = end;
    }

    fn stuck(&self) -> Option<(Duration, &str)> {
        self.seen.iter().find_map(|(at, action)| match action {
            Action::IsStuck(reason) => Some((*at, reason.as_str())),
            _ => None,
        })
    }

    fn probes(&self, wanted: Purpose) -> Vec<Duration> {
        let probes = self.seen.iter().filter_map(|(at, action)| match action {
            Action::Probe { purpose, .. } if *purpose == wanted => Some(*at),
            _ => None,
        });
        probes.collect()
    }
}

fn heartbeat(every: Duration) -> World {
    let config = Config {
        heartbeat: Some(every),
        ..Config::default()
    };
    World::new(config, |_| unreachable!())
}

const PACE: Pace = Pace {
    interval: ms(1000),
    timeout: ms(200),
};

fn live(failures: u32) -> Config {
    Config {
        live: Some(Live { pace: PACE, failures }),
        ..Config::default()
    }
}

fn fine(_: Duration) -> (Duration, Result<(), String>) {
    (ms(5), Ok(()))
}

fn refused(_: Duration) -> (Duration, Result<(), String>) {
    (ms(5), Err("refused".into()))
}

#[test]
fn g19_silence_is_noticed_within_two_heartbeats() {
    let mut world = heartbeat(ms(1000));
    world.beats(ms(500));
    world.input(Input::Ready);
    world.run_for(ms(60_400));
    assert_eq!(world.stuck(), None);
    // The last was at 60 s; it stands still from 60.4 s on.
    world.next_beat = None;
    world.run_for(ms(10_000));
    assert_eq!(world.stuck(), Some((ms(62_000), "no heartbeat for 2s")));
    assert_eq!(world.watch.deadline(), None, "said once");
}

#[test]
fn nobody_is_judged_before_it_is_ready_nor_when_it_leaves_nor_if_it_never_beat() {
    let mut world = heartbeat(ms(1000));
    world.input(Input::Beat);
    world.run_for(ms(8_000));
    world.input(Input::Ready);
    world.run_for(ms(1_900));
    assert_eq!(world.stuck(), None, "it has two heartbeats from its readiness on");
    world.input(Input::Leaving);
    world.run_for(ms(60_000));
    assert_eq!(world.stuck(), None);
    let mut world = heartbeat(ms(1000));
    world.input(Input::Ready);
    world.run_for(ms(60_000));
    assert!(world.stuck().is_none() && !world.watch.has_beaten());
}

#[test]
fn whoever_was_late_itself_blames_nobody() {
    let mut world = heartbeat(ms(1000));
    world.input(Input::Ready);
    world.input(Input::Beat);
    // The supervisor stood still for 5 s; what was sent meanwhile lies unread.
    world.now += ms(5000);
    world.watch.advance(world.now);
    world.obey();
    assert_eq!(world.stuck(), None);
    world.run_for(ms(1000));
    assert!(world.stuck().is_some(), "but it is not forgiven for ever");
}

#[test]
fn a_program_may_choose_its_span_itself() {
    let mut world = heartbeat(ms(1000));
    world.input(Input::Ready);
    world.input(Input::BeatsWithin(ms(8000)));
    world.run_for(ms(7_999));
    assert_eq!(world.stuck(), None);
    world.run_for(ms(1));
    assert_eq!(world.stuck().unwrap().1, "no heartbeat for 8s");
}

#[test]
fn as_many_probes_in_a_row_have_to_fail() {
    let mut world = World::new(live(3), refused);
    world.run_for(ms(10_000));
    assert_eq!(world.probes(Purpose::Live), [], "not before it is ready");
    world.input(Input::Ready);
    world.run_for(ms(10_000));
    let expected = "its probe failed 3 times in a row, last: refused";
    assert_eq!(world.stuck(), Some((ms(13_015), expected)));
    assert_eq!(world.probes(Purpose::Live), [ms(11_000), ms(12_005), ms(13_010)]);
    let told = world
        .seen
        .iter()
        .filter(|(_, action)| matches!(action, Action::Failed(_)));
    assert_eq!(told.count(), 1, "the same reason is told once");

    let asked = Cell::new(0);
    let sometimes = move |_| match asked.replace(asked.get() + 1) % 3 {
        0 => fine(ms(0)),
        _ => refused(ms(0)),
    };
    let mut world = World::new(live(3), sometimes);
    world.input(Input::Ready);
    world.run_for(ms(600_000));
    assert_eq!(world.stuck(), None, "one success makes failures forgotten");
    let mut world = World::new(live(0), refused);
    world.input(Input::Ready);
    world.run_for(ms(2_000));
    assert_eq!(world.stuck().unwrap().1, "its probe failed: refused");
}

#[test]
fn no_answer_is_a_failure_and_a_late_one_does_not_count() {
    let mut world = World::new(live(2), |_| (ms(201), Ok(())));
    world.input(Input::Ready);
    world.run_for(ms(10_000));
    let expected = "its probe failed 2 times in a row, last: no answer within 200ms";
    assert_eq!(world.stuck(), Some((ms(2_400), expected)));
}

#[test]
fn readiness_is_asked_for_until_it_is_there() {
    let config = Config {
        ready: Some(PACE),
        ..live(1)
    };
    let mut world = World::new(config, |at| {
        (ms(5), if at < ms(3000) { Err("not yet".into()) } else { Ok(()) })
    });
    world.run_for(ms(10_000));
    assert_eq!(world.probes(Purpose::Ready), [ms(0), ms(1_005), ms(2_010), ms(3_015)]);
    assert_eq!(world.probes(Purpose::Live)[0], ms(4_020), "and only then for life");
    assert_eq!(world.stuck(), None, "failures before do not count");
}

#[test]
fn nobody_is_probed_when_it_leaves() {
    let mut world = World::new(live(1), refused);
    world.input(Input::Ready);
    world.input(Input::Leaving);
    world.run_for(ms(60_000));
    assert_eq!(world.probes(Purpose::Live), []);
}

#[test]
fn other_settings_hold_at_once() {
    let mut world = World::new(Config::default(), fine);
    world.input(Input::Ready);
    world.input(Input::Beat);
    world.run_for(ms(10_000));
    let config = Config {
        heartbeat: Some(ms(1000)),
        ..live(1)
    };
    world.input(Input::Configure(config));
    world.run_for(ms(1_500));
    assert_eq!(world.probes(Purpose::Live), [ms(11_000)]);
    assert_eq!(world.stuck(), None);
    world.run_for(ms(1_000));
    assert_eq!(world.stuck().unwrap().0, ms(12_000), "it had beaten once");
}

#[test]
fn no_order_of_inputs_makes_it_spin_or_speak_twice() {
    let mut state = 1_u64;
    let mut roll = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % sides
    };
    for round in 0..2000 {
        let config = Config {
            heartbeat: (roll(2) == 0).then(|| ms(roll(2000))),
            ready: (roll(2) == 0).then_some(Pace {
                interval: ms(roll(1000)),
                timeout: ms(roll(1000)),
            }),
            live: (roll(2) == 0).then_some(Live {
                pace: Pace {
                    interval: ms(roll(1000)),
                    timeout: ms(roll(1000)),
                },
                failures: roll(4) as u32,
            }),
        };
        let good = roll(3);
        let mut world = World::new(config.clone(), move |_| match good {
            0 => fine(ms(0)),
            1 => refused(ms(0)),
            _ => (Duration::from_secs(3600), Ok(())),
        });
        for _ in 0..20 {
            let input = match roll(6) {
                0 => Input::Ready,
                1 => Input::Beat,
                2 => Input::BeatsWithin(ms(roll(4000))),
                3 => Input::Probed {
                    number: roll(30) as u32,
                    outcome: Err("it is said so".into()),
                },
                4 => Input::Configure(config.clone()),
                _ if roll(10) == 0 => Input::Leaving,
                _ => Input::Ready,
            };
            world.input(input);
            world.run_for(ms(roll(1500)));
        }
        let stuck = world
            .seen
            .iter()
            .filter(|(_, action)| matches!(action, Action::IsStuck(_)));
        assert!(stuck.count() <= 1, "round {round}");
        assert!(world.seen.len() < 6000, "round {round}: {}", world.seen.len());
    }
}

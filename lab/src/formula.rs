//! What a service model promises: requests a second from the time that one takes.
//!
//! The oldest formula is 1/N: who serves one at a time, each for N seconds, serves 1/N a second. Every model after it raises
//! the number that may wait at once, until processor time is what is short, and then nothing but cores helps. So each
//! prediction is the least of three bounds: what can wait at once, what the clients ask for, and what the cores can burn.

use std::time::Duration;

/// What one request needs, apart from being received and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Time that passes without a processor: a database, a disk, another service.
    pub wait: Duration,
    /// Time on a processor.
    pub cpu: Duration,
}

impl Work {
    /// N: how long one request takes if nothing stands in its way, in seconds.
    pub fn service(&self) -> f64 {
        (self.wait + self.cpu).as_secs_f64()
    }
}

/// What matters of a model for the formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request at a time: `sync`.
    OneAtATime,
    /// So many requests at a time, each with a process or thread of its own, made beforehand: `prefork` (M), `pool` (M·L).
    Workers(usize),
    /// As many at a time as there are connections, each with a process or thread made for it: `fork`, `threads`.
    PerConnection,
    /// So many event loops, each with any number of requests that wait but one that computes: `event`, `cluster`.
    Loops(usize),
}

/// What holds a prediction down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// All workers are taken.
    Workers,
    /// The clients ask for no more: each waits for its answer first.
    Clients,
    /// The cores that the model can use.
    Cores,
}

/// What the formula says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Of what.
    pub shape: Shape,
    /// Requests a second.
    pub per_second: f64,
    /// What holds it there.
    pub bound: Bound,
    /// The formula, as one writes it.
    pub formula: &'static str,
}

/// Predicts a closed loop: so many `connections`, each asking again as soon as it has its answer.
///
/// `cores` are those that the servers have, which is all of them but the share that the load itself uses; a fraction if
/// they share. `None` if the work is too small for the formula to say anything: then the time is all in what it leaves out.
pub fn predict(shape: Shape, work: Work, connections: usize, cores: f64) -> Option<Prediction> {
    let service = work.service();
    if service == 0.0 {
        return None;
    }
    // How many may be under way at once, and how many cores they may use at once.
    let (at_once, loops, formula) = match shape {
        Shape::OneAtATime => (1.0, 1.0, "1/N"),
        Shape::Workers(count) => (count as f64, count as f64, "M·L/N"),
        Shape::PerConnection => (f64::INFINITY, f64::INFINITY, "C/N"),
        Shape::Loops(count) => (f64::INFINITY, count as f64, "C/N"),
    };
    let clients = connections as f64;
    let waiting = Prediction {
        shape,
        per_second: at_once.min(clients) / service,
        bound: if at_once < clients {
            Bound::Workers
        } else {
            Bound::Clients
        },
        formula,
    };
    let cpu = work.cpu.as_secs_f64();
    let burning = Prediction {
        shape,
        // One that serves one at a time uses its core only while it computes: 1/N already says so.
        per_second: if cpu > 0.0 {
            loops.min(cores) / cpu
        } else {
            f64::INFINITY
        },
        bound: Bound::Cores,
        formula: "cores/cpu",
    };
    Some(if burning.per_second < waiting.per_second {
        burning
    } else {
        waiting
    })
}

/// What was seen beside a rate, to say why it is not the predicted one.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Requests a second.
    pub per_second: f64,
    /// Cores that the server kept busy.
    pub server: f64,
    /// Cores that the load kept busy.
    pub load: f64,
    /// Cores that both had.
    pub cores: f64,
    /// Cores that neither of them kept busy, but other programs.
    pub others: f64,
    /// How long half of the answers took at most, in milliseconds.
    pub p50_ms: f64,
    /// Requests that failed, of a hundred.
    pub failed_percent: f64,
}

/// Where and why a measurement and its prediction part, in a sentence.
pub fn explain(prediction: &Prediction, seen: &Seen) -> String {
    let ratio = seen.per_second / prediction.per_second;
    if seen.per_second == 0.0 {
        return "Nothing was answered.".to_owned();
    }
    if seen.failed_percent > 1.0 {
        return format!(
            "{:.0} % of the requests failed, so the rate says little.",
            seen.failed_percent
        );
    }
    if (0.95..=1.05).contains(&ratio) {
        return "As predicted.".to_owned();
    }
    let busy = seen.server + seen.load;
    let percent = (ratio * 100.0).round();
    if ratio > 1.05 {
        return format!(
            "{percent:.0} % of the prediction: the work took less than its nominal time, or the load was given less of the \
             cores than assumed."
        );
    }
    if seen.others > 0.1 * seen.cores {
        return format!(
            "{percent:.0} % of the prediction: other programs kept {:.1} of {:.0} cores busy meanwhile.",
            seen.others, seen.cores
        );
    }
    if busy > 0.9 * seen.cores {
        // What a request costs the server beyond its work.
        let cost = seen.server / seen.per_second * 1e6;
        return format!(
            "{percent:.0} % of the prediction: the cores are full ({busy:.1} of {:.0} busy, the load uses {:.1}). A request \
             costs the server {cost:.0} µs of processor, what the formula leaves out included.",
            seen.cores, seen.load
        );
    }
    if prediction.bound == Bound::Cores {
        return format!(
            "{percent:.0} % of the prediction: only {:.1} cores were busy, so the work was not spread over all of them all \
             the time.",
            seen.server
        );
    }
    if prediction.bound == Bound::Clients {
        let timers = match prediction.shape {
            Shape::Loops(_) => "; the timers of its loop count in whole milliseconds",
            _ => "",
        };
        return format!(
            "{percent:.0} % of the prediction: an answer takes {:.1} ms instead of N, by being received, scheduled and \
             woken{timers}.",
            seen.p50_ms
        );
    }
    format!(
        "{percent:.0} % of the prediction: a worker is taken for longer than N, by being connected, scheduled and woken."
    )
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const WAIT: Work = Work {
        wait: Duration::from_millis(10),
        cpu: Duration::ZERO,
    };
    const BURN: Work = Work {
        wait: Duration::ZERO,
        cpu: Duration::from_millis(2),
    };

    #[track_caller]
    fn assert_rate(shape: Shape, work: Work, connections: usize, cores: f64, per_second: f64, bound: Bound) {
        let prediction = predict(shape, work, connections, cores).expect("work takes time");
        assert!((prediction.per_second - per_second).abs() < 1e-6, "{prediction:?}");
        assert_eq!(prediction.bound, bound, "{prediction:?}");
    }

    #[test]
    fn one_at_a_time_is_one_over_n_however_many_ask() {
        assert_rate(Shape::OneAtATime, WAIT, 1, 2.0, 100.0, Bound::Clients);
        assert_rate(Shape::OneAtATime, WAIT, 256, 2.0, 100.0, Bound::Workers);
        assert_rate(Shape::OneAtATime, BURN, 256, 2.0, 500.0, Bound::Workers);
    }

    #[test]
    fn workers_multiply_it_while_there_are_cores_and_clients() {
        assert_rate(Shape::Workers(2), WAIT, 256, 2.0, 200.0, Bound::Workers);
        assert_rate(Shape::Workers(16), WAIT, 256, 2.0, 1600.0, Bound::Workers);
        assert_rate(Shape::Workers(16), WAIT, 4, 2.0, 400.0, Bound::Clients);
        assert_rate(Shape::Workers(16), BURN, 256, 2.0, 1000.0, Bound::Cores);
    }

    #[test]
    fn what_has_no_limit_of_its_own_follows_its_clients_until_the_cores_are_full() {
        for shape in [Shape::PerConnection, Shape::Loops(2)] {
            assert_rate(shape, WAIT, 256, 2.0, 25_600.0, Bound::Clients);
            assert_rate(shape, BURN, 1, 2.0, 500.0, Bound::Clients);
            assert_rate(shape, BURN, 256, 1.9, 950.0, Bound::Cores);
        }
    }

    #[test]
    fn one_loop_burns_one_core_and_a_loop_for_each_core_burns_all() {
        assert_rate(Shape::Loops(1), BURN, 256, 2.0, 500.0, Bound::Cores);
        assert_rate(Shape::Loops(4), BURN, 256, 4.0, 2000.0, Bound::Cores);
        // More loops than cores burn no more.
        assert_rate(Shape::Loops(4), BURN, 256, 2.0, 1000.0, Bound::Cores);
    }

    #[test]
    fn work_that_takes_no_time_has_no_prediction() {
        let nothing = Work {
            wait: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        assert_eq!(predict(Shape::OneAtATime, nothing, 1, 2.0), None);
    }

    #[test]
    fn the_explanation_names_the_cause_that_was_seen() {
        let prediction = predict(Shape::PerConnection, WAIT, 256, 2.0).expect("work takes time");
        let seen = |per_second, server, failed_percent| Seen {
            per_second,
            server,
            load: 0.5,
            cores: 2.0,
            others: 0.0,
            p50_ms: 11.2,
            failed_percent,
        };
        assert_eq!(explain(&prediction, &seen(25_000.0, 1.0, 0.0)), "As predicted.");
        let full = explain(&prediction, &seen(10_000.0, 1.5, 0.0));
        assert!(full.contains("39 %") && full.contains("150 µs"), "{full}");
        assert!(explain(&prediction, &seen(10_000.0, 0.2, 0.0)).contains("takes 11.2 ms instead of N"));
        let disturbed = Seen {
            others: 0.5,
            ..seen(10_000.0, 1.5, 0.0)
        };
        assert!(explain(&prediction, &disturbed).contains("other programs kept 0.5 of 2 cores busy"));
        assert!(explain(&prediction, &seen(10_000.0, 0.2, 3.0)).contains("3 % of the requests failed"));
        assert!(explain(&prediction, &seen(0.0, 0.0, 0.0)).contains("Nothing"));
    }
}

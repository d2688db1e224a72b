//! Who is next: the least busy, in turn among equals.

/// How busy a worker is; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    /// Late of late: only if nobody else has room.
    pub(super) doubtful: bool,
    /// Its offers not answered, on all listeners.
    pub(super) unanswered: usize,
}

impl Load {
    const IDLE: Self = Self {
        doubtful: false,
        unanswered: 0,
    };
}

/// Whose turn it is in a list of workers.
///
/// Node's order is "least recently ready" (`free` in lib/internal/cluster/round_robin_handle.js), which for idle workers is
/// the same: 1 2 3 4 1 2 3 4.
#[derive(Debug, Default)]
pub(super) struct Turn(usize);

impl Turn {
    /// The place of the next among `count`, if one of them has room, that is, a load.
    ///
    /// Idle workers are found in the first step, so the cost grows with the number of workers only when all are busy.
    pub(super) fn next(&mut self, count: usize, load: impl Fn(usize) -> Option<Load>) -> Option<usize> {
        let mut best: Option<(Load, usize)> = None;
        for at in (self.0..count).chain(0..self.0.min(count)) {
            let Some(load) = load(at) else { continue };
            if best.is_none_or(|(least, _)| load < least) {
                best = Some((load, at));
                if load == Load::IDLE {
                    break;
                }
            }
        }
        let (_, at) = best?;
        self.0 = at + 1;
        Some(at)
    }

    /// The one at this place is no longer in the list, and those behind it moved up.
    pub(super) fn removed(&mut self, at: usize) {
        if at < self.0 {
            self.0 -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(_: usize) -> Option<Load> {
        Some(Load::IDLE)
    }

    fn busy(unanswered: [usize; 3]) -> impl Fn(usize) -> Option<Load> {
        move |at| {
            Some(Load {
                doubtful: false,
                unanswered: unanswered[at],
            })
        }
    }

    #[test]
    fn idle_workers_take_strict_turns() {
        let mut turn = Turn::default();
        let order: Vec<_> = (0..8).filter_map(|_| turn.next(4, idle)).collect();
        assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn the_least_busy_comes_before_the_next_in_turn() {
        let mut turn = Turn::default();
        assert_eq!(turn.next(3, busy([2, 3, 1])), Some(2));
        assert_eq!(
            turn.next(3, busy([2, 2, 2])),
            Some(0),
            "the turn goes on behind the last chosen"
        );
    }

    #[test]
    fn a_doubtful_worker_is_the_last_resort() {
        let mut turn = Turn::default();
        let load = |at| {
            Some(Load {
                doubtful: at == 0,
                unanswered: [0, 3][at],
            })
        };
        assert_eq!(turn.next(2, load), Some(1));
        assert_eq!(turn.next(1, load), Some(0));
    }

    #[test]
    fn nobody_with_room_is_nobody() {
        assert_eq!(Turn::default().next(3, |_| None), None);
        assert_eq!(Turn::default().next(0, idle), None);
    }

    #[test]
    fn one_who_leaves_costs_nobody_a_turn() {
        let mut turn = Turn::default();
        turn.next(4, idle);
        turn.next(4, idle);
        turn.removed(0);
        assert_eq!(turn.next(3, idle), Some(1), "the third of four is the second of three");
    }
}

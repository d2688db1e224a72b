//! Who is next: the least busy, in turn among equals.
//!
//! Workers are bits, and those with the same number of unanswered offers are a set of bits; so the next worker and the room of
//! all are found in a few machine words, however many workers there are.

/// The place of a worker among the members; its own until it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) usize);

/// A set of places.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Vec<u64>);

impl Places {
    pub(super) fn insert(&mut self, place: Place) {
        let word = place.0 / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place.0 % 64);
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, place: Place) -> bool {
        let Some(word) = self.0.get_mut(place.0 / 64) else {
            return false;
        };
        let bit = 1 << (place.0 % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    pub(super) fn contains(&self, place: Place) -> bool {
        self.0
            .get(place.0 / 64)
            .is_some_and(|word| word & (1 << (place.0 % 64)) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Place> {
        self.both(self)
    }

    /// The places that are in both.
    pub(super) fn both(&self, other: &Self) -> impl Iterator<Item = Place> {
        let words = self.0.iter().zip(&other.0).enumerate();
        words.flat_map(|(at, (one, other))| Bits(one & other).map(move |bit| Place(at * 64 + bit)))
    }

    fn count_both(&self, other: &Self) -> usize {
        let common = self
            .0
            .iter()
            .zip(&other.0)
            .map(|(one, other)| (one & other).count_ones() as usize);
        common.sum()
    }

    /// The first place in both, at `from` or behind, that `may`.
    fn first_in_both(&self, other: &Self, from: usize, may: impl Fn(Place) -> bool) -> Option<Place> {
        let words = self.0.iter().zip(&other.0).enumerate().skip(from / 64);
        for (at, (one, other)) in words {
            let mut bits = one & other;
            if at == from / 64 {
                bits &= !0 << (from % 64);
            }
            if let Some(place) = Bits(bits).map(|bit| Place(at * 64 + bit)).find(|place| may(*place)) {
                return Some(place);
            }
        }
        None
    }
}

impl FromIterator<Place> for Places {
    fn from_iter<I: IntoIterator<Item = Place>>(places: I) -> Self {
        let mut set = Self::default();
        places.into_iter().for_each(|place| set.insert(place));
        set
    }
}

/// The places of the ones in a word, from the lowest.
struct Bits(u64);

impl Iterator for Bits {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lowest = (self.0 != 0).then(|| self.0.trailing_zeros() as usize);
        self.0 &= self.0.wrapping_sub(1);
        lowest
    }
}

/// How busy a worker is that may get offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// So many offers are not answered, less than the window.
    Unanswered(usize),
    /// It answers late of late and has nothing to answer: one offer, if nobody else has room.
    Suspended,
}

/// Who has room, by load.
#[derive(Debug)]
pub(super) struct Ready {
    /// Workers with no, one, two... unanswered offers; behind the last, the suspended.
    levels: Vec<Places>,
    /// On which level each place is.
    placed: Vec<Option<usize>>,
}

impl Ready {
    pub(super) fn new(window: usize) -> Self {
        Self {
            levels: vec![Places::default(); window + 1],
            placed: Vec::new(),
        }
    }

    fn window(&self) -> usize {
        self.levels.len() - 1
    }

    /// The load of this place is now this; `None` if it gets no offer.
    pub(super) fn set(&mut self, place: Place, load: Option<Load>) {
        if self.placed.len() <= place.0 {
            self.placed.resize(place.0 + 1, None);
        }
        let level = match load {
            None => None,
            Some(Load::Unanswered(offers)) => (offers < self.window()).then_some(offers),
            Some(Load::Suspended) => Some(self.window()),
        };
        let before = std::mem::replace(&mut self.placed[place.0], level);
        if before != level {
            if let Some(before) = before {
                self.levels[before].remove(place);
            }
            if let Some(level) = level {
                self.levels[level].insert(place);
            }
        }
    }

    /// Whether it could get an offer.
    pub(super) fn has_room(&self, place: Place) -> bool {
        self.placed.get(place.0).is_some_and(Option::is_some)
    }

    /// How many offers these could get.
    pub(super) fn room(&self, holders: &Places) -> usize {
        let room = |(level, places): (usize, &Places)| places.count_both(holders) * (self.window() - level).max(1);
        self.levels.iter().enumerate().map(room).sum()
    }

    /// The next of these who has room and `may`. `turn` is where the search begins among equals, and moves behind the chosen.
    ///
    /// Node's order is "least recently ready" (`free` in lib/internal/cluster/round_robin_handle.js), which for idle workers is
    /// the same: 1 2 3 4 1 2 3 4.
    pub(super) fn next(&self, holders: &Places, turn: &mut usize, may: impl Fn(Place) -> bool) -> Option<Place> {
        let next = self.levels.iter().find_map(|level| {
            let behind = level.first_in_both(holders, *turn, &may);
            behind.or_else(|| level.first_in_both(holders, 0, &may))
        })?;
        *turn = next.0 + 1;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Workers with these loads, all of them holders.
    fn workers(window: usize, loads: &[Option<Load>]) -> (Ready, Places) {
        let (mut ready, mut holders) = (Ready::new(window), Places::default());
        for (at, load) in loads.iter().enumerate() {
            ready.set(Place(at), *load);
            holders.insert(Place(at));
        }
        (ready, holders)
    }

    fn order(ready: &Ready, holders: &Places, turn: &mut usize, count: usize) -> Vec<usize> {
        (0..count)
            .filter_map(|_| ready.next(holders, turn, |_| true))
            .map(|place| place.0)
            .collect()
    }

    const IDLE: Option<Load> = Some(Load::Unanswered(0));

    #[test]
    fn idle_workers_take_strict_turns() {
        let (ready, holders) = workers(4, &[IDLE; 4]);
        assert_eq!(order(&ready, &holders, &mut 0, 8), [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn two_hundred_workers_take_strict_turns_too() {
        let (ready, holders) = workers(1, &[IDLE; 200]);
        let expected: Vec<_> = (0..200).chain(0..200).collect();
        assert_eq!(order(&ready, &holders, &mut 0, 400), expected);
    }

    #[test]
    fn the_least_busy_comes_before_the_next_in_turn() {
        let loads = [2, 3, 1].map(|offers| Some(Load::Unanswered(offers)));
        let (mut ready, holders) = workers(4, &loads);
        let mut turn = 0;
        assert_eq!(order(&ready, &holders, &mut turn, 1), [2]);
        ready.set(Place(2), Some(Load::Unanswered(2)));
        assert_eq!(
            order(&ready, &holders, &mut turn, 2),
            [0, 2],
            "the turn goes on behind the last chosen"
        );
    }

    #[test]
    fn a_suspended_worker_is_the_last_resort() {
        let (mut ready, holders) = workers(4, &[Some(Load::Suspended), Some(Load::Unanswered(3))]);
        assert_eq!(order(&ready, &holders, &mut 0, 1), [1]);
        ready.set(Place(1), Some(Load::Unanswered(4)));
        assert_eq!(order(&ready, &holders, &mut 0, 1), [0]);
    }

    #[test]
    fn nobody_with_room_is_nobody() {
        let (ready, holders) = workers(2, &[None, Some(Load::Unanswered(2))]);
        assert_eq!(ready.next(&holders, &mut 0, |_| true), None);
        assert_eq!(ready.next(&Places::default(), &mut 0, |_| true), None);
    }

    #[test]
    fn who_may_not_is_passed_over() {
        let (ready, holders) = workers(2, &[IDLE, IDLE, Some(Load::Unanswered(1))]);
        assert_eq!(ready.next(&holders, &mut 0, |place| place.0 == 2), Some(Place(2)));
        assert_eq!(ready.next(&holders, &mut 2, |place| place.0 == 1), Some(Place(1)));
    }

    #[test]
    fn the_room_is_what_all_may_get_together() {
        let loads = [
            IDLE,
            Some(Load::Unanswered(3)),
            Some(Load::Unanswered(4)),
            Some(Load::Suspended),
            None,
        ];
        let (ready, mut holders) = workers(4, &loads);
        assert_eq!(ready.room(&holders), 4 + 1 + 1);
        assert!(holders.remove(Place(0)));
        assert!(!holders.remove(Place(0)));
        assert_eq!(ready.room(&holders), 2);
        let held: Vec<_> = holders.iter().map(|place| place.0).collect();
        assert_eq!(held, [1, 2, 3, 4]);
    }
}

//! A worker as its primary sees it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LeaveBy;
use super::schedule::{Load, Place, Places, Ready};
use crate::id::{ConnId, ListenerId, WorkerId};
use crate::worker::Slot;

/// A worker from its start to its end.
///
/// ```text
/// Gated ──Open──► Open ──Leave──► Asked ──answered, or late──► Leaving ──► gone
///   │                │              │                            ▲
///   └────Leave───────┴──────────────┴── exitedAfterDisconnect ───┘
/// ```
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: WorkerId,
    pub(super) slot: Slot,
    pub(super) phase: Phase,
    pub(super) joined: Instant,
    pub(super) online: bool,
    /// Whether it ever held a listener; until then it is starting.
    pub(super) has_held: bool,
    /// The listeners that it holds or has asked for, by the key it knows or will know.
    pub(super) keys: BTreeMap<Arc<str>, ListenerId>,
    /// What it has not answered, oldest first.
    pub(super) offers: VecDeque<Offer>,
    /// Set while it owes answers for too long.
    pub(super) doubt: Option<Doubt>,
    /// When its late offers were last looked at.
    pub(super) looked: Option<Instant>,
    last_request: Option<u64>,
    next_seq: u64,
}

/// What a worker may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Listeners, but no offers yet.
    Gated,
    /// Everything.
    Open,
    /// Nothing new; it is told to leave when its offers are answered, at the latest then.
    Asked { how: LeaveBy, by: Instant },
    /// Nothing. It was told to leave, or said that it leaves.
    Leaving,
}

/// A connection in a worker's hands that has not said whether it takes it.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) seq: u64,
    pub(super) since: Instant,
    pub(super) listener: ListenerId,
    pub(super) waiting: Waiting,
}

/// A connection that somebody should take.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) conn: ConnId,
    /// Whose it is, if that decides who gets it.
    pub(super) client: Option<IpAddr>,
    /// A worker has served it and given it back.
    pub(super) idle: bool,
    /// Who had it and did not take it. Allocates only for such.
    pub(super) tried: Vec<WorkerId>,
    /// All of them have; from then on they are asked again.
    pub(super) retry: Option<Instant>,
    /// It is for one worker, and for nobody else.
    pub(super) private: bool,
}

impl Waiting {
    pub(super) fn new(conn: ConnId) -> Self {
        Self {
            conn,
            client: None,
            idle: false,
            tried: Vec::new(),
            retry: None,
            private: false,
        }
    }
}

/// What we think of a worker that was late, until it answers.
///
/// It is suspended: one offer at a time, and only if nobody else has room. If all its offers could be taken back there will be
/// no answer, so after a while it is tried like any other; that while doubles with each time that it was late, so a worker that
/// hangs for long delays ever fewer connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doubt {
    strikes: u32,
    /// While it is suspended.
    pub(super) until: Option<Instant>,
}

impl Doubt {
    /// The doubt after one more time: up to 64 times `late`.
    pub(super) fn more(doubt: Option<Self>, now: Instant, late: Duration) -> Self {
        let strikes = doubt.map_or(1, |doubt| (doubt.strikes + 1).min(6));
        Self {
            strikes,
            until: Some(now + late * (1 << strikes)),
        }
    }
}

impl Member {
    pub(super) fn new(id: WorkerId, slot: Slot, gated: bool, now: Instant) -> Self {
        Self {
            id,
            slot,
            phase: if gated { Phase::Gated } else { Phase::Open },
            joined: now,
            online: false,
            has_held: false,
            keys: BTreeMap::new(),
            offers: VecDeque::new(),
            doubt: None,
            looked: None,
            last_request: None,
            next_seq: 0,
        }
    }

    /// The number of the next message to it. Each worker has its own count, so an answer can only ever concern its own offers.
    pub(super) fn next_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// The number to answer a request with. Numbers only grow, so one that does not is a repetition.
    pub(super) fn request(&mut self, seq: Option<u64>) -> Option<u64> {
        let seq = seq.filter(|seq| self.last_request.is_none_or(|last| *seq > last))?;
        self.last_request = Some(seq);
        Some(seq)
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Asked { .. } | Phase::Leaving)
    }

    /// How busy it is, if it may get offers.
    fn load(&self) -> Option<Load> {
        match (self.phase, self.doubt) {
            (Phase::Open, Some(Doubt { until: Some(_), .. })) => self.offers.is_empty().then_some(Load::Suspended),
            (Phase::Open, _) => Some(Load::Unanswered(self.offers.len())),
            (Phase::Gated | Phase::Asked { .. } | Phase::Leaving, _) => None,
        }
    }

    /// Takes the offer of this number from it: it was answered, so the worker is alive.
    pub(super) fn answered(&mut self, ack: u64) -> Option<Offer> {
        let at = self.offers.iter().position(|offer| offer.seq == ack)?;
        self.doubt = None;
        self.offers.remove(at)
    }

    /// Takes the offers of these connections from it, in their order.
    pub(super) fn take_back(&mut self, conns: &[ConnId]) -> Vec<Offer> {
        let offers = std::mem::take(&mut self.offers).into_iter();
        let (back, kept): (Vec<_>, Vec<_>) = offers.partition(|offer| conns.contains(&offer.waiting.conn));
        self.offers = kept.into();
        back
    }

    /// When its offers are to be looked at.
    pub(super) fn late_at(&self, late: Duration) -> Option<Instant> {
        let oldest = self.offers.front()?.since;
        Some(self.looked.map_or(oldest, |looked| looked.max(oldest)) + late)
    }
}

/// The workers, to be found by number, and by place and load where many are compared.
#[derive(Debug)]
pub(super) struct Members {
    places: Vec<Option<Member>>,
    by_id: BTreeMap<WorkerId, Place>,
    pub(super) ready: Ready,
    /// Those that take offers, with or without room.
    open: Places,
}

impl Members {
    pub(super) fn new(window: usize) -> Self {
        Self {
            places: Vec::new(),
            by_id: BTreeMap::new(),
            ready: Ready::new(window),
            open: Places::default(),
        }
    }

    pub(super) fn insert(&mut self, member: Member) {
        let free = self
            .places
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.places.len());
        self.by_id.insert(member.id, Place(free));
        match self.places.get_mut(free) {
            Some(place) => *place = Some(member),
            None => self.places.push(Some(member)),
        }
        self.update_at(Place(free), |_| ());
    }

    /// The lowest slot that no worker has.
    pub(super) fn free_slot(&self) -> Slot {
        let taken: BTreeSet<Slot> = self.iter().map(|member| member.slot).collect();
        (0..).map(Slot).find(|slot| !taken.contains(slot)).unwrap_or(Slot(0))
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<(Place, Member)> {
        let place = self.by_id.remove(&id)?;
        self.ready.set(place, None);
        self.open.remove(place);
        Some((place, self.places[place.0].take()?))
    }

    /// Changes a worker. What decides about its offers (phase, offers, doubt) must be changed in here.
    pub(super) fn update<R>(&mut self, id: WorkerId, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        self.update_at(self.place(id)?, change)
    }

    pub(super) fn update_at<R>(&mut self, place: Place, change: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let member = self.places[place.0].as_mut()?;
        let result = change(member);
        self.ready.set(place, member.load());
        if member.phase == Phase::Open {
            self.open.insert(place);
        } else {
            self.open.remove(place);
        }
        Some(result)
    }

    pub(super) fn place(&self, id: WorkerId) -> Option<Place> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn at(&self, place: Place) -> Option<&Member> {
        self.places[place.0].as_ref()
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Member> {
        self.at(self.place(id)?)
    }

    /// Those of these places that take offers, with or without room.
    pub(super) fn open(&self, places: &Places) -> impl Iterator<Item = &Member> {
        places.both(&self.open).filter_map(|place| self.at(place))
    }

    /// The places of those.
    pub(super) fn open_places(&self, places: &Places) -> Places {
        places.both(&self.open).collect()
    }

    /// Who of these gets a connection that those in `tried` did not take.
    pub(super) fn next(&self, holders: &Places, turn: &mut usize, tried: &[WorkerId]) -> Option<Place> {
        let may = |place| tried.is_empty() || self.at(place).is_some_and(|member| !tried.contains(&member.id));
        self.ready.next(holders, turn, may)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.places.iter().flatten()
    }

    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.by_id.keys().copied().collect()
    }
}

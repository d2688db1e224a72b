//! Connections that are divided between workers by more than who has room: by the kernel, or by the client's address.
//!
//! **Kernel.** Each worker has a lane of its own, and the kernel gives new connections to the lanes that it is told
//! ([`Action::Steer`]): those of workers that listen, may have connections, and do not leave. What lies in any other lane the
//! primary accepts, and offers to whoever has room. So every lane has somebody who accepts from it at every moment, and no
//! connection is lost with a worker that had not accepted it: not those in the queue of a worker that died, nor those whose
//! handshake ends only after its lane was steered away from.
//!
//! **Sticky.** A client's address names one of the slots that have a worker ([`sticky_slot`]); its connections go there, or
//! wait until there is room.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::member::{Members, Waiting};
use super::schedule::{Place, Places};
use super::{Action, Primary, Scheduling};
use crate::id::{ConnId, LaneId, ListenerId, WorkerId};
use crate::worker::Slot;

/// Which of these slots serves a client in sticky scheduling; `None` of none.
///
/// It is always the same one. When a slot goes, only its clients move, evenly to all others; when one comes, it gets its share
/// from all others, and no client moves between those (rendezvous hashing). An IPv4 address that is written as IPv6
/// (`::ffff:192.0.2.1`) counts as what it is.
pub fn sticky_slot(client: IpAddr, slots: impl IntoIterator<Item = Slot>) -> Option<Slot> {
    let client = fold(client);
    slots.into_iter().max_by_key(|slot| score(client, *slot))
}

fn fold(client: IpAddr) -> u64 {
    let (high, low) = match client.to_canonical() {
        IpAddr::V4(ip) => (4, u64::from(ip.to_bits())),
        IpAddr::V6(ip) => ((ip.to_bits() >> 64) as u64, ip.to_bits() as u64),
    };
    mix(mix(high) ^ low)
}

/// How much a client wants a slot: the highest wins.
fn score(client: u64, slot: Slot) -> (u64, Slot) {
    (mix(client ^ mix(slot.0.into())), slot)
}

/// Lets every bit have a part in all others. Not secret: who can choose addresses can choose a worker.
fn mix(word: u64) -> u64 {
    let mut word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for _ in 0..3 {
        word = (word ^ (word >> 31)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    word ^ (word >> 32)
}

/// Connections that wait, each for the one worker that gets it.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// None of the queues is empty.
    queues: BTreeMap<Place, VecDeque<Waiting>>,
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Takes the newest out, if this is it.
    pub(super) fn take_newest(&mut self, conn: ConnId) -> Option<Waiting> {
        let is_it = |queue: &VecDeque<Waiting>| queue.back().is_some_and(|waiting| waiting.conn == conn);
        let place = self
            .queues
            .iter()
            .find(|(_, queue)| is_it(queue))
            .map(|(place, _)| *place);
        self.pop(place?, VecDeque::pop_back)
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Waiting> + use<> {
        std::mem::take(&mut self.queues).into_values().flatten()
    }

    fn pop(&mut self, place: Place, end: fn(&mut VecDeque<Waiting>) -> Option<Waiting>) -> Option<Waiting> {
        let queue = self.queues.get_mut(&place)?;
        let waiting = end(queue);
        if queue.is_empty() {
            self.queues.remove(&place);
        }
        waiting
    }
}

impl Members {
    /// Who of these gets the connections of this client, with or without room; not one that did not take this one. In a slot
    /// where one worker replaces another, the newer.
    fn home(&self, holders: &Places, client: IpAddr, tried: &[WorkerId]) -> Option<Place> {
        let client = fold(client);
        let able = self.open(holders).filter(|member| !tried.contains(&member.id));
        let home = able.max_by_key(|member| (score(client, member.slot), member.id))?;
        self.place(home.id)
    }
}

impl Primary {
    /// Brings those between whom the connections of a listener are divided up to date.
    pub(super) fn divide(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        let mut among = match listener.scheduling {
            Scheduling::Kernel if !listener.closing => self.members.open_places(&listener.listening),
            Scheduling::Sticky => self.members.open_places(&listener.holders),
            _ => return,
        };
        if among.iter().eq(listener.divided.iter()) {
            return;
        }
        std::mem::swap(&mut listener.divided, &mut among);
        if listener.scheduling == Scheduling::Kernel {
            let lanes = listener.divided.iter().map(Place::lane).collect();
            self.actions.push_back(Action::Steer { listener: id, lanes });
            return;
        }
        let returned = std::mem::take(&mut listener.returned);
        for waiting in returned.into_iter().chain(listener.parked.take_all()) {
            self.park(id, waiting, VecDeque::push_back);
        }
    }

    /// Puts a connection where its client's are, to one end of that queue.
    pub(super) fn park(&mut self, id: ListenerId, waiting: Waiting, end: fn(&mut VecDeque<Waiting>, Waiting)) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        let home = |client| self.members.home(&listener.holders, client, &waiting.tried);
        let home = waiting.client.and_then(home);
        let queue = match home {
            Some(place) => listener.parked.queues.entry(place).or_default(),
            // Whoever has room, or nobody now.
            None => &mut listener.returned,
        };
        end(queue, waiting);
    }

    pub(super) fn offer_parked(&mut self, now: Instant, id: ListenerId) {
        let Some(listener) = self.listeners.get(&id) else {
            return;
        };
        for place in listener.parked.queues.keys().copied().collect::<Vec<_>>() {
            while self.members.ready.has_room(place)
                && let Some(listener) = self.listeners.get_mut(&id)
                && let Some(waiting) = listener.parked.pop(place, VecDeque::pop_front)
            {
                self.offer(now, id, place, waiting);
            }
        }
    }
}

impl Place {
    /// The lane of whoever is there.
    pub(super) fn lane(self) -> LaneId {
        LaneId(u32::try_from(self.0).unwrap_or(u32::MAX))
    }
}

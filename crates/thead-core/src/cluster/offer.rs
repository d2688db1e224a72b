//! The way of a connection: accepted, offered, answered.

use std::time::Instant;

use thead_wire::cluster::{Envelope, ToWorker};

use super::listener::Listener;
use super::member::{Doubt, Offer, Phase, Waiting};
use super::{Action, Handle, LocalAddress, Primary};
use crate::id::{ConnId, ListenerId, WorkerId};

impl Primary {
    pub(super) fn accepted(&mut self, now: Instant, id: ListenerId, conn: ConnId) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return self.release(conn);
        };
        listener.fresh.push_back(conn);
        self.waiting += 1;
        self.settle(now, id);
        self.trim(id, conn);
    }

    pub(super) fn handed_back(&mut self, now: Instant, conn: ConnId, local: &LocalAddress) {
        // The best fit; of equals one that is held, then the oldest.
        let best = self
            .listeners
            .iter()
            .map(|(id, listener)| {
                (
                    listener.fits(local),
                    !listener.holders.is_empty(),
                    std::cmp::Reverse(*id),
                )
            })
            .max();
        let Some((1.., _, std::cmp::Reverse(id))) = best else {
            return self.release(conn);
        };
        if let Some(listener) = self.listeners.get_mut(&id) {
            listener.returned.push_back(Waiting::new(conn));
            self.waiting += 1;
            self.settle(now, id);
            self.trim(id, conn);
        }
    }

    /// Keeps the limit on what waits here, at the cost of the one that just came.
    fn trim(&mut self, id: ListenerId, newest: ConnId) {
        let Some(listener) = self
            .listeners
            .get_mut(&id)
            .filter(|_| self.waiting > self.config.max_waiting)
        else {
            return;
        };
        let is_waiting = if listener.fresh.back() == Some(&newest) {
            listener.fresh.pop_back().is_some()
        } else if listener.returned.back().is_some_and(|waiting| waiting.conn == newest) {
            listener.returned.pop_back().is_some()
        } else {
            false
        };
        if is_waiting {
            self.waiting -= 1;
            self.release(newest);
        }
    }

    pub(super) fn answered(&mut self, now: Instant, worker: WorkerId, ack: u64, accepted: bool) {
        let Some(member) = self.members.get_mut(worker) else {
            return;
        };
        let Some(at) = member.offers.iter().position(|offer| offer.seq == ack) else {
            return self.ignore(worker, "an answer to no offer");
        };
        let Some(Offer {
            listener, mut waiting, ..
        }) = member.offers.remove(at)
        else {
            return;
        };
        member.doubt = None;
        let told = match member.phase {
            Phase::Asked { how, .. } if member.offers.is_empty() => Some(how),
            _ => None,
        };
        if accepted {
            self.release(waiting.conn);
        } else {
            waiting.tried.push(worker);
            self.give_back(listener, waiting);
        }
        if let Some(how) = told {
            self.tell(worker, how);
        }
        if self.waiting > 0 {
            self.settle_all(now, worker);
            self.settle(now, listener);
        }
    }

    /// Some of the offers to a worker came back out of its socket, unread: others get them.
    pub(super) fn reclaimed(&mut self, now: Instant, worker: WorkerId, conns: &[ConnId]) {
        let Some(member) = self.members.get_mut(worker) else {
            return;
        };
        let (back, kept): (Vec<_>, Vec<_>) = member
            .offers
            .drain(..)
            .partition(|offer| conns.contains(&offer.waiting.conn));
        member.offers.extend(kept);
        if let Phase::Asked { how, .. } = member.phase
            && member.offers.is_empty()
        {
            self.tell(worker, how);
        }
        let mut touched = Vec::with_capacity(back.len());
        for mut offer in back.into_iter().rev() {
            offer.waiting.tried.push(worker);
            touched.push(offer.listener);
            self.give_back(offer.listener, offer.waiting);
        }
        touched.sort_unstable();
        touched.dedup();
        for listener in touched {
            self.settle(now, listener);
        }
        // It has room again, for what nobody else can have.
        self.settle_all(now, worker);
    }

    /// A connection that somebody had and did not take is the next to be offered, if its listener still is.
    pub(super) fn give_back(&mut self, id: ListenerId, waiting: Waiting) {
        match self.listeners.get_mut(&id) {
            Some(listener) => {
                listener.returned.push_front(waiting);
                self.waiting += 1;
            }
            None => self.release(waiting.conn),
        }
    }

    pub(super) fn release(&mut self, conn: ConnId) {
        self.actions.push_back(Action::Release { conn });
    }

    /// Offers what waits at all listeners of this worker.
    pub(super) fn settle_all(&mut self, now: Instant, worker: WorkerId) {
        let Some(member) = self.members.get(worker) else { return };
        match member.keys.len() {
            0 => {}
            1 => {
                if let Some(&listener) = member.keys.values().next() {
                    self.settle(now, listener);
                }
            }
            _ => {
                for listener in member.keys.values().copied().collect::<Vec<_>>() {
                    self.settle(now, listener);
                }
            }
        }
    }

    /// Offers what waits at this listener to those who have room, and gives up what nobody ever can take.
    pub(super) fn settle(&mut self, now: Instant, id: ListenerId) {
        if self.listeners.get(&id).is_some_and(|listener| listener.waiting() > 0) {
            self.offer_returned(now, id);
            self.offer_fresh(now, id);
        }
        self.finish_closing(id);
    }

    fn offer_returned(&mut self, now: Instant, id: ListenerId) {
        let window = self.config.window;
        let mut at = 0;
        while let Some(listener) = self.listeners.get_mut(&id) {
            let Listener {
                holders,
                turn,
                returned,
                ..
            } = listener;
            let Some(waiting) = returned.get_mut(at) else { return };
            match Listener::choose(holders, turn, &self.members, window, now, &waiting.tried) {
                Some(slot) => {
                    let Some(waiting) = returned.remove(at) else { return };
                    self.offer(now, id, slot, waiting);
                }
                None => {
                    let open = || self.members.open(holders);
                    if waiting.tried.is_empty() || open().all(|holder| holder.room(window) == 0) {
                        return;
                    }
                    // While one was not asked it is waited for; when all were, they are asked again after a while. Node asks
                    // the same worker in a loop.
                    if open().all(|holder| waiting.tried.contains(&holder.id)) {
                        let retry = *waiting.retry.get_or_insert(now + self.config.retry);
                        self.arm(retry);
                    } else {
                        waiting.retry = None;
                    }
                    at += 1;
                }
            }
        }
    }

    fn offer_fresh(&mut self, now: Instant, id: ListenerId) {
        while let Some(listener) = self.listeners.get_mut(&id)
            && !listener.fresh.is_empty()
            && let Some(slot) = Listener::choose(
                &listener.holders,
                &mut listener.turn,
                &self.members,
                self.config.window,
                now,
                &[],
            )
            && let Some(conn) = listener.fresh.pop_front()
        {
            self.offer(now, id, slot, Waiting::new(conn));
        }
    }

    fn offer(&mut self, now: Instant, id: ListenerId, slot: super::member::Slot, waiting: Waiting) {
        let (Some(listener), Some(member)) = (self.listeners.get(&id), self.members.at_mut(slot)) else {
            return;
        };
        let (seq, worker, conn) = (member.next_seq(), member.id, waiting.conn);
        member.offers.push_back(Offer {
            seq,
            since: now,
            listener: id,
            waiting: Waiting { retry: None, ..waiting },
        });
        self.waiting -= 1;
        let message = Envelope {
            seq: Some(seq),
            message: ToWorker::NewConn {
                key: listener.key.clone(),
            },
        };
        self.actions.push_back(Action::Send {
            worker,
            message,
            handle: Handle::Conn(conn),
        });
        self.arm(now + self.config.late);
    }

    /// All have rejected these, some time ago: ask them again, unless somebody came since and was not asked yet.
    pub(super) fn retry(&mut self, now: Instant, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        let Listener { holders, returned, .. } = listener;
        let due = |waiting: &&mut Waiting| waiting.retry.is_some_and(|retry| retry <= now);
        let mut any = false;
        for waiting in returned.iter_mut().filter(due) {
            waiting.retry = None;
            if self
                .members
                .open(holders)
                .all(|holder| waiting.tried.contains(&holder.id))
            {
                waiting.tried.clear();
            }
            any = true;
        }
        if any {
            self.settle(now, id);
        }
    }

    /// A worker whose oldest offer is late is doubted; if another could have one of its late offers, they are asked back.
    pub(super) fn look_for_late(&mut self, now: Instant, worker: WorkerId) {
        let (late, window) = (self.config.late, self.config.window);
        let Some(member) = self.members.get(worker) else { return };
        if member.late_at(late).is_none_or(|at| now < at) {
            return;
        }
        let another_has_room = member
            .offers
            .iter()
            .take_while(|offer| offer.since + late <= now)
            .any(|offer| {
                let holders = self
                    .listeners
                    .get(&offer.listener)
                    .map_or(&[][..], |listener| &listener.holders);
                holders.iter().filter_map(|slot| self.members.at(*slot)).any(|other| {
                    other.id != worker
                        && other.doubt.is_none()
                        && other.load(window, now, &offer.waiting.tried).is_some()
                })
            });
        if another_has_room {
            self.actions.push_back(Action::Reclaim { worker });
        }
        if let Some(member) = self.members.get_mut(worker) {
            member.looked = Some(now);
            member.doubt = Some(Doubt::more(member.doubt, now, late));
        }
    }
}

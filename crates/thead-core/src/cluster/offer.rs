//! The way of a connection: accepted, offered, answered.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use thead_wire::cluster::{Envelope, ToWorker};

use super::listener::Listener;
use super::member::{Doubt, Offer, Waiting};
use super::schedule::Place;
use super::{Action, Event, Handle, LocalAddress, Primary, Scheduling};
use crate::id::{ConnId, ListenerId, WorkerId};

impl Primary {
    pub(super) fn accepted(&mut self, now: Instant, id: ListenerId, conn: ConnId, client: Option<IpAddr>) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return self.release(conn);
        };
        let client = client.filter(|_| self.config.scheduling == Scheduling::Sticky);
        if client.is_none() {
            listener.fresh.push_back(conn);
        } else {
            let waiting = Waiting {
                client,
                ..Waiting::new(conn)
            };
            self.park(id, waiting, VecDeque::push_back);
        }
        self.waiting += 1;
        self.settle(now, id);
        self.trim(now, id, conn);
    }

    pub(super) fn handed_back(&mut self, now: Instant, conn: ConnId, local: &LocalAddress, client: Option<IpAddr>) {
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
        let waiting = Waiting {
            idle: true,
            client: client.filter(|_| self.config.scheduling == Scheduling::Sticky),
            ..Waiting::new(conn)
        };
        self.park(id, waiting, VecDeque::push_back);
        self.waiting += 1;
        self.settle(now, id);
        self.trim(now, id, conn);
    }

    /// Keeps the limit on what waits here, at the cost of the one that just came.
    fn trim(&mut self, now: Instant, id: ListenerId, newest: ConnId) {
        let Some(listener) = self
            .listeners
            .get_mut(&id)
            .filter(|_| self.waiting > self.config.max_waiting)
        else {
            return;
        };
        let trimmed = if listener.fresh.back() == Some(&newest) {
            listener.fresh.pop_back().map(Waiting::new)
        } else if listener.returned.back().is_some_and(|waiting| waiting.conn == newest) {
            listener.returned.pop_back()
        } else {
            listener.parked.take_newest(newest)
        };
        let Some(waiting) = trimmed else { return };
        match self.members.next(&listener.holders, &mut listener.turn, &waiting.tried) {
            Some(place) => self.offer(now, id, place, waiting),
            None => {
                self.waiting -= 1;
                self.release(newest);
            }
        }
    }

    pub(super) fn answered(&mut self, now: Instant, worker: WorkerId, ack: u64, accepted: bool) {
        let Some(answered) = self.members.update(worker, |member| member.answered(ack)) else {
            return;
        };
        let Some(Offer {
            listener, mut waiting, ..
        }) = answered
        else {
            return self.ignore(worker, "an answer to no offer");
        };
        if accepted {
            if waiting.private {
                let conn = waiting.conn;
                self.emit(Event::Taken { worker, conn });
            }
            self.release(waiting.conn);
        } else {
            waiting.tried.push(worker);
            self.give_back(listener, waiting);
        }
        self.tell_if_answered(worker);
        if self.waiting > 0 {
            self.settle_all(now, worker);
            self.settle(now, listener);
        }
    }

    /// Some of the offers to a worker came back out of its socket, unread: others get them.
    pub(super) fn reclaimed(&mut self, now: Instant, worker: WorkerId, conns: &[ConnId]) {
        let Some(back) = self.members.update(worker, |member| member.take_back(conns)) else {
            return;
        };
        self.tell_if_answered(worker);
        let mut touched = Vec::with_capacity(back.len());
        for mut offer in back.into_iter().rev() {
            offer.waiting.tried.push(worker);
            touched.push(offer.listener);
            self.give_back(offer.listener, offer.waiting);
        }
        self.settle_each(now, touched);
        // It has room again, for what nobody else can have.
        self.settle_all(now, worker);
    }

    /// A connection that somebody had and did not take is the next to be offered, if its listener still is.
    pub(super) fn give_back(&mut self, id: ListenerId, waiting: Waiting) {
        if self.listeners.contains_key(&id) && !waiting.private {
            self.park(id, waiting, VecDeque::push_front);
            self.waiting += 1;
        } else {
            self.release(waiting.conn);
        }
    }

    pub(super) fn release(&mut self, conn: ConnId) {
        self.actions.push_back(Action::Release { conn });
    }

    /// Offers what waits at all listeners of this worker.
    pub(super) fn settle_all(&mut self, now: Instant, worker: WorkerId) {
        let Some(member) = self.members.get(worker) else { return };
        let listeners = member.keys.values().copied().collect();
        self.settle_each(now, listeners);
    }

    pub(super) fn settle_each(&mut self, now: Instant, mut listeners: Vec<ListenerId>) {
        listeners.sort_unstable();
        listeners.dedup();
        for listener in listeners {
            self.settle(now, listener);
        }
    }

    /// Offers what waits at this listener to those who have room, and gives up what nobody ever can take.
    pub(super) fn settle(&mut self, now: Instant, id: ListenerId) {
        self.divide(id);
        self.offer_returned(now, id);
        self.offer_parked(now, id);
        self.offer_fresh(now, id);
        self.finish_closing(id);
    }

    fn offer_returned(&mut self, now: Instant, id: ListenerId) {
        let mut at = 0;
        while let Some(listener) = self.listeners.get_mut(&id) {
            let Listener {
                holders,
                turn,
                returned,
                ..
            } = listener;
            let Some(waiting) = returned.get_mut(at) else { return };
            if let Some(place) = self.members.next(holders, turn, &waiting.tried) {
                let Some(waiting) = returned.remove(at) else { return };
                self.offer(now, id, place, waiting);
                continue;
            }
            if self.members.ready.room(holders) == 0 {
                return;
            }
            // While one was not asked it is waited for; when all were, they are asked again after a while. Node asks the same
            // worker in a loop.
            if !self
                .members
                .open(holders)
                .all(|holder| waiting.tried.contains(&holder.id))
            {
                waiting.retry = None;
            } else if waiting.retry.is_some_and(|retry| retry <= now) {
                waiting.tried.clear();
                if waiting.client.is_some()
                    && let Some(waiting) = returned.remove(at)
                {
                    self.park(id, waiting, VecDeque::push_back);
                }
                continue;
            } else {
                let retry = *waiting.retry.get_or_insert(now + self.config.retry);
                self.arm(retry);
            }
            at += 1;
        }
    }

    fn offer_fresh(&mut self, now: Instant, id: ListenerId) {
        while let Some(listener) = self.listeners.get_mut(&id)
            && !listener.fresh.is_empty()
            && let Some(place) = self.members.next(&listener.holders, &mut listener.turn, &[])
            && let Some(conn) = listener.fresh.pop_front()
        {
            self.offer(now, id, place, Waiting::new(conn));
        }
    }

    pub(super) fn offer(&mut self, now: Instant, id: ListenerId, place: Place, waiting: Waiting) {
        if self.hand(now, id, place, waiting) {
            self.waiting -= 1;
        }
    }

    /// Sends a connection to a worker; false if there is none in that place.
    pub(super) fn hand(&mut self, now: Instant, id: ListenerId, place: Place, waiting: Waiting) -> bool {
        let Some(listener) = self.listeners.get(&id) else {
            return false;
        };
        let (conn, idle) = (waiting.conn, waiting.idle);
        let offered = self.members.update_at(place, |member| {
            let seq = member.next_seq();
            let waiting = Waiting { retry: None, ..waiting };
            member.offers.push_back(Offer {
                seq,
                since: now,
                listener: id,
                waiting,
            });
            (member.id, seq)
        });
        let Some((worker, seq)) = offered else { return false };
        let message = Envelope {
            seq: Some(seq),
            message: ToWorker::NewConn {
                key: listener.key.clone(),
                idle,
            },
        };
        self.actions.push_back(Action::Send {
            worker,
            message,
            handle: Handle::Conn(conn),
        });
        self.arm(now + self.config.late);
        true
    }

    /// Asks again about what all have rejected some time ago.
    pub(super) fn retry(&mut self, now: Instant, id: ListenerId) {
        let is_due = |waiting: &Waiting| waiting.retry.is_some_and(|retry| retry <= now);
        if self
            .listeners
            .get(&id)
            .is_some_and(|listener| listener.returned.iter().any(is_due))
        {
            self.settle(now, id);
        }
    }

    /// A worker whose oldest offer is late is doubted; if another could have one of its late offers, they are asked back. One
    /// that is late beyond all patience is given up.
    pub(super) fn look_for_late(&mut self, now: Instant, worker: WorkerId) {
        let late = self.config.late;
        let Some(member) = self.members.get(worker) else { return };
        if member.late_at(late).is_none_or(|at| now < at) {
            return;
        }
        let members = &self.members;
        let late_ones = member.offers.iter().take_while(|offer| offer.since + late <= now);
        // What is for it alone has time: nobody else could have it.
        let mut are_late = late_ones.filter(|offer| !offer.waiting.private);
        // In sticky scheduling a connection waits for its worker.
        let may_go = self.config.scheduling != Scheduling::Sticky;
        let another_has_room = may_go
            && are_late.any(|offer| {
                let Some(listener) = self.listeners.get(&offer.listener) else {
                    return false;
                };
                members.open(&listener.holders).any(|other| {
                    let is_other = other.id != worker && !offer.waiting.tried.contains(&other.id);
                    is_other && other.doubt.is_none() && other.offers.len() < self.config.window
                })
            });
        let is_stuck = member
            .offers
            .front()
            .is_some_and(|offer| offer.since + self.config.stuck <= now);
        if is_stuck {
            self.actions.push_back(Action::Expel { worker });
        } else if another_has_room {
            self.actions.push_back(Action::Reclaim { worker });
        }
        self.members.update(worker, |member| {
            member.looked = Some(now);
            member.doubt = Some(Doubt::more(member.doubt, now, late));
        });
    }

    /// A worker that was suspended for its time is tried like any other.
    pub(super) fn end_suspension(&mut self, now: Instant, worker: WorkerId) {
        let ended = self.members.update(worker, |member| match &mut member.doubt {
            Some(Doubt { until, .. }) if until.is_some_and(|until| until <= now) => until.take().is_some(),
            _ => false,
        });
        if ended == Some(true) {
            self.settle_all(now, worker);
        }
    }
}

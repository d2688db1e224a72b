//! A cluster primary: who serves which listener, who gets the next connection, offers not answered.
//!
//! It speaks to unmodified Node workers as Node's own primary does (lib/internal/cluster/primary.js, round_robin_handle.js,
//! shared_handle.js; versions 18 to 26), and differs where that one loses connections:
//!
//! - **A connection belongs to somebody until it is surely taken.** A worker writes its answer to an offer before the
//!   application sees the connection, so one without an answer can be given to another: when the worker ends, says no, or is
//!   late and the offer can be taken back out of its socket. One that was answered by yes never is.
//! - **A queue has an owner.** Where workers accept by themselves from sockets of their own ([`Scheduling::Kernel`]), the primary
//!   accepts from those whose worker is not there, not ready or about to leave.
//! - **Connections are accepted when somebody can take them** ([`Primary::may_accept`]). The rest waits in the kernel's backlog,
//!   where it costs no descriptor and survives us.
//! - **A worker that shall leave gets nothing new**, from the moment that is decided and not from when it hears of it.
//! - **Listeners live as long as the service**, not as long as their workers.
//!
//! # When a listener ends
//!
//! A listener that nobody holds stays bound and lets its backlog wait, because a worker that held it may be about to be
//! replaced: it crashed, was told to leave, or leaves of its own will, which begins with a `close` for each of its keys and may
//! take as long as its slowest client before it says so. Only an application can mean that a listener should end, by
//! `server.close()` in workers that live on. So one is unbound when for [`Config::linger`] all of this was true, and on
//! [`Input::CloseListeners`]:
//!
//! - nobody holds it, and no worker came, went or was told to leave;
//! - no worker is leaving, and none is starting: all have had a listener;
//! - somebody could hold it and does not: a worker that closed it and is still here, or one that came after it was lost.
//!
//! # Limits
//!
//! [`MAX_KEYS`] listeners per worker, [`MAX_TWINS`] of them on one address, and [`MAX_LISTENERS`] in all; what is asked for
//! beyond is refused with `EMFILE`. In the last case listeners that nobody holds make room first, the youngest before the
//! others, so that a worker that makes and drops many loses its own. [`Config::window`] offers per worker, and
//! [`Config::max_waiting`] connections.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use thead_wire::cluster::{Envelope, FromWorker, ToWorker};

mod bind;
mod divide;
mod hold;
mod input;
mod listener;
mod member;
mod offer;
mod private;
mod schedule;

pub use bind::{BindSpec, Host};
pub use divide::sticky_slot;
pub use input::{Action, Config, Event, Handle, Input, LeaveBy, ListenAddress, LocalAddress, Scheduling};
pub use private::Private;

use crate::id::{ListenerId, WorkerId};
use crate::worker::Slot;
use listener::Listener;
use member::{Member, Members, Phase};

/// How many listeners one worker may hold or have asked for.
pub const MAX_KEYS: usize = 1_024;

/// How many listeners one worker may have on the same address; more than one takes sockets that can share it.
pub const MAX_TWINS: usize = 16;

/// How many listeners there may be, held, being bound or waiting for a worker.
pub const MAX_LISTENERS: usize = 4_096;

/// The most that [`Config::window`] can be.
pub const MAX_WINDOW: usize = 64;

/// The primary of one service, as a machine: inputs in, actions out, no socket and no clock.
///
/// After each [`input`](Self::input) and [`advance`](Self::advance), obey all that [`poll`](Self::poll) returns, in order.
#[derive(Debug)]
pub struct Primary {
    config: Config,
    members: Members,
    listeners: BTreeMap<ListenerId, Listener>,
    /// The listeners that can still be asked for.
    by_key: BTreeMap<Arc<str>, ListenerId>,
    /// Ticket keys and the like, by listener; they outlive it, so that TLS sessions survive the restart of all workers.
    data: BTreeMap<Arc<str>, Arc<Value>>,
    next_listener: u32,
    /// Connections in the queues of all listeners.
    waiting: usize,
    /// When a worker last came, went, was told to leave or got its first listener.
    changed: Option<Instant>,
    /// Nothing is due before. A lower bound: an answer that comes in time does not move it, so that answers stay cheap.
    tick: Option<Instant>,
    actions: VecDeque<Action>,
}

impl Primary {
    /// A primary without workers. Durations below a millisecond count as one, above a year as one.
    pub fn new(config: Config) -> Self {
        let sane = |time: Duration| time.clamp(Duration::from_millis(1), Duration::from_secs(365 * 86_400));
        let config = Config {
            window: config.window.clamp(1, MAX_WINDOW),
            late: sane(config.late),
            stuck: sane(config.stuck),
            retry: sane(config.retry),
            answer: sane(config.answer),
            linger: sane(config.linger),
            ..config
        };
        Self {
            members: Members::new(config.window),
            config,
            listeners: BTreeMap::new(),
            by_key: BTreeMap::new(),
            data: BTreeMap::new(),
            next_listener: 0,
            waiting: 0,
            changed: None,
            tick: None,
            actions: VecDeque::new(),
        }
    }

    /// Something happened. Anything may come at any time: what concerns an unknown worker, listener or connection is ignored,
    /// but a connection is always released if nobody can have it.
    pub fn input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Accepted { listener, conn, client } => self.accepted(now, listener, conn, client),
            Input::Message { worker, message } => self.message(now, worker, message),
            Input::Joined { worker, gated, slot } => self.joined(now, worker, gated, slot),
            Input::Bound { listener, bound } => self.bound(now, listener, bound),
            Input::HandedBack {
                conn, local, client, ..
            } => self.handed_back(now, conn, &local, client),
            Input::Private { worker, listener, conn } => self.hand_private(now, worker, listener, conn),
            Input::Open { worker } => self.open(now, worker),
            Input::Leave { worker, how } => self.leave(now, worker, how),
            Input::Gone { worker } => self.gone(now, worker),
            Input::Reclaimed { worker, conns } => self.reclaimed(now, worker, &conns),
            Input::CloseListeners => self.close_listeners(now),
        }
    }

    /// Time passed.
    pub fn advance(&mut self, now: Instant) {
        if self.tick.is_none_or(|tick| now < tick) {
            return;
        }
        for worker in self.members.ids() {
            self.look_for_late(now, worker);
            self.end_suspension(now, worker);
            match self.members.get(worker).map(|member| member.phase) {
                Some(Phase::Asked { how, by }) if by <= now => self.tell(worker, how),
                _ => {}
            }
        }
        for listener in self.listeners.keys().copied().collect::<Vec<_>>() {
            self.retry(now, listener);
        }
        self.unbind_unheld(now);
        self.tick = self.next_tick(now);
    }

    /// When [`Primary::advance`] is to be called at the latest; `None` while nothing can become due.
    pub fn deadline(&self) -> Option<Instant> {
        self.tick
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How many connections the driver may accept here now; the rest waits in the kernel's backlog. 0 for shared listeners,
    /// and when nobody can take one.
    pub fn may_accept(&self, listener: ListenerId) -> usize {
        let Some(listener) = self.listeners.get(&listener).filter(|listener| !listener.closing) else {
            return 0;
        };
        let room = self.members.ready.room(&listener.holders);
        match listener.scheduling {
            Scheduling::Shared => 0,
            Scheduling::RoundRobin | Scheduling::Kernel => room.saturating_sub(listener.waiting()),
            // Those that wait may all wait for the same worker, and whose the next one is can only be seen when it is accepted.
            Scheduling::Sticky => room,
        }
    }

    /// How many connections wait here for a worker, over all listeners; those in the kernel's backlog not counted.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn message(&mut self, now: Instant, worker: WorkerId, message: Envelope<FromWorker>) {
        let Envelope { seq, message } = message;
        if self.members.place(worker).is_none() {
            return;
        }
        match message {
            FromWorker::Accepted { ack, accepted } => self.answered(now, worker, ack, accepted),
            FromWorker::Online => {
                match self
                    .members
                    .update(worker, |member| std::mem::replace(&mut member.online, true))
                {
                    Some(false) => self.emit(Event::Online { worker }),
                    _ => self.ignore(worker, "a second online"),
                }
            }
            FromWorker::QueryServer(query) => {
                match self
                    .members
                    .update(worker, |member| (member.request(seq), member.is_leaving()))
                {
                    Some((Some(seq), false)) => self.query(now, worker, seq, &query),
                    Some((Some(_), true)) => self.ignore(worker, "a query of a worker that leaves"),
                    _ => self.ignore(worker, "a query whose number is not new"),
                }
            }
            FromWorker::Listening(query) => {
                let listener = self.listener_of(worker, &query);
                if let Some(id) = listener {
                    self.listens(now, id, worker);
                }
                self.emit(Event::Listening {
                    worker,
                    listener,
                    address: ListenAddress::from(&*query),
                });
            }
            FromWorker::Close { key } => self.close(now, worker, &key),
            FromWorker::ExitedAfterDisconnect => self.exits(now, worker, seq),
            FromWorker::Unknown { .. } => self.ignore(worker, "an unknown act"),
        }
    }

    fn joined(&mut self, now: Instant, worker: WorkerId, gated: bool, slot: Option<Slot>) {
        if self.members.place(worker).is_none() {
            let slot = slot.unwrap_or_else(|| self.members.free_slot());
            self.members.insert(Member::new(worker, slot, gated, now));
            self.changed(now);
        }
    }

    fn open(&mut self, now: Instant, worker: WorkerId) {
        self.members.update(worker, |member| {
            if member.phase == Phase::Gated {
                member.phase = Phase::Open;
            }
        });
        self.settle_all(now, worker);
    }

    fn leave(&mut self, now: Instant, worker: WorkerId, how: LeaveBy) {
        let by = now + self.config.answer;
        let is_news = self.members.update(worker, |member| match member.phase {
            Phase::Gated | Phase::Open => {
                member.phase = Phase::Asked { how, by };
                true
            }
            Phase::Asked { by, .. } => {
                member.phase = Phase::Asked { how, by };
                false
            }
            // It has been told, or leaves of itself. Node drops its last connections when told twice.
            Phase::Leaving => false,
        });
        if is_news == Some(true) {
            self.arm(by);
            self.changed(now);
            // Before it hears of it, so that no connection comes to it while it leaves.
            self.settle_all(now, worker);
            self.tell_if_answered(worker);
        }
    }

    /// Tells a worker that shall leave, if there is no answer to wait for.
    fn tell_if_answered(&mut self, worker: WorkerId) {
        if let Some(Member {
            phase: Phase::Asked { how, .. },
            offers,
            ..
        }) = self.members.get(worker)
            && offers.is_empty()
        {
            self.tell(worker, *how);
        }
    }

    /// Tells a worker to leave, which happens once: there is no way back from `Leaving`.
    fn tell(&mut self, worker: WorkerId, how: LeaveBy) {
        self.members.update(worker, |member| member.phase = Phase::Leaving);
        match how {
            LeaveBy::Disconnect => self.send(worker, ToWorker::Disconnect, Handle::None),
            LeaveBy::HandBack => self.actions.push_back(Action::HandBack { worker }),
            LeaveBy::Signal => {}
        }
    }

    /// It leaves of its own will, whoever began it. It waits for the acknowledgement, for ever if need be, and hears of no
    /// `disconnect` any more.
    fn exits(&mut self, now: Instant, worker: WorkerId, seq: Option<u64>) {
        let exits = self.members.update(worker, |member| {
            let ack = member.request(seq)?;
            let is_news = !member.is_leaving();
            member.phase = Phase::Leaving;
            Some((ack, is_news))
        });
        let Some(Some((ack, is_news))) = exits else {
            return self.ignore(worker, "an exitedAfterDisconnect whose number is not new");
        };
        self.send(worker, ToWorker::Ack { ack }, Handle::None);
        if is_news {
            self.emit(Event::Leaving { worker });
            self.changed(now);
        }
        self.settle_all(now, worker);
    }

    /// Its channel or its process ended: whatever it had not answered is offered to others, first and in order.
    fn gone(&mut self, now: Instant, worker: WorkerId) {
        let Some((place, mut member)) = self.members.remove(worker) else {
            return;
        };
        let mut touched: Vec<ListenerId> = member.keys.values().copied().collect();
        for listener in &touched {
            self.forget_holder(now, *listener, worker, place);
        }
        while let Some(offer) = member.offers.pop_back() {
            touched.push(offer.listener);
            self.give_back(offer.listener, offer.waiting);
        }
        self.emit(Event::Left {
            worker,
            voluntary: member.is_leaving(),
        });
        for listener in self.listeners.values_mut() {
            listener.closers.retain(|closer| *closer != worker);
        }
        self.changed(now);
        self.settle_each(now, touched);
    }

    fn send(&mut self, worker: WorkerId, message: ToWorker, handle: Handle) {
        if let Some(seq) = self.members.update(worker, Member::next_seq) {
            let message = Envelope {
                seq: Some(seq),
                message,
            };
            self.actions.push_back(Action::Send {
                worker,
                message,
                handle,
            });
        }
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Emit(event));
    }

    fn ignore(&mut self, worker: WorkerId, what: &'static str) {
        self.emit(Event::Ignored { worker, what });
    }

    fn changed(&mut self, now: Instant) {
        self.changed = Some(now);
        self.arm(now + self.config.linger);
    }

    fn arm(&mut self, at: Instant) {
        if self.tick.is_none_or(|tick| at < tick) {
            self.tick = Some(at);
        }
    }

    /// When the next thing is due, exactly.
    fn next_tick(&self, now: Instant) -> Option<Instant> {
        let members = self.members.iter().flat_map(|member| {
            let told = match member.phase {
                Phase::Asked { by, .. } => Some(by),
                Phase::Gated | Phase::Open | Phase::Leaving => None,
            };
            let suspended = member.doubt.and_then(|doubt| doubt.until);
            told.into_iter()
                .chain(suspended)
                .chain(member.late_at(self.config.late))
        });
        let listeners = self.listeners.values().flat_map(|listener| {
            // One that was due and found nobody with room is for whoever has some next.
            let retries = listener
                .returned
                .iter()
                .filter_map(|waiting| waiting.retry)
                .filter(|retry| *retry > now);
            retries.chain(self.unbind_at(listener))
        });
        members.chain(listeners).min()
    }
}

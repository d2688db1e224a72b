//! The way of a listener: asked for, bound, held, closed.

use std::sync::Arc;
use std::time::Instant;

use thead_wire::cluster::{Query, ToWorker};

use super::bind::{EMFILE, EPERM};
use super::listener::{Listener, State};
use super::schedule::Place;
use super::{
    Action, BindSpec, Event, Handle, ListenAddress, LocalAddress, MAX_KEYS, MAX_LISTENERS, MAX_TWINS, Primary,
    Scheduling, bind,
};
use crate::id::{ListenerId, WorkerId};

impl Primary {
    /// A worker wants a listener: it is answered exactly once, now or when the listener is bound.
    pub(super) fn query(&mut self, now: Instant, worker: WorkerId, seq: u64, query: &Query) {
        let Some(member) = self.members.get(worker) else { return };
        let identity = bind::key(query);
        // A second listen on the same address is a bind of its own: it fails as it should, or (UDP with reuse address) it
        // works and then needs another key, since Node dies of an assertion when it gets one that it holds. The second of each
        // worker is shared among them like the first.
        let twins = (2..=MAX_TWINS).map(|nth| format!("{identity}#{nth}"));
        let mut names = std::iter::once(identity.clone()).chain(twins);
        let name = names.find(|name| !member.keys.contains_key(name.as_str()));
        let key: Arc<str> = name.as_deref().unwrap_or(&identity).into();
        let spec = match BindSpec::of(query) {
            _ if name.is_none() || member.keys.len() >= MAX_KEYS => Err(EMFILE),
            spec => spec,
        };
        let spec = match spec {
            Ok(spec) => spec,
            Err(errno) => return self.refuse(worker, seq, key, query.into(), errno),
        };
        let id = match self.by_key.get(&key).copied() {
            Some(id) => id,
            None if self.make_room() => self.bind(key.clone(), query, spec),
            None => return self.refuse(worker, seq, key, query.into(), EMFILE),
        };
        if !query.data.is_null() {
            self.keep_data(&key, query);
        }
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        let is_bound = match &mut listener.state {
            State::Bound { .. } => true,
            State::Binding { queries } => {
                queries.push((worker, seq));
                false
            }
        };
        self.members.update(worker, |member| member.keys.insert(key, id));
        if is_bound {
            self.hold(now, id, worker, seq);
        }
    }

    fn bind(&mut self, key: Arc<str>, query: &Query, spec: BindSpec) -> ListenerId {
        let id = loop {
            let id = ListenerId(self.next_listener);
            self.next_listener = self.next_listener.wrapping_add(1);
            if !self.listeners.contains_key(&id) {
                break id;
            }
        };
        let scheduling = spec.scheduling(self.config.scheduling);
        self.by_key.insert(key.clone(), id);
        self.actions.push_back(Action::Bind {
            listener: id,
            spec: spec.clone(),
            scheduling,
        });
        self.listeners.insert(
            id,
            Listener::new(key, ListenAddress::from(query), query.index, spec, scheduling),
        );
        id
    }

    /// Whether there is room for one more listener, if need be instead of one that nobody holds.
    fn make_room(&mut self) -> bool {
        if self.listeners.len() < MAX_LISTENERS {
            return true;
        }
        let youngest = self
            .listeners
            .iter()
            .filter_map(|(id, listener)| Some((listener.unheld?, *id)))
            .max();
        youngest.is_some_and(|(_, id)| {
            self.unbind(id);
            self.finish_closing(id);
            !self.listeners.contains_key(&id)
        })
    }

    /// The first data of a listener is everybody's, for the life of the service.
    fn keep_data(&mut self, key: &Arc<str>, query: &Query) {
        if self.data.len() >= MAX_LISTENERS && !self.data.contains_key(key) {
            let by_key = &self.by_key;
            let forgotten = self.data.keys().find(|key| !by_key.contains_key(*key)).cloned();
            if let Some(forgotten) = forgotten {
                self.data.remove(&forgotten);
            }
        }
        self.data.entry(key.clone()).or_insert_with(|| query.data.clone());
    }

    pub(super) fn bound(&mut self, now: Instant, id: ListenerId, bound: Result<LocalAddress, i32>) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            // Given up while it was being bound.
            if bound.is_ok() {
                self.actions.push_back(Action::Unbind { listener: id });
            }
            return;
        };
        let State::Binding { queries } = &mut listener.state else {
            return;
        };
        let queries = std::mem::take(queries);
        match bound {
            Ok(local) => {
                listener.state = State::Bound { local };
                listener.unheld = Some(now);
                self.arm(now + self.config.linger);
                for (worker, seq) in queries {
                    self.hold(now, id, worker, seq);
                }
            }
            // The failure is these queries': the next may succeed.
            Err(errno) => {
                let errno = listener.spec.errno(errno);
                self.fail(id, queries, errno);
            }
        }
    }

    fn fail(&mut self, id: ListenerId, queries: Vec<(WorkerId, u64)>, errno: i32) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        self.by_key.remove(&listener.key);
        for (worker, seq) in queries {
            self.members.update(worker, |member| member.keys.remove(&listener.key));
            self.refuse(worker, seq, listener.key.clone(), listener.asked.clone(), errno);
        }
    }

    fn refuse(&mut self, worker: WorkerId, ack: u64, key: Arc<str>, address: ListenAddress, errno: i32) {
        self.send(worker, ToWorker::Refused { ack, key, errno }, Handle::None);
        self.emit(Event::ListenFailed { worker, address, errno });
    }

    /// The worker has the listener from here, and offers may follow the reply at once.
    fn hold(&mut self, now: Instant, id: ListenerId, worker: WorkerId, ack: u64) {
        let (Some(listener), Some(place)) = (self.listeners.get_mut(&id), self.members.place(worker)) else {
            return;
        };
        listener.holders.insert(place);
        listener.unheld = None;
        listener.closers.retain(|closer| *closer != worker);
        let key = listener.key.clone();
        let data = self.data.get(&key).cloned().unwrap_or_default();
        let (message, handle) = match listener.scheduling {
            Scheduling::Shared => (ToWorker::Shared { ack, key, data }, Handle::Listener(id)),
            Scheduling::Kernel => (ToWorker::Shared { ack, key, data }, Handle::Lane(id, place.lane())),
            Scheduling::RoundRobin | Scheduling::Sticky => {
                let sockname = listener.sockname();
                let message = ToWorker::RoundRobin {
                    ack,
                    key,
                    data,
                    sockname,
                };
                (message, Handle::None)
            }
        };
        self.send(worker, message, handle);
        let had_held = self
            .members
            .update(worker, |member| std::mem::replace(&mut member.has_held, true));
        if had_held == Some(false) {
            self.changed(now);
        }
        self.settle(now, id);
    }

    /// The worker has said that it listens, which proves that it accepts from what it was given.
    pub(super) fn listens(&mut self, now: Instant, id: ListenerId, worker: WorkerId) {
        if let (Some(listener), Some(place)) = (self.listeners.get_mut(&id), self.members.place(worker))
            && listener.holders.contains(place)
        {
            listener.listening.insert(place);
            self.settle(now, id);
        }
    }

    pub(super) fn close(&mut self, now: Instant, worker: WorkerId, key: &str) {
        let Some(place) = self.members.place(worker) else {
            return;
        };
        let held = self.members.at(place).and_then(|member| member.keys.get(key)).copied();
        // One that is being bound cannot be known by its key.
        let is_bound = |id: &ListenerId| {
            self.listeners
                .get(id)
                .is_some_and(|listener| listener.local().is_some())
        };
        let Some(id) = held.filter(is_bound) else {
            return self.ignore(worker, "a close of a key that it does not hold");
        };
        self.members.update_at(place, |member| member.keys.remove(key));
        self.forget_holder(now, id, worker, place);
        if let Some(listener) = self.listeners.get_mut(&id) {
            listener.closers.push(worker);
        }
        self.settle(now, id);
    }

    /// The worker neither holds this listener nor wants it.
    pub(super) fn forget_holder(&mut self, now: Instant, id: ListenerId, worker: WorkerId, place: Place) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        if let State::Binding { queries } = &mut listener.state {
            queries.retain(|(asker, _)| *asker != worker);
        }
        listener.forget_holder(place, now);
        if listener.unheld.is_some() {
            self.arm(now + self.config.linger);
        }
    }

    /// Which of the worker's listeners a `listening` is about: its port is the real one, so a query for port 0 is found by that.
    pub(super) fn listener_of(&self, worker: WorkerId, query: &Query) -> Option<ListenerId> {
        let keys = &self.members.get(worker)?.keys;
        if let Some(id) = keys.get(bind::key(query).as_str()) {
            return Some(*id);
        }
        keys.values().copied().find(|id| {
            self.listeners
                .get(id)
                .is_some_and(|listener| listener.is_meant_by(query))
        })
    }

    pub(super) fn close_listeners(&mut self, now: Instant) {
        for id in self.listeners.keys().copied().collect::<Vec<_>>() {
            match self.listeners.get_mut(&id).map(|listener| &mut listener.state) {
                Some(State::Binding { queries }) => {
                    let queries = std::mem::take(queries);
                    self.fail(id, queries, EPERM);
                }
                Some(State::Bound { .. }) => {
                    self.unbind(id);
                    self.settle(now, id);
                }
                None => {}
            }
        }
    }

    fn unbind(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.get_mut(&id)
            && !listener.closing
        {
            listener.closing = true;
            self.by_key.remove(&listener.key);
            self.actions.push_back(Action::Unbind { listener: id });
        }
    }

    /// Forgets an unbound listener as soon as nobody holds it. What waits there is released when nobody is left who could
    /// take it.
    pub(super) fn finish_closing(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(&id).filter(|listener| listener.closing) else {
            return;
        };
        let may_take = |place| self.members.at(place).is_some_and(|holder| !holder.is_leaving());
        if !listener.holders.iter().any(may_take) {
            let returned = listener.returned.drain(..).chain(listener.parked.take_all());
            let lost: Vec<_> = returned
                .map(|waiting| waiting.conn)
                .chain(listener.fresh.drain(..))
                .collect();
            self.waiting -= lost.len();
            for conn in lost {
                self.release(conn);
            }
        }
        if self
            .listeners
            .get(&id)
            .is_some_and(|listener| listener.holders.is_empty() && listener.waiting() == 0)
        {
            self.listeners.remove(&id);
        }
    }

    /// When this listener is to be unbound if nothing changes: the rule at the head of the module.
    pub(super) fn unbind_at(&self, listener: &Listener) -> Option<Instant> {
        let unheld = listener.unheld.filter(|_| !listener.closing)?;
        let is_quiet = self
            .members
            .iter()
            .all(|member| member.has_held && !member.is_leaving());
        let is_closed = self
            .members
            .iter()
            .any(|member| listener.closers.contains(&member.id) || member.joined > unheld);
        let since = self.changed.map_or(unheld, |changed| changed.max(unheld));
        (is_quiet && is_closed).then(|| since + self.config.linger)
    }

    pub(super) fn unbind_unheld(&mut self, now: Instant) {
        let due = self
            .listeners
            .iter()
            .filter(|(_, listener)| self.unbind_at(listener).is_some_and(|at| at <= now));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.unbind(id);
            self.settle(now, id);
        }
    }
}

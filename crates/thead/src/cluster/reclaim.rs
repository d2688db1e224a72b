//! Taking offers back from a worker that does not read: its event loop is blocked, and others are free.
//!
//! What lies unread in the worker's end of the channel was surely never seen by its program. A duplicate of that end,
//! fetched with `pidfd_getfd`, lets the primary read it in the worker's place. A read of the worker's that happens at the
//! same moment is no danger: the kernel gives each of us whole segments, and a segment that carries a descriptor is one
//! frame. Where the kernel does not permit it (ptrace rights), offers stay with the worker until it reads or dies.

use thead_core::cluster::Input;
use thead_core::id::{ConnId, WorkerId};

use super::{Primary, now};
use crate::channel::Handle;
use crate::sys;

impl Primary {
    pub(super) fn reclaim(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (Some(channel), Some((number, end))) = (&worker.channel, worker.end) else {
            return;
        };
        let reads = match sys::reclaim::reclaim(&*worker.pidfd, number, end) {
            Ok(reads) => reads,
            Err(error) => return tracing::debug!(worker = %id, %error, "unread offers stay with their worker"),
        };
        let bytes: Vec<u8> = reads.iter().flat_map(|read| &read.bytes).copied().collect();
        if bytes.is_empty() {
            return;
        }
        // Handles that the host program sent are no offers, and some are for this worker alone: they go to this worker again.
        let is_anybodys = |handle: &Handle| {
            self.conn_of(handle)
                .is_some_and(|conn| !self.private.contains_key(&conn))
        };
        let Some(handles) = channel.take_back(&bytes, is_anybodys) else {
            // The worker has half of a frame and we have the other: it cannot be mended.
            return channel.abort(None);
        };
        let conns: Vec<ConnId> = handles.iter().filter_map(|handle| self.conn_of(handle)).collect();
        self.machine.input(now(), Input::Reclaimed { worker: id, conns });
    }
}

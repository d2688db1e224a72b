//! Sending, and taking back what was sent.

use bytes::{Bytes, BytesMut};

use super::{Chunk, Dialect, Endpoint, HandleId, Handles, Held, InFlight, MAX_DESCRIPTORS, SendError, State};
use crate::frame::{FrameError, FrameReader, Serialization, write_frame};
use crate::message::{
    Cargo, HandleBody, HandleEnvelope, HandleKind, SocketList, handle_frame, socket_list_text, write_internal,
};

/// A frame without what marks its ends.
fn body_of(serialization: Serialization, frame: &[u8]) -> &[u8] {
    match serialization {
        Serialization::Json => frame.strip_suffix(b"\n").unwrap_or(frame),
        Serialization::Advanced => frame.get(4..).unwrap_or_default(),
    }
}

impl<H> Endpoint<H> {
    /// Sends a message of the user's, in the channel's serialization and without frame.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send(&mut self, body: &[u8]) -> Result<(), SendError> {
        let serialization = self.config.serialization;
        self.send_plain(body.len(), |out| write_frame(serialization, body, out))
    }

    /// Sends an internal message, given as JSON text.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub fn send_internal(&mut self, json: &[u8]) -> Result<(), SendError> {
        let serialization = self.config.serialization;
        let marked = self.config.dialect == Dialect::Bun;
        self.send_plain(json.len(), |out| write_internal(serialization, marked, json, out))
    }

    fn send_plain(&mut self, length: usize, write: impl FnOnce(&mut BytesMut)) -> Result<(), SendError> {
        self.admit(length)?;
        if self.held.is_empty() && self.may_send(0) {
            self.append(write);
        } else {
            let mut frame = BytesMut::new();
            write(&mut frame);
            self.queued += frame.len();
            self.held.push_back(Held::Plain(frame));
        }
        Ok(())
    }

    /// Sends a message of the user's with a handle.
    ///
    /// `dgram_type` is `udp4` or `udp6` for [`HandleKind::DgramSocket`].
    ///
    /// # Errors
    /// [`SendError`] and the handle; nothing was sent.
    pub fn send_handle(
        &mut self,
        body: &[u8],
        kind: HandleKind,
        dgram_type: Option<&'static str>,
        handle: H,
    ) -> Result<HandleId, (SendError, H)> {
        let cargo = Cargo::Handle(kind, dgram_type);
        self.send_one(cargo, HandleBody::User(body), handle)
    }

    /// As [`send_handle`](Self::send_handle), a [`HandleKind::Socket`] that the peer is to count under `key` as long as it has
    /// it open. Of keys beyond 4000 bytes thead takes no notice.
    ///
    /// # Errors
    /// As [`send_handle`](Self::send_handle).
    pub fn send_counted(&mut self, body: &[u8], key: &str, handle: H) -> Result<HandleId, (SendError, H)> {
        self.send_one(Cargo::Counted(key), HandleBody::User(body), handle)
    }

    /// Asks how many sockets with this key the peer has open. [`Event::SocketCount`](super::Event::SocketCount) is the answer, if it ever got one.
    ///
    /// # Errors
    /// [`SendError`]; nothing was asked.
    pub fn ask_count(&mut self, key: &str) -> Result<(), SendError> {
        self.send_internal(&socket_list_text(SocketList::GetCount, key))
    }

    /// Asks to be told when the peer has no socket with this key open: [`Event::SocketsClosed`](super::Event::SocketsClosed).
    ///
    /// # Errors
    /// As [`ask_count`](Self::ask_count).
    pub fn ask_closed(&mut self, key: &str) -> Result<(), SendError> {
        self.send_internal(&socket_list_text(SocketList::NotifyClose, key))
    }

    /// Sends an internal message, given as JSON text, with a handle.
    ///
    /// # Errors
    /// [`SendError`] and the handle; nothing was sent.
    pub fn send_internal_handle(
        &mut self,
        json: &[u8],
        kind: HandleKind,
        handle: H,
    ) -> Result<HandleId, (SendError, H)> {
        self.send_one(Cargo::Handle(kind, None), HandleBody::Internal(json), handle)
    }

    /// Sends a message of the user's with descriptors of any kind, to a thead peer.
    ///
    /// # Errors
    /// [`SendError`] and the descriptors; nothing was sent.
    pub fn send_descriptors(&mut self, body: &[u8], handles: Vec<H>) -> Result<HandleId, (SendError, Vec<H>)> {
        if self.is_thead() != Some(true) && self.state == State::Open {
            return Err((SendError::NotThead, handles));
        }
        if !(1..=MAX_DESCRIPTORS).contains(&handles.len()) {
            return Err((SendError::Descriptors(handles.len()), handles));
        }
        match self.envelope(Cargo::Descriptors(handles.len()), HandleBody::User(body)) {
            Ok(frame) => Ok(self.send_handles(frame, Handles::Many(handles))),
            Err(error) => Err((error, handles)),
        }
    }

    fn send_one(&mut self, cargo: Cargo<'_>, body: HandleBody<'_>, handle: H) -> Result<HandleId, (SendError, H)> {
        match self.envelope(cargo, body) {
            Ok(frame) => Ok(self.send_handles(frame, Handles::One(handle))),
            Err(error) => Err((error, handle)),
        }
    }

    fn envelope(&self, cargo: Cargo<'_>, body: HandleBody<'_>) -> Result<Bytes, SendError> {
        let (HandleBody::User(text) | HandleBody::Internal(text)) = body;
        self.admit(text.len())?;
        Ok(handle_frame(self.config.serialization, HandleEnvelope { cargo, body })?)
    }

    fn send_handles(&mut self, frame: Bytes, handles: Handles<H>) -> HandleId {
        let id = HandleId(self.next_handle);
        self.next_handle += 1;
        self.queued += frame.len();
        if self.held.is_empty() && self.may_send(handles.as_slice().len()) {
            self.append_handle(id, InFlight::first(handles, frame));
        } else {
            self.held.push_back(Held::Handle(id, frame, handles));
        }
        id
    }

    fn admit(&self, length: usize) -> Result<(), SendError> {
        let (queued, limit) = (self.queued(), self.config.queue_limit);
        match self.state {
            State::Open if queued == 0 || queued + length <= limit => Ok(()),
            State::Open => Err(SendError::Full { queued, limit }),
            State::Closing | State::Closed => Err(SendError::Closed),
        }
    }

    /// Undoes the sending of what the peer has not read: `bytes` are what was taken back out of its socket, whole frames.
    ///
    /// Handles among them that are `wanted` come back, oldest first, and are forgotten here. All else is sent again.
    ///
    /// # Errors
    /// The bytes do not begin and end with a frame: the peer has read part of one, and its channel has a hole now. End
    /// the channel; nothing was taken back, so that its end tells of every handle.
    pub fn take_back(&mut self, bytes: &[u8], wanted: impl Fn(&H) -> bool) -> Result<Vec<(HandleId, H)>, FrameError> {
        let serialization = self.config.serialization;
        let mut reader = FrameReader::new(serialization, usize::MAX);
        reader.push(bytes);
        let mut unread = Vec::new();
        while let Some(body) = reader.next_frame()? {
            unread.push((body, None));
        }
        if reader.is_mid_frame() {
            return Err(FrameError::Cut);
        }
        // A peer reads in order: of equal frames that were written, the newest are unread.
        let waiting = self.out.iter().filter(|chunk| matches!(chunk, Chunk::Handle(..)));
        let mut before = self.in_flight.len().saturating_sub(waiting.count());
        for (body, found) in unread.iter_mut().rev() {
            let same = |(_, sent): &(HandleId, InFlight<H>)| body_of(serialization, &sent.frame) == body;
            *found = self.in_flight.range(..before).rposition(same);
            before = found.unwrap_or(before);
        }
        let (mut taken, mut removed) = (Vec::new(), 0);
        for (body, found) in unread {
            let Some((id, sent)) = found.and_then(|at: usize| self.in_flight.remove(at - removed)) else {
                self.append(|out| write_frame(serialization, &body, out));
                continue;
            };
            removed += 1;
            match sent.handles {
                Handles::One(handle) if wanted(&handle) => taken.push((id, handle)),
                handles => {
                    self.queued += sent.frame.len();
                    self.append_handle(id, InFlight { handles, ..sent });
                }
            }
        }
        self.release_held();
        Ok(taken)
    }
}

//! The handle protocol, against a peer that does what it likes: every descriptor is somewhere, once.
//!
//! An input is a script: which channel, then what happens, one byte each and what it needs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use thead_wire::endpoint::{Config, HandleId};
use thead_wire::{Dialect, Endpoint, Event, HandleKind, Serialization, v8};

/// A descriptor. It cannot be copied, and who drops it is seen.
#[derive(Debug)]
struct Token {
    number: u32,
    alive: Rc<RefCell<BTreeSet<u32>>>,
}

impl Drop for Token {
    fn drop(&mut self) {
        assert!(self.alive.borrow_mut().remove(&self.number), "closed twice");
    }
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Channel {
    serialization: Serialization,
    end: Endpoint<Token>,
    alive: Rc<RefCell<BTreeSet<u32>>>,
    tokens: u32,
    /// What the peer has written and we have not read: bytes, and where in them descriptors come.
    incoming: VecDeque<(u8, u8)>,
    /// The descriptors that we sent with a message and that have not come back, and how often the peer was given them.
    sent: BTreeMap<HandleId, (Vec<u32>, u32)>,
    /// The newest descriptor that came out by an event.
    last_received: Option<u32>,
    /// What was written last, for taking it back.
    written: Vec<u8>,
    /// How often something was taken back.
    taken_back: u32,
    closed: bool,
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script(data);
    let Some(which) = script.byte() else { return };
    let serialization = match which & 1 {
        0 => Serialization::Json,
        _ => Serialization::Advanced,
    };
    let dialect = match which >> 1 & 3 {
        0 => Dialect::Careful,
        1 => Dialect::Thead,
        2 => Dialect::Pipelined,
        _ => Dialect::Bun,
    };
    let mut channel = Channel {
        serialization,
        end: Endpoint::new(Config {
            serialization,
            dialect,
            frame_limit: 4_096,
            queue_limit: 8_192,
        }),
        alive: Rc::default(),
        tokens: 0,
        incoming: VecDeque::new(),
        sent: BTreeMap::new(),
        last_received: None,
        written: Vec::new(),
        taken_back: 0,
        closed: false,
    };
    while let Some(what) = script.byte() {
        channel.step(what, &mut script);
        channel.drain();
    }
    channel.finish();
}

impl Channel {
    fn step(&mut self, what: u8, script: &mut Script<'_>) {
        let n = usize::from(what >> 4);
        match what & 15 {
            0 => {
                let raw = script.bytes(4 * n + 1).to_vec();
                self.comes(&raw, usize::from(n == 7));
            }
            kind @ 1..=7 => {
                let bytes = self.peers(kind, n);
                // A peer's handle message nearly always has its descriptor, a plain one nearly never.
                let descriptors = if kind == 7 {
                    n.saturating_sub(7)
                } else {
                    usize::from(kind == 2 || kind == 5)
                };
                self.comes(&bytes, if n == 9 { 1 - descriptors.min(1) } else { descriptors });
            }
            8 | 9 => self.receive(1 << (n / 2)),
            10 => {
                let body = self.body("1");
                let _refused = self.end.send(&body);
            }
            11 if n > 12 => self.send_descriptors(n - 12),
            11 => self.send_handle(n),
            12 | 13 => self.transmit(if n == 0 { usize::MAX } else { 3 * n }),
            14 if n < 4 => self.take_back(n % 2 == 1),
            14 => {
                let json = br#"{"cmd":"NODE_CLUSTER","act":"x"}"#;
                let _refused = self.end.send_internal(json);
            }
            _ if n == 0 => self.end.end(),
            _ if n == 1 => self.end.disconnect(),
            _ => self.receive(usize::MAX),
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.alive.borrow_mut().insert(self.tokens);
        Token {
            number: self.tokens,
            alive: Rc::clone(&self.alive),
        }
    }

    /// JSON text in the channel's serialization.
    fn body(&self, json: &str) -> Bytes {
        match self.serialization {
            Serialization::Json => Bytes::copy_from_slice(json.as_bytes()),
            Serialization::Advanced => {
                let value: serde_json::Value = serde_json::from_str(json).unwrap();
                v8::write(&v8::Document::from_json(&value)).unwrap()
            }
        }
    }

    /// A frame that a peer may send.
    fn peers(&self, kind: u8, n: usize) -> Vec<u8> {
        let json = match kind {
            1 => format!("{{\"n\":{n}}}"),
            2 => format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{n}}}"),
            3 => r#"{"cmd":"NODE_HANDLE_ACK"}"#.into(),
            4 => r#"{"cmd":"NODE_HANDLE_NACK"}"#.into(),
            5 => r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"cmd":"NODE_CLUSTER"},"key":"k"}}"#.into(),
            6 if n % 2 == 1 => format!("{{\"cmd\":\"NODE_SOCKET_COUNT\",\"key\":\"k\",\"count\":{n}}}"),
            6 => r#"{"cmd":"NODE_SOCKET_GET_COUNT","key":"k"}"#.into(),
            7 if n > 7 => format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"thead.Descriptors\",\"msg\":1,\"count\":{}}}", n - 7),
            _ => r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#.into(),
        };
        let body = self.body(&json);
        match self.serialization {
            Serialization::Json => [&body[..], b"\n"].concat(),
            Serialization::Advanced => [&(body.len() as u32).to_be_bytes()[..], &body].concat(),
        }
    }

    /// The peer writes; so many descriptors go with the first byte.
    fn comes(&mut self, bytes: &[u8], descriptors: usize) {
        let first = self.incoming.len();
        self.incoming.extend(bytes.iter().map(|byte| (*byte, 0)));
        if let Some((_, count)) = self.incoming.get_mut(first) {
            *count = descriptors as u8;
        }
    }

    /// A read of ours.
    fn receive(&mut self, len: usize) {
        let len = len.min(self.incoming.len());
        let (bytes, counts): (Vec<u8>, Vec<u8>) = self.incoming.drain(..len).unzip();
        let count = counts.into_iter().map(u32::from).sum();
        let tokens: Vec<Token> = (0..count).map(|_| self.token()).collect();
        let failed = self.end.receive(&bytes, tokens).is_err();
        assert!(!failed || self.end.is_closed());
    }

    fn send_handle(&mut self, n: usize) {
        let token = self.token();
        let number = token.number;
        let kind = match n % 3 {
            0 => HandleKind::Native,
            1 => HandleKind::Socket,
            _ => HandleKind::DgramSocket,
        };
        let dgram_type = (kind == HandleKind::DgramSocket).then_some("udp4");
        let result = if n == 1 {
            let body = self.body("1");
            self.end.send_counted(&body, "k", token)
        } else if n < 8 {
            let body = self.body(&n.to_string());
            self.end.send_handle(&body, kind, dgram_type, token)
        } else {
            let json = br#"{"cmd":"NODE_CLUSTER","act":"newconn"}"#;
            self.end.send_internal_handle(json, kind, token)
        };
        match result {
            Ok(id) => assert!(self.sent.insert(id, (vec![number], 0)).is_none(), "an id twice"),
            Err((_, token)) => assert_eq!(token.number, number, "what is refused is given back"),
        }
    }

    fn send_descriptors(&mut self, count: usize) {
        let tokens: Vec<Token> = (0..count).map(|_| self.token()).collect();
        let numbers = numbers(&tokens);
        let body = self.body("2");
        match self.end.send_descriptors(&body, tokens) {
            Ok(id) => assert!(self.sent.insert(id, (numbers, 0)).is_none(), "an id twice"),
            Err((_, tokens)) => assert_eq!(self::numbers(&tokens), numbers, "what is refused is given back"),
        }
    }

    fn transmit(&mut self, len: usize) {
        let Some(transmit) = self.end.poll_transmit() else {
            return;
        };
        assert!(!transmit.bytes.is_empty(), "nothing to write, for ever");
        if !transmit.handles.is_empty() {
            let numbers = numbers(transmit.handles);
            let sent = self.sent.values_mut().find(|(sent, _)| *sent == numbers);
            assert!(sent.is_some(), "only what was sent goes out");
            let (_, times) = sent.unwrap();
            *times += 1;
            // What is taken back out of the peer's socket it has not got.
            assert!(*times <= 4 + self.taken_back, "once, and three times again");
        }
        let len = len.min(transmit.bytes.len());
        self.written.extend_from_slice(&transmit.bytes[..len]);
        self.end.transmitted(len);
    }

    /// What was written since the last time is taken out of the peer's socket.
    fn take_back(&mut self, all: bool) {
        let written = std::mem::take(&mut self.written);
        let Ok(taken) = self.end.take_back(&written, |token| all || token.number % 2 == 0) else {
            // The owner of the endpoint ends the channel then.
            return self.end.end();
        };
        self.taken_back += 1;
        for (id, token) in taken {
            self.is_back(id, &[token]);
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.end.poll_event() {
            assert!(!self.closed, "nothing follows the end");
            match event {
                Event::Acked(id, token) | Event::Lost(id, token) => {
                    self.is_back(id, &[token]);
                }
                Event::DescriptorsAcked(id, tokens) | Event::DescriptorsLost(id, tokens) => self.is_back(id, &tokens),
                Event::Descriptors(_, tokens) => self.has_come(&tokens),
                Event::Message(_, Some(received)) | Event::Internal(_, Some(received)) => {
                    self.has_come(&[received.handle]);
                }
                Event::Closed { .. } => self.closed = true,
                _ => {}
            }
        }
        assert_eq!(self.closed, self.end.is_closed());
    }

    fn is_back(&mut self, id: HandleId, tokens: &[Token]) {
        let sent = self.sent.remove(&id).map(|(numbers, _)| numbers);
        assert_eq!(sent, Some(numbers(tokens)), "each comes back once, and as itself");
    }

    fn has_come(&mut self, tokens: &[Token]) {
        for number in numbers(tokens).into_iter().map(Some) {
            assert!(number > self.last_received, "in the order in which they came");
            self.last_received = number;
        }
    }

    /// All that waits is written and read, and then the channel ends.
    fn finish(mut self) {
        for _ in 0..10_000 {
            if self.end.poll_transmit().is_none() {
                break;
            }
            self.transmit(usize::MAX);
            self.drain();
        }
        self.receive(usize::MAX);
        self.drain();
        self.end.end();
        self.drain();
        assert!(self.closed, "the end is told");
        assert!(self.sent.is_empty(), "what was sent has come back: {:?}", self.sent);
        assert_eq!(self.end.queued(), 0);
        assert!(self.end.poll_transmit().is_none());
        drop(self.end);
        assert!(self.alive.borrow().is_empty(), "what was not handed on is closed");
    }
}

fn numbers(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.number).collect()
}

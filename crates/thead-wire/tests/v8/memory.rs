//! What hostile payloads can make the reader allocate.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;

use thead_wire::{Endpoint, Event, Serialization, endpoint::Config};

use crate::kit::read_default;

/// Counts what this thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: memory comes from and goes to the system's allocator unchanged; what is added is two numbers of the thread,
// which need neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.get().wrapping_add(layout.size());
        HELD.set(held);
        MOST.set(MOST.get().max(held));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // Memory may come from another thread, so this may be "below zero" for a while.
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes held while reading, beyond those held before.
fn cost_of_reading(payload: &Bytes) -> usize {
    cost_of(|| drop(read_default(payload)))
}

fn cost_of(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    work();
    MOST.get() - before
}

fn many(head: &[u8], item: &[u8], count: usize) -> Bytes {
    [b"\xff\x0f", head, &item.repeat(count)].concat().into()
}

#[test]
fn a_count_without_what_it_counts_allocates_nothing() {
    let heads: [&[u8]; 10] = [
        b"A\xff\xff\xff\xff\x07",
        b"a\xff\xff\xff\xff\x07",
        b"\"\xff\xff\xff\xff\x07",
        b"c\xfe\xff\xff\xff\x07",
        b"S\xff\xff\xff\xff\x07",
        b"Z\xfe\xff\xff\xff\x07",
        b"B\xff\xff\xff\xff\x07",
        b"~\xff\xff\xff\xff\x07\xff\xff\xff\xff\x07",
        b"\\\x00\x0a\xff\xff\xff\xff\x07",
        b"o{\xff\xff\xff\xff\x07",
    ];
    for head in heads {
        let cost = cost_of_reading(&many(head, b"", 1));
        assert!(cost < 4_096, "{cost} bytes for {head:?}");
    }
}

/// [`thead_wire::v8::Limits`] says 100.
#[test]
fn reading_costs_at_most_100_bytes_for_each_byte_read() {
    // A little more than a power of two, where growing wastes most.
    const COUNT: usize = 16_400;
    // The same as a varint.
    const N: &[u8] = b"\x90\x80\x01";
    let items: [&[u8]; 12] = [
        b"0",
        b"x",
        b"\"\x00",
        b"o{\x00",
        b"';\x3a\x00,\x01",
        b"A\x00$\x00\x00",
        b"r.",
        b"\\\x000\x00",
        b"B\x00",
        b"I\x00",
        b"Z\x00",
        b"^\x00",
    ];
    for item in items {
        let payloads = [
            many(&[b"A", N].concat(), item, COUNT),
            // Not closed: refused at the end, with all of it in hand.
            many(b"'", item, COUNT),
            many(b";", item, COUNT),
        ];
        for payload in payloads {
            let cost = cost_of_reading(&payload);
            assert!(
                cost <= 100 * payload.len() + 4_096,
                "{} per byte of {item:?}",
                cost / payload.len()
            );
        }
    }
}

#[test]
fn a_real_message_costs_little() {
    let message = serde_json::json!({ "cmd": "NODE_CLUSTER", "act": "online", "seq": 0 });
    let payload = thead_wire::v8::write(&thead_wire::v8::Document::from_json(&message)).unwrap();
    let cost = cost_of_reading(&payload);
    assert!(cost < 2_048, "{cost}");
}

/// What the endpoint made of one payload, and the most bytes that it held meanwhile besides two copies of it: the one in
/// its buffer, and the one that it hands out.
fn classified(payload: &Bytes) -> (Event<()>, usize) {
    let mut end = Endpoint::new(Config {
        serialization: Serialization::Advanced,
        ..Config::default()
    });
    let frame = [&u32::try_from(payload.len()).unwrap().to_be_bytes(), &payload[..]].concat();
    let cost = cost_of(|| end.receive(&frame, [()]).unwrap());
    (end.poll_event().unwrap(), cost.saturating_sub(2 * frame.len()))
}

#[test]
fn finding_out_what_a_message_is_costs_a_peers_parent_little_however_it_is_made() {
    const LIMIT: usize = 16 << 20;
    // A million values each: whole, they would take 50 to 150 MB.
    let costly: [&[u8]; 3] = [b"y", b"I\x02", b"D\0\0\0\0\0\0\0\0"];
    for item in costly {
        let values = [b"A\xc0\x84\x3d", &item.repeat(1_000_000)[..], b"$\0\xc0\x84\x3d"].concat();
        let mention = [b"\xff\x0fo\"\x01x\"\x08NODE_ENV\"\x01y", &values[..], b"{\x02"].concat();
        let (event, cost) = classified(&mention.into());
        assert!(
            matches!(event, Event::Message(_, None)),
            "a user's message that mentions NODE_"
        );
        assert!(cost < LIMIT, "{cost} bytes for {item:?}");
        for cmd in ["NODE_HANDLE", "NODE_CLUSTER"] {
            let head = format!("o\"\x03cmd\"{}{cmd}\"\x03msg", char::from(cmd.len() as u8));
            let internal = [b"\xff\x0f", head.as_bytes(), &values, b"{\x02"].concat();
            let (event, cost) = classified(&internal.into());
            assert!(matches!(event, Event::Bad(_)), "{event:?}");
            assert!(cost < LIMIT, "{cost} bytes for {cmd} with {item:?}");
        }
    }
}

#[test]
fn a_short_internal_message_that_would_be_long_as_json_is_refused() {
    // A sparse array of a million holes.
    let holes = b"\xff\x0fo\"\x03cmd\"\x0cNODE_CLUSTER\"\x01xa\xc0\x84\x3d@\0\xc0\x84\x3d{\x02";
    let (event, cost) = classified(&Bytes::from_static(holes));
    assert!(matches!(event, Event::Bad(_)), "{event:?}");
    assert!(cost < 1 << 20, "{cost} bytes");
}

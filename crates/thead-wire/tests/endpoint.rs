//! An endpoint against scripted peers: order, handles, acknowledgements, the end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use thead_wire::endpoint::{Config, ProtocolError, ReceivedHandle, SendError};
use thead_wire::{Dialect, Endpoint, Event, HandleKind, Serialization};

type End = Endpoint<u32>;

fn end(dialect: Dialect) -> End {
    Endpoint::new(Config {
        dialect,
        ..Config::default()
    })
}

fn events(end: &mut End) -> Vec<Event<u32>> {
    std::iter::from_fn(|| end.poll_event()).collect()
}

/// Writes all that waits, one call per chunk: the bytes and the handle of each.
fn written(end: &mut End) -> Vec<(String, Option<u32>)> {
    std::iter::from_fn(|| {
        let transmit = end.poll_transmit()?;
        let got = (
            String::from_utf8(transmit.bytes.to_vec()).unwrap(),
            transmit.handles.first().copied(),
        );
        let n = transmit.bytes.len();
        end.transmitted(n);
        Some(got)
    })
    .collect()
}

fn message(text: &'static str) -> Event<u32> {
    Event::Message(Bytes::from_static(text.as_bytes()), None)
}

fn with_handle(text: &'static str, handle: u32) -> Event<u32> {
    let received = ReceivedHandle {
        kind: Ok(HandleKind::Native),
        handle,
        key: None,
    };
    Event::Message(Bytes::from_static(text.as_bytes()), Some(received))
}

const ACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n";
const NACK: &[u8] = b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n";
const NATIVE: &str = "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":1}\n";

#[test]
fn plain_handle_plain_in_one_read_gives_the_handle_to_its_message() {
    let mut end = end(Dialect::Careful);
    let stream = format!("0\n{NATIVE}2\n");
    end.receive(stream.as_bytes(), [7]).unwrap();
    assert_eq!(events(&mut end), [message("0"), with_handle("1", 7), message("2")]);
    assert_eq!(
        written(&mut end),
        [(String::from_utf8_lossy(ACK).into_owned(), None)],
        "exactly one answer"
    );
}

#[test]
fn every_split_of_a_handle_message_gives_the_same_events() {
    let stream = format!("0\n{NATIVE}2\n");
    for split in 0..=stream.len() {
        // The kernel delivers the descriptor with the first byte of its frame, or with what came before it.
        for fd_with_first in [true, false] {
            let mut end = end(Dialect::Careful);
            let (first, second) = stream.as_bytes().split_at(split);
            if !fd_with_first && split > NATIVE.len() + 1 {
                continue;
            }
            end.receive(first, fd_with_first.then_some(7)).unwrap();
            end.receive(second, (!fd_with_first).then_some(7)).unwrap();
            assert_eq!(
                events(&mut end),
                [message("0"), with_handle("1", 7), message("2")],
                "split at {split}"
            );
        }
    }
}

#[test]
fn a_handle_message_without_descriptor_is_refused_and_nothing_else_happens() {
    let mut end = end(Dialect::Careful);
    end.receive(NATIVE.as_bytes(), []).unwrap();
    assert_eq!(events(&mut end), []);
    assert_eq!(written(&mut end), [(String::from_utf8_lossy(NACK).into_owned(), None)]);
}

#[test]
fn a_message_that_node_repeats_after_a_nack_is_unwrapped_and_acknowledged_once() {
    let mut end = end(Dialect::Careful);
    let repeated = br#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"k":1},"key":"4:127.0.0.1:1"}}"#;
    end.receive(repeated, [7]).unwrap();
    end.receive(b"\n", []).unwrap();
    let handle = ReceivedHandle {
        kind: Ok(HandleKind::Socket),
        handle: 7,
        key: Some("4:127.0.0.1:1".into()),
    };
    assert_eq!(
        events(&mut end),
        [Event::Message(Bytes::from_static(b"{\"k\":1}"), Some(handle))]
    );
    assert_eq!(written(&mut end).len(), 1);
}

#[test]
fn a_handle_of_unknown_kind_is_acknowledged_and_given_with_its_name() {
    let mut end = end(Dialect::Careful);
    end.receive(b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Odd\",\"msg\":1}\n", [7])
        .unwrap();
    assert!(matches!(&events(&mut end)[..],
        [Event::Message(_, Some(ReceivedHandle { kind: Err(name), handle: 7, .. }))] if name == "net.Odd"));
}

#[test]
fn towards_an_unknown_peer_nothing_follows_a_handle_before_its_ack() {
    let mut end = end(Dialect::Careful);
    end.send(b"0").unwrap();
    let first = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    end.send(b"2").unwrap();
    let second = end.send_handle(b"3", HandleKind::Native, None, 8).unwrap();
    end.send(b"4").unwrap();
    let got = written(&mut end);
    assert_eq!(got, [("0\n".into(), None), (NATIVE.into(), Some(7))]);
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(first, 7)]);
    let got = written(&mut end);
    assert_eq!(got, [("2\n".into(), None), (NATIVE.replace('1', "3"), Some(8))]);
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(second, 8)]);
    assert_eq!(written(&mut end), [("4\n".into(), None)]);
    assert_eq!(end.queued(), 0);
}

#[test]
fn acknowledgements_of_our_own_pass_by_what_waits() {
    let mut end = end(Dialect::Careful);
    end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    end.send(b"2").unwrap();
    written(&mut end);
    end.receive(NATIVE.as_bytes(), [9]).unwrap();
    assert_eq!(written(&mut end), [(String::from_utf8_lossy(ACK).into_owned(), None)]);
}

#[test]
fn towards_node_sixty_four_handles_and_all_messages_go_without_waiting() {
    let mut end = end(Dialect::Pipelined);
    for n in 0..70 {
        end.send_handle(b"1", HandleKind::Native, None, n).unwrap();
    }
    end.send(b"last").unwrap();
    let got = written(&mut end);
    assert_eq!(
        got.iter().filter_map(|(_, handle)| *handle).collect::<Vec<_>>(),
        (0..64).collect::<Vec<_>>()
    );
    assert_eq!(
        got.len(),
        64,
        "order is kept: the message waits behind the handles that wait"
    );
    for _ in 0..6 {
        end.receive(ACK, []).unwrap();
    }
    let got = written(&mut end);
    assert_eq!(got.len(), 7);
    assert_eq!(got.last().unwrap().0, "last\n");
}

#[test]
fn a_descriptor_goes_with_the_first_byte_of_its_frame_and_never_twice() {
    let mut end = end(Dialect::Pipelined);
    end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    for n in 0..NATIVE.len() {
        let transmit = end.poll_transmit().unwrap();
        assert_eq!(transmit.handles.first().copied(), (n == 0).then_some(7));
        assert_eq!(transmit.bytes, &NATIVE.as_bytes()[n..]);
        end.transmitted(1);
    }
    assert!(end.poll_transmit().is_none());
}

#[test]
fn after_a_nack_the_identical_bytes_go_again_and_after_the_fourth_the_handle_comes_back() {
    let mut end = end(Dialect::Careful);
    let id = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    for _ in 0..4 {
        assert_eq!(written(&mut end), [(NATIVE.into(), Some(7))]);
        assert_eq!(events(&mut end), []);
        end.receive(NACK, []).unwrap();
    }
    assert_eq!(events(&mut end), [Event::Lost(id, 7)]);
    assert_eq!(written(&mut end), []);
}

#[test]
fn an_acknowledgement_too_many_is_ignored_even_when_a_handle_is_about_to_go() {
    let mut end = end(Dialect::Careful);
    end.receive(ACK, []).unwrap();
    end.receive(NACK, []).unwrap();
    let id = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [], "what was not written cannot have arrived");
    assert_eq!(written(&mut end), [(NATIVE.into(), Some(7))]);
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(id, 7)]);
}

#[test]
fn when_the_peer_dies_every_handle_comes_back_and_the_end_is_told_once() {
    let mut end = end(Dialect::Careful);
    let first = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    written(&mut end);
    end.send(b"22").unwrap();
    let second = end.send_handle(b"1", HandleKind::Native, None, 8).unwrap();
    end.end();
    end.end();
    let unsent = 3 + NATIVE.len();
    assert_eq!(
        events(&mut end),
        [Event::Lost(first, 7), Event::Lost(second, 8), Event::Closed { unsent }]
    );
    assert_eq!(end.send(b"1"), Err(SendError::Closed));
    assert!(matches!(
        end.send_handle(b"1", HandleKind::Native, None, 9),
        Err((SendError::Closed, 9))
    ));
}

#[test]
fn disconnect_waits_for_what_is_unwritten_and_unacknowledged() {
    let mut end = end(Dialect::Careful);
    let id = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
    end.send(b"2").unwrap();
    end.disconnect();
    assert_eq!(end.send(b"3"), Err(SendError::Closed));
    written(&mut end);
    end.receive(b"\"still heard\"\n", []).unwrap();
    assert_eq!(events(&mut end), [message("\"still heard\"")]);
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(id, 7)]);
    written(&mut end);
    assert_eq!(events(&mut end), [Event::Closed { unsent: 0 }]);
}

#[test]
fn disconnect_with_nothing_left_but_an_acknowledgement_closes_when_that_comes() {
    for (answers, handle_is_lost) in [(&[ACK][..], false), (&[NACK; 4], true)] {
        let mut end = end(Dialect::Careful);
        let id = end.send_handle(b"1", HandleKind::Native, None, 7).unwrap();
        end.disconnect();
        for answer in answers {
            written(&mut end);
            end.receive(answer, []).unwrap();
        }
        let fate = if handle_is_lost {
            Event::Lost(id, 7)
        } else {
            Event::Acked(id, 7)
        };
        assert_eq!(events(&mut end), [fate, Event::Closed { unsent: 0 }]);
    }
}

#[test]
fn small_messages_are_joined_into_one_write() {
    let mut end = end(Dialect::Careful);
    for _ in 0..1_000 {
        end.send(b"{\"n\":1}").unwrap();
    }
    assert_eq!(written(&mut end).len(), 1);
}

#[test]
fn a_peer_that_does_not_read_fills_its_queue_and_no_more() {
    let mut end = Endpoint::<u32>::new(Config {
        queue_limit: 100,
        ..Config::default()
    });
    end.send(&[b'1'; 300]).unwrap();
    assert_eq!(
        end.send(b"1"),
        Err(SendError::Full {
            queued: 301,
            limit: 100
        })
    );
    written(&mut end);
    end.send(b"1").unwrap();
}

#[test]
fn a_line_that_means_nothing_is_told_and_the_next_is_read() {
    let mut end = end(Dialect::Careful);
    end.receive(b"\n{\"cmd\":\"NODE_HANDLE\",\n1\n", []).unwrap();
    assert!(matches!(
        &events(&mut end)[..],
        [Event::Bad(_), Event::Bad(_), Event::Message(..)]
    ));
}

#[test]
fn handle_messages_nested_without_end_are_refused() {
    let mut end = end(Dialect::Careful);
    let line = "{\"cmd\":\"NODE_HANDLE\",\"msg\":".repeat(100_000) + "1" + &"}".repeat(100_000) + "\n";
    end.receive(line.as_bytes(), [7]).unwrap();
    assert!(matches!(&events(&mut end)[..], [Event::Bad(_)]));
}

#[test]
fn only_a_cmd_of_the_message_itself_makes_it_internal() {
    let mut end = end(Dialect::Careful);
    let users: [&[u8]; 7] = [
        b"{\"cmd\":\"NODE_\"}",
        b"{\"a\":{\"cmd\":\"NODE_FOO\"}}",
        b"\"NODE_FOO\"",
        b"[\"NODE_FOO\"]",
        b"{\"cmd\":{\"NODE_\":1}}",
        b"{\"cmd\":\"NODE_FOO\",\"cmd\":1}",
        b"{\"x\":\"NODE_FOO \\ud800\"}",
    ];
    let internals: [&[u8]; 3] = [
        b"{\"cmd\":\"NODE_FOO\"}",
        b"{\"x\":1,\"c\\u006dd\":\"\\u004eODE_X\"}",
        b" {\"cmd\":1,\"cmd\":\"NODE_F\"}",
    ];
    for body in users.iter().chain(&internals) {
        end.receive(body, []).unwrap();
        end.receive(b"\n", []).unwrap();
    }
    let got = events(&mut end);
    for (n, event) in got.iter().enumerate() {
        let expected = if n < users.len() { "Message" } else { "Internal" };
        assert!(format!("{event:?}").starts_with(expected), "{event:?}");
    }
    assert_eq!(got.len(), users.len() + internals.len());
}

#[test]
fn buns_mark_is_understood_and_returned() {
    let mut end = end(Dialect::Careful);
    end.receive(b"\x02{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":0}\n", [])
        .unwrap();
    assert!(matches!(&events(&mut end)[..], [Event::Internal(..)]));
    end.send_internal(b"{\"cmd\":\"NODE_CLUSTER\"}").unwrap();
    end.send(b"1").unwrap();
    assert_eq!(
        written(&mut end),
        [("\x02{\"cmd\":\"NODE_CLUSTER\"}\n1\n".into(), None)]
    );
}

#[test]
fn a_flood_of_descriptors_ends_the_channel() {
    let mut end = end(Dialect::Careful);
    end.receive(b"1\n", 0..64).unwrap();
    assert_eq!(end.receive(b"1\n", [64]), Err(ProtocolError::Unclaimed(65)));
    assert!(end.is_closed());
}

#[test]
fn what_the_peer_has_not_read_can_be_taken_back_and_messages_between_go_again() {
    let mut end = end(Dialect::Pipelined);
    let read = end.send_handle(b"1", HandleKind::Native, None, 1).unwrap();
    let second = end.send_handle(b"2", HandleKind::Native, None, 2).unwrap();
    end.send(b"\"plain\"").unwrap();
    let third = end.send_handle(b"3", HandleKind::Native, None, 3).unwrap();
    let unread: String = written(&mut end).into_iter().skip(1).map(|(frame, _)| frame).collect();
    assert_eq!(
        end.take_back(unread.as_bytes(), |_| true).unwrap(),
        [(second, 2), (third, 3)]
    );
    assert_eq!(written(&mut end), [("\"plain\"\n".into(), None)]);
    end.receive(ACK, []).unwrap();
    assert_eq!(
        events(&mut end),
        [Event::Acked(read, 1)],
        "the one that was read is still the peer's"
    );
    assert!(end.take_back(b"{\"cut", |_| true).is_err());
}

#[test]
fn what_nobody_wants_back_is_sent_again_in_its_place() {
    let mut end = end(Dialect::Pipelined);
    let first = end.send_handle(b"1", HandleKind::Native, None, 1).unwrap();
    let second = end.send_handle(b"2", HandleKind::Native, None, 2).unwrap();
    end.send(b"3").unwrap();
    let unread: String = written(&mut end).into_iter().map(|(frame, _)| frame).collect();
    let taken = end.take_back(unread.as_bytes(), |handle| *handle == 2).unwrap();
    assert_eq!(taken, [(second, 2)]);
    assert_eq!(written(&mut end), [(NATIVE.into(), Some(1)), ("3\n".into(), None)]);
    end.receive(ACK, []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(first, 1)]);
    assert_eq!(end.queued(), 0);
}

#[test]
fn of_equal_handle_messages_those_that_were_written_last_are_unread() {
    let mut end = end(Dialect::Pipelined);
    let [read, unread, unwritten] = [1, 2, 3].map(|n| {
        let id = end.send_handle(b"1", HandleKind::Native, None, n).unwrap();
        if n < 3 {
            assert_eq!(written(&mut end), [(NATIVE.into(), Some(n))]);
        }
        id
    });
    assert_eq!(end.take_back(NATIVE.as_bytes(), |_| true).unwrap(), [(unread, 2)]);
    assert_eq!(written(&mut end), [(NATIVE.into(), Some(3))]);
    end.receive(&[ACK, ACK].concat(), []).unwrap();
    assert_eq!(events(&mut end), [Event::Acked(read, 1), Event::Acked(unwritten, 3)]);
}

/// Found by fuzzing: they came after the end.
#[test]
fn messages_behind_the_acknowledgement_that_a_disconnect_waits_for_come_before_the_end() {
    let mut end = end(Dialect::Careful);
    let id = end.send_handle(b"1", HandleKind::Native, None, 1).unwrap();
    written(&mut end);
    end.disconnect();
    end.receive(&[ACK, b"2\n"].concat(), []).unwrap();
    assert_eq!(
        events(&mut end),
        [Event::Acked(id, 1), message("2"), Event::Closed { unsent: 0 }]
    );
}

/// Found by fuzzing: the handles before the cut were dropped, and nobody heard of them.
#[test]
fn bytes_that_end_in_a_frame_take_nothing_back_and_the_end_tells_of_every_handle() {
    let mut end = end(Dialect::Pipelined);
    let first = end.send_handle(b"1", HandleKind::Native, None, 1).unwrap();
    let second = end.send_handle(b"2", HandleKind::Native, None, 2).unwrap();
    let unread: String = written(&mut end).into_iter().map(|(frame, _)| frame).collect();
    assert!(end.take_back(&unread.as_bytes()[..unread.len() - 1], |_| true).is_err());
    end.end();
    assert_eq!(
        events(&mut end),
        [
            Event::Lost(first, 1),
            Event::Lost(second, 2),
            Event::Closed { unsent: 0 }
        ]
    );
}

#[test]
fn a_peer_that_sends_handles_and_reads_no_answer_loses_its_channel() {
    let mut end = end(Dialect::Careful);
    for _ in 0..256 {
        end.receive(NATIVE.as_bytes(), []).unwrap();
    }
    assert_eq!(end.receive(NATIVE.as_bytes(), []), Err(ProtocolError::UnreadAnswers));
    assert!(end.is_closed());
}

#[test]
fn answers_that_are_read_may_be_without_number_behind_a_queue_that_is_never_empty() {
    let mut end = end(Dialect::Pipelined);
    for n in 0..10_000 {
        // One more than was there is sent before half of it is written.
        end.send(&[b'1'; 20]).unwrap();
        end.send(&[b'2'; 20]).unwrap();
        end.receive(NATIVE.as_bytes(), [n]).unwrap();
        let waiting = end.queued();
        while end.queued() > waiting / 2 {
            let n = end.poll_transmit().unwrap().bytes.len();
            end.transmitted(n.min(7));
        }
        assert!(matches!(&events(&mut end)[..], [Event::Message(..)]));
    }
    assert!(end.queued() > 0);
}

#[test]
fn a_small_message_does_not_keep_the_large_one_that_came_with_it() {
    let mut end = end(Dialect::Careful);
    let large = "1".repeat(1 << 20);
    end.receive(format!("{large}\n2\n").as_bytes(), []).unwrap();
    let [Event::Message(large, None), Event::Message(small, None)] = &events(&mut end)[..] else {
        panic!("two messages");
    };
    let end_of_large = large.as_ptr().wrapping_add(large.len());
    assert_ne!(
        small.as_ptr(),
        end_of_large.wrapping_add(1),
        "a part of the same memory"
    );
}

const HELLO: &[u8] = b"{\"cmd\":\"NODE_THEAD_HELLO\"}\n";

/// A parent and its child that is a thead process too: the child has greeted, the parent has heard it.
fn theads() -> (End, End) {
    theads_in(Serialization::Json)
}

fn theads_in(serialization: Serialization) -> (End, End) {
    let config = Config {
        serialization,
        ..Config::default()
    };
    let (mut parent, mut child) = (End::new(config), End::new(config));
    assert_eq!((parent.is_thead(), child.is_thead()), (None, None));
    child.greet();
    deliver(&mut child, &mut parent);
    assert_eq!((parent.is_thead(), child.is_thead()), (Some(true), Some(true)));
    assert_eq!(events(&mut parent), []);
    (parent, child)
}

/// All that one has written comes to the other, as the kernel would have it. How many descriptors were under way at once.
fn deliver(from: &mut End, to: &mut End) -> usize {
    let mut count = 0;
    while let Some(transmit) = from.poll_transmit() {
        let (bytes, handles) = (transmit.bytes.to_vec(), transmit.handles.to_vec());
        count += handles.len();
        from.transmitted(bytes.len());
        to.receive(&bytes, handles).unwrap();
    }
    count
}

#[test]
fn many_descriptors_come_with_their_message_and_are_acknowledged_once() {
    let (mut parent, mut child) = theads();
    child.send(b"0").unwrap();
    let id = child.send_descriptors(b"1", (0..64).collect()).unwrap();
    child.send_handle(b"2", HandleKind::Native, None, 99).unwrap();
    deliver(&mut child, &mut parent);
    assert_eq!(
        events(&mut parent),
        [
            message("0"),
            Event::Descriptors(Bytes::from_static(b"1"), (0..64).collect()),
            with_handle("2", 99)
        ]
    );
    deliver(&mut parent, &mut child);
    let acked = events(&mut child);
    assert_eq!(acked[0], Event::DescriptorsAcked(id, (0..64).collect()));
    assert!(matches!(acked[..], [_, Event::Acked(_, 99)]));
}

#[test]
fn no_more_descriptors_are_under_way_than_may_be() {
    let (mut parent, mut child) = theads();
    for n in 0..100 {
        parent.send_descriptors(b"1", (n * 64..(n + 1) * 64).collect()).unwrap();
    }
    let mut come = Vec::new();
    while come.len() < 6400 {
        assert_eq!(deliver(&mut parent, &mut child), 256);
        for event in events(&mut child) {
            let Event::Descriptors(_, handles) = event else {
                panic!("{event:?}")
            };
            come.extend(handles);
        }
        deliver(&mut child, &mut parent);
    }
    assert_eq!(come, (0..6400).collect::<Vec<_>>());
}

#[test]
fn descriptors_are_sent_to_nobody_who_is_not_known_to_take_them() {
    for dialect in [Dialect::Careful, Dialect::Pipelined, Dialect::Deno, Dialect::Bun] {
        let mut end = end(dialect);
        // As a first word it would have counted.
        end.receive(b"1\n", []).unwrap();
        end.receive(HELLO, []).unwrap();
        assert_eq!(end.is_thead(), Some(false));
        assert_eq!(
            end.send_descriptors(b"1", vec![1, 2]),
            Err((SendError::NotThead, vec![1, 2]))
        );
    }
    let (mut parent, _) = theads();
    for wrong in [0, 65] {
        let refused = parent.send_descriptors(b"1", vec![7; wrong]).unwrap_err();
        assert_eq!(refused, (SendError::Descriptors(wrong), vec![7; wrong]));
    }
}

#[test]
fn descriptors_that_do_not_arrive_are_asked_for_again_and_come_back_in_the_end() {
    let (mut parent, _) = theads();
    let id = parent.send_descriptors(b"1", vec![1, 2]).unwrap();
    for _ in 0..4 {
        let transmit = parent.poll_transmit().unwrap();
        assert_eq!(transmit.handles, [1, 2]);
        let n = transmit.bytes.len();
        parent.transmitted(n);
        parent.receive(NACK, []).unwrap();
    }
    assert_eq!(events(&mut parent), [Event::DescriptorsLost(id, vec![1, 2])]);

    let (mut parent, mut child) = theads();
    parent.send_descriptors(b"1", vec![1, 2]).unwrap();
    let bytes = parent.poll_transmit().unwrap().bytes.to_vec();
    child.receive(&bytes, [1]).unwrap();
    assert_eq!(events(&mut child), []);
    assert_eq!(
        written(&mut child),
        [(String::from_utf8_lossy(NACK).into_owned(), None)]
    );
}

fn given(key: &str) -> String {
    format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Socket\",\"msg\":1,\"key\":\"{key}\"}}\n")
}

fn asks(end: &mut End, what: &str, key: &str) -> String {
    let question = format!("{{\"cmd\":\"NODE_SOCKET_{what}\",\"key\":\"{key}\"}}\n");
    end.receive(question.as_bytes(), []).unwrap();
    written(end).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn a_giver_of_sockets_hears_how_many_are_open_and_when_none_is() {
    let mut end = end(Dialect::Careful);
    let count = |count| format!("{{\"cmd\":\"NODE_SOCKET_COUNT\",\"key\":\"4:a:1\",\"count\":{count}}}\n");
    let all_closed = |key| format!("{{\"cmd\":\"NODE_SOCKET_ALL_CLOSED\",\"key\":\"{key}\"}}\n");
    assert_eq!(asks(&mut end, "GET_COUNT", "4:a:1"), count(0));
    for n in [1, 2] {
        end.receive(given("4:a:1").as_bytes(), [n]).unwrap();
    }
    end.receive(given("4:b:2").as_bytes(), [3]).unwrap();
    written(&mut end);
    assert_eq!(asks(&mut end, "GET_COUNT", "4:a:1"), count(2));
    end.socket_closed("4:a:1");
    assert_eq!(asks(&mut end, "GET_COUNT", "4:a:1"), count(1));
    assert_eq!(asks(&mut end, "NOTIFY_CLOSE", "4:a:1"), "");
    end.socket_closed("4:b:2");
    assert_eq!(written(&mut end), []);
    end.socket_closed("4:a:1");
    assert_eq!(written(&mut end), [(all_closed("4:a:1"), None)]);
    assert_eq!(asks(&mut end, "NOTIFY_CLOSE", "4:b:2"), all_closed("4:b:2"));
}

#[test]
fn a_taker_of_sockets_is_asked_how_many_are_open_and_whether_any_is() {
    for serialization in [Serialization::Json, Serialization::Advanced] {
        let (mut giver, mut taker) = theads_in(serialization);
        let body = &frame(serialization, "7")[if serialization == Serialization::Json {
            0..1
        } else {
            4..8
        }];
        for n in [1, 2] {
            giver.send_counted(body, "a \"key\"", n).unwrap();
        }
        giver.ask_count("a \"key\"").unwrap();
        giver.ask_closed("a \"key\"").unwrap();
        giver.ask_count("another").unwrap();
        giver.ask_closed("another").unwrap();
        deliver(&mut giver, &mut taker);
        let taken = events(&mut taker);
        let handles = taken.iter().map(|event| match event {
            Event::Message(_, Some(received)) => (received.kind.clone(), received.key.as_deref(), received.handle),
            other => panic!("{other:?}"),
        });
        let socket = |handle| (Ok(HandleKind::Socket), Some("a \"key\""), handle);
        assert_eq!(handles.collect::<Vec<_>>(), [socket(1), socket(2)]);
        let mut hears = |taker: &mut End| {
            deliver(taker, &mut giver);
            let mut heard = events(&mut giver);
            heard.retain(|event| !matches!(event, Event::Acked(..)));
            heard
        };
        assert_eq!(
            hears(&mut taker),
            [
                Event::SocketCount("a \"key\"".into(), 2),
                Event::SocketCount("another".into(), 0),
                Event::SocketsClosed("another".into()),
            ]
        );
        taker.socket_closed("a \"key\"");
        assert_eq!(hears(&mut taker), []);
        taker.socket_closed("a \"key\"");
        assert_eq!(hears(&mut taker), [Event::SocketsClosed("a \"key\"".into())]);
    }
}

#[test]
fn what_a_taker_says_without_sense_is_none_of_the_users() {
    for text in [
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"k"}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":-1}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":1.5}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":18446744073709551616}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":"1"}"#,
        r#"{"cmd":"NODE_SOCKET_COUNT","key":1,"count":1}"#,
        r#"{"cmd":"NODE_SOCKET_ALL_CLOSED"}"#,
    ] {
        let mut end = end(Dialect::Careful);
        end.receive(format!("{text}\n").as_bytes(), []).unwrap();
        assert!(matches!(&events(&mut end)[..], [Event::Internal(..)]), "{text}");
        assert_eq!(written(&mut end), []);
    }
}

#[test]
fn a_thead_peer_that_counts_wrongly_harms_nobody() {
    for count in [
        "-1",
        "0",
        "1",
        "2",
        "64",
        "65",
        "1e9",
        "1e300",
        "\"x\"",
        "null",
        "[]",
        "18446744073709551616",
    ] {
        for serialization in [Serialization::Json, Serialization::Advanced] {
            let (mut parent, _) = theads_in(serialization);
            let text =
                format!("{{\"cmd\":\"NODE_HANDLE\",\"type\":\"thead.Descriptors\",\"msg\":1,\"count\":{count}}}");
            parent.receive(&frame(serialization, &text), 0..64).unwrap();
            let taken: usize = events(&mut parent)
                .iter()
                .map(|event| match event {
                    Event::Descriptors(_, handles) => handles.len(),
                    other => panic!("{other:?}"),
                })
                .sum();
            assert!((1..=64).contains(&taken), "{count}");
        }
    }
    // Of anybody else it is a handle of an unknown kind.
    let mut end = end(Dialect::Careful);
    end.receive(
        b"{\"cmd\":\"NODE_HANDLE\",\"type\":\"thead.Descriptors\",\"msg\":1,\"count\":2}\n",
        [1, 2],
    )
    .unwrap();
    let [Event::Message(_, Some(received))] = &events(&mut end)[..] else {
        panic!("a message");
    };
    assert_eq!((received.handle, &received.kind), (1, &Err("thead.Descriptors".into())));
}

fn frame(serialization: Serialization, json: &str) -> Vec<u8> {
    match serialization {
        Serialization::Json => format!("{json}\n").into_bytes(),
        Serialization::Advanced => {
            let value = serde_json::from_str(json).unwrap();
            let payload = thead_wire::v8::write(&thead_wire::v8::Document::from_json(&value)).unwrap();
            let length = u32::try_from(payload.len()).unwrap();
            [&length.to_be_bytes(), &payload[..]].concat()
        }
    }
}

#[test]
fn what_is_sent_to_a_thead_peer_arrives_in_both_serializations() {
    for serialization in [Serialization::Json, Serialization::Advanced] {
        let (mut parent, mut child) = theads_in(serialization);
        let body = &frame(serialization, "7")[if serialization == Serialization::Json {
            0..1
        } else {
            4..8
        }];
        parent.send_descriptors(body, vec![1, 2, 3]).unwrap();
        deliver(&mut parent, &mut child);
        assert_eq!(
            events(&mut child),
            [Event::Descriptors(Bytes::copy_from_slice(body), vec![1, 2, 3])]
        );
    }
}

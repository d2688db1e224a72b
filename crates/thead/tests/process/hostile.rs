//! What a misbehaving child can do to its parent: lose its own channel, and nothing else.

use std::pin::pin;
use std::task::Poll;

use thead::channel::{Fault, SendError};
use thead::wire::endpoint::ProtocolError;
use thead::{ChildEvent, Serialization};

use crate::kit::{forget_peak, history, in_time, misbehave, name, next, peak, state, test, until};

const MIB: usize = 1 << 20;

#[test]
fn a_line_that_means_nothing_is_told_and_the_channel_lives() {
    test(async || {
        let mut child = misbehave("sends bad lines").spawn().unwrap();
        let (mut told, mut unparsable) = (0, 0);
        loop {
            match next(&mut child).await.unwrap() {
                ChildEvent::BadMessage(_) => told += 1,
                ChildEvent::Message { message, .. } => match message.parse::<serde_json::Value>() {
                    Ok(value) => {
                        assert_eq!(value, "still here");
                        break;
                    }
                    Err(_) => unparsable += 1,
                },
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((told, unparsable), (2, 6));
        child.disconnect();
        assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
    });
}

/// The child loses its channel for this, and the parent took little memory to find out.
fn is_ended(what: &str, serialization: Serialization, is_expected: fn(&Fault) -> bool) {
    test(async || {
        let before = forget_peak();
        let mut child = misbehave(what).channel(serialization).spawn().unwrap();
        let ended = until(&mut child, "disconnect").await;
        let ChildEvent::Disconnect { fault: Some(fault), .. } = &ended else {
            panic!("{ended:?}");
        };
        assert!(is_expected(fault), "{fault:?}");
        let grown = peak().saturating_sub(before);
        assert!(grown < 32 * MIB, "grown by {} MiB", grown / MIB);
        let _ = child.kill(libc::SIGKILL);
        until(&mut child, "close").await;
    });
}

#[test]
fn a_line_without_end_costs_the_child_its_channel() {
    is_ended("sends an endless line", Serialization::Json, |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::Frame(_)))
    });
}

#[test]
fn a_length_of_four_gigabytes_costs_the_child_its_channel() {
    is_ended("announces 4 GiB", Serialization::Advanced, |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::Frame(_)))
    });
}

#[test]
fn descriptors_that_belong_to_nothing_cost_the_child_its_channel() {
    is_ended("sends 253 descriptors", Serialization::Json, |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::Unclaimed(_)))
    });
}

#[test]
fn answers_that_are_never_read_cost_the_child_its_channel() {
    is_ended("sends handles and reads no answer", Serialization::Json, |fault| {
        matches!(fault, Fault::Protocol(ProtocolError::UnreadAnswers))
    });
}

#[test]
fn a_few_descriptors_with_plain_messages_are_closed_with_the_channel() {
    test(async || {
        let mut child = misbehave("sends descriptors with nothing").spawn().unwrap();
        for _ in 0..64 {
            assert_eq!(name(&next(&mut child).await.unwrap()), "message 1");
        }
        child.disconnect();
        assert_eq!(history(&mut child).await, ["disconnect", "exit 0", "close"]);
    });
}

#[test]
fn a_child_that_does_not_read_fills_its_queue_and_no_more() {
    for (what, signal) in [("never reads", "signal 9"), ("stops", "signal 9")] {
        test(async || {
            let mut child = misbehave(what).spawn().unwrap();
            let channel = child.channel().unwrap().clone();
            let before = forget_peak();
            let message = format!("\"{}\"", "x".repeat(1 << 20));
            let mut sent = 0;
            let refused = loop {
                match channel.send_raw(message.as_bytes()) {
                    Ok(()) => sent += 1,
                    Err(error) => break error,
                }
                assert!(sent < 200, "200 MB were taken");
                tokio::task::yield_now().await;
            };
            assert!(
                matches!(refused, SendError::Full { limit, .. } if limit == 64 * MIB),
                "{refused}"
            );
            let grown = peak().saturating_sub(before);
            assert!(grown < 64 * MIB + 32 * MIB, "grown by {} MiB", grown / MIB);

            // Who can wait is not refused, and hears of it when there is nothing left to wait for.
            let mut waits = pin!(channel.post_message("more"));
            let once = std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_pending()));
            assert!(once.await, "it waits");
            child.kill(libc::SIGKILL).unwrap();
            assert!(matches!(in_time("the end", waits).await, Err(SendError::Closed)));
            let events = history(&mut child).await;
            assert_eq!(events[events.len() - 3..], ["disconnect", signal, "close"]);
        });
    }
}

#[test]
fn an_owner_that_takes_no_messages_keeps_few_of_them() {
    test(async || {
        let before = forget_peak();
        let mut child = misbehave("floods with large messages").spawn().unwrap();
        until(&mut child, "message").await;
        // It has come to a stop when it sleeps, that is, waits for us to read, again and again.
        let mut asleep = 0;
        while asleep < 1_000 {
            asleep = if state(&child) == 'S' { asleep + 1 } else { 0 };
            tokio::task::yield_now().await;
        }
        // Of 8 MiB: one that waits for its owner, one that waits for room, and the next one's buffer, which doubles as it
        // grows; a flood that was kept would be hundreds.
        let grown = peak().saturating_sub(before);
        assert!(grown < 44 * MIB, "grown by {} MiB", grown / MIB);
        child.kill(libc::SIGKILL).unwrap();
        until(&mut child, "close").await;
    });
}

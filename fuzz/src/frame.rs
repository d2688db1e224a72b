//! Frames and what endpoints make of them, however a stream is cut.

use bytes::Bytes;
use thead_wire::endpoint::Config;
use thead_wire::frame::FrameReader;
use thead_wire::{Endpoint, Event, Serialization};

/// Small, so that frames over it occur.
const LIMIT: usize = 4_096;

pub(crate) fn json(data: &[u8]) {
    run(Serialization::Json, data);
}

pub(crate) fn advanced(data: &[u8]) {
    run(Serialization::Advanced, data);
}

/// The first byte says how many follow it that say how long each read is, in turn.
fn run(serialization: Serialization, data: &[u8]) {
    let Some((count, rest)) = data.split_first() else {
        return;
    };
    let (cuts, stream) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let reads = reads(cuts, stream);

    let (whole, whole_failed) = frames(serialization, &[stream]);
    let (cut, cut_failed) = frames(serialization, &reads);
    assert_eq!((&cut, cut_failed), (&whole, whole_failed));
    let room = stream.len() + whole.len();
    assert!(
        whole.iter().map(Bytes::len).sum::<usize>() <= room,
        "frames are parts of the stream"
    );

    let (whole, whole_failed) = events(serialization, &[stream]);
    let (cut, cut_failed) = events(serialization, &reads);
    assert_eq!((cut, cut_failed), (whole, whole_failed));
}

fn reads<'a>(cuts: &[u8], mut stream: &'a [u8]) -> Vec<&'a [u8]> {
    let mut reads = Vec::new();
    for cut in cuts.iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (read, rest) = stream.split_at(stream.len().min(usize::from(*cut % 64) + 1));
        reads.push(read);
        stream = rest;
    }
    if !stream.is_empty() {
        reads.push(stream);
    }
    reads
}

fn frames(serialization: Serialization, reads: &[&[u8]]) -> (Vec<Bytes>, bool) {
    let mut reader = FrameReader::new(serialization, LIMIT);
    let mut frames = Vec::new();
    for read in reads {
        reader.push(read);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fn events(serialization: Serialization, reads: &[&[u8]]) -> (Vec<Event<()>>, bool) {
    let mut end = Endpoint::new(Config {
        serialization,
        frame_limit: LIMIT,
        ..Config::default()
    });
    let failed = reads.iter().any(|read| end.receive(read, []).is_err());
    end.end();
    let mut events: Vec<_> = std::iter::from_fn(|| end.poll_event()).collect();
    // How much was not written depends on when it ended.
    assert!(matches!(events.pop(), Some(Event::Closed { .. })));
    (events, failed)
}

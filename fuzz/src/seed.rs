//! What to begin with: what real runtimes wrote.

use serde_json::Value as Json;

const CHANNEL: &str = include_str!("../../crates/thead-wire/tests/fixtures/channel.json");
const FRAMES: &str = include_str!("../../crates/thead-wire/tests/fixtures/v8-frames.json");
const CLUSTER: &str = include_str!("../../crates/thead-wire/tests/fixtures/cluster-messages.txt");

/// Longer recordings only repeat one byte.
const LONGEST: usize = 1_500;

fn fixture(text: &str) -> Json {
    serde_json::from_str(text).unwrap()
}

fn list<'a>(fixture: &'a Json, name: &str) -> &'a [Json] {
    fixture[name].as_array().unwrap()
}

fn unhex(json: &Json) -> Vec<u8> {
    let digit = |char: u8| char::from(char).to_digit(16).unwrap() as u8;
    let digits = json.as_str().unwrap().as_bytes().chunks_exact(2);
    digits.map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Streams of a few frames each, behind a description of how they are cut.
fn streams(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut streams: Vec<Vec<u8>> = Vec::new();
    for (at, frames) in frames.chunks(3).enumerate() {
        streams.push([&[2, at as u8, 5][..], &frames.concat()].concat());
    }
    streams
}

pub(crate) fn json_streams() -> Vec<Vec<u8>> {
    let fixture = fixture(CHANNEL);
    let lines = list(&fixture, "lines").iter();
    let texts = lines.map(|line| format!("{}\n", line["text"].as_str().unwrap()).into_bytes());
    streams(texts.filter(|line| line.len() < LONGEST).collect())
}

pub(crate) fn advanced_streams() -> Vec<Vec<u8>> {
    streams(advanced_frames())
}

pub(crate) fn values() -> Vec<Vec<u8>> {
    advanced_frames()
        .into_iter()
        .map(|frame| frame[4.min(frame.len())..].to_vec())
        .collect()
}

fn advanced_frames() -> Vec<Vec<u8>> {
    let fixture = fixture(FRAMES);
    let all = list(&fixture, "vectors").iter().chain(list(&fixture, "receive"));
    let mut frames: Vec<Vec<u8>> = all.map(|entry| unhex(&entry["hex"])).collect();
    frames.retain(|frame| frame.len() < LONGEST);
    frames.sort();
    frames.dedup();
    frames
}

pub(crate) fn cluster_messages() -> Vec<Vec<u8>> {
    let lines = CLUSTER.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| Some(line.split_once(' ')?.1.as_bytes().to_vec()))
        .collect()
}

/// Each kind of channel: a handle each way, with its answer; refusals; a peer that answers what nobody asked.
pub(crate) fn scripts() -> Vec<Vec<u8>> {
    const SCRIPTS: [&[u8]; 5] = [
        &[0x12, 0xff, 0x0c, 0x01, 0x2f],
        &[0x0b, 0x0c, 0x0c, 0x03, 0xff, 0x1f],
        &[
            0x0b, 0x1b, 0x8b, 0x0a, 0x0c, 0x04, 0xff, 0x0c, 0x04, 0xff, 0x0c, 0x03, 0xff,
        ],
        &[0x05, 0x02, 0x92, 0x06, 0x07, 0x38, 0x58, 0x78, 0xff, 0x2c, 0x0c],
        &[0x0b, 0x0b, 0x0c, 0x3c, 0x0e, 0x0c, 0x0c, 0x03, 0x03, 0xff, 0x0f],
    ];
    let channels = 0..8;
    channels
        .flat_map(|channel| SCRIPTS.map(|script| [&[channel], script].concat()))
        .collect()
}

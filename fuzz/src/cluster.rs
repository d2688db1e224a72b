//! Messages of a cluster, both ways.

use std::fmt::Debug;

use serde_json::Value as Json;
use thead_wire::cluster::{ClusterMessageError, Envelope, FromWorker, ToWorker};

pub(crate) fn run(data: &[u8]) {
    check(
        data,
        Envelope::<FromWorker>::from_json,
        Envelope::<FromWorker>::from_value,
        |message, out| message.write_json(out),
        |message| message.to_value(),
    );
    check(
        data,
        Envelope::<ToWorker>::from_json,
        Envelope::<ToWorker>::from_value,
        |message, out| message.write_json(out),
        |message| message.to_value(),
    );
}

type Parsed<M> = Result<Envelope<M>, ClusterMessageError>;

/// What is understood is printed so that it is understood the same, as text and as a value.
fn check<M: PartialEq + Debug>(
    data: &[u8],
    from_json: fn(&[u8]) -> Parsed<M>,
    from_value: fn(&Json) -> Parsed<M>,
    write_json: fn(&Envelope<M>, &mut Vec<u8>),
    to_value: fn(&Envelope<M>) -> Json,
) {
    match from_json(data) {
        Err(error) => assert!(error.to_string().len() < 1_000, "{error}"),
        Ok(message) => {
            let mut text = Vec::new();
            write_json(&message, &mut text);
            let shown = String::from_utf8_lossy(&text);
            assert_eq!(from_json(&text).unwrap(), message, "{shown}");
            assert_eq!(from_value(&to_value(&message)).unwrap(), message, "{shown}");
        }
    }
}

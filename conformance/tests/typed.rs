//! Structs with JavaScript's own types, through the `advanced` channel of every Node.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use conformance::{PATIENCE, Runtime, on};
use serde::{Deserialize, Serialize};
use thead::channel::Message;
use thead::wire::v8::{ErrorKind, js};
use thead::{Child, ChildEvent, Command, Serialization};

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Own {
    id: u64,
    big: u64,
    missing: Option<String>,
    nothing: (),
    date: js::Date,
    regexp: js::RegExp,
    int: js::BigInt,
    map: js::Map<BTreeMap<String, u8>>,
    numbers: BTreeMap<i32, String>,
    set: js::Set<Vec<u8>>,
    buffer: js::Buffer<Vec<u8>>,
    plain: js::ArrayBuffer<Vec<u8>>,
    bytes: js::Uint8Array<Vec<u8>>,
    floats: js::Float64Array,
    error: js::Error,
    kind: Shape,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Shape {
    Circle { radius: f64 },
}

async fn message(child: &mut Child) -> Message {
    loop {
        match tokio::time::timeout(PATIENCE, child.next()).await.unwrap() {
            Some(ChildEvent::Spawn) => {}
            Some(ChildEvent::Message { message, .. }) => return message,
            other => panic!("{other:?}"),
        }
    }
}

fn a_struct_with_javascripts_own_types_is_what_node_sees_and_comes_back(runtime: Runtime) {
    let code = "
        const { deepStrictEqual: equal } = require('assert');
        process.on('message', (m) => {
            try {
                const { error, ...rest } = m;
                equal(rest, { id: 7, big: 2n ** 64n - 1n, missing: undefined, nothing: null, date: new Date(1500),
                    regexp: /a.b/gi, int: 5n, map: new Map([['a', 1]]), numbers: new Map([[-1, 'x'], [2, '€']]),
                    set: new Set([1, 2]), buffer: Buffer.from('abc'), plain: new Uint8Array([9]).buffer,
                    bytes: new Uint8Array([1, 2]), floats: new Float64Array([0.5, -0]), kind: { Circle: { radius: 2 } } });
                equal([error.name, error.message, error.cause instanceof RangeError, error.cause.message],
                    ['TypeError', 'outer', true, 'inner']);
                process.send(m);
            } catch (error) { process.send(String(error)) }
        });
        process.on('disconnect', () => process.exit(0));";
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio.unwrap().block_on(async {
        let command = Command::new(runtime.path()).args(["-e", code]);
        let mut child = command.channel(Serialization::Advanced).spawn().unwrap();
        let own = Own {
            id: 7,
            big: u64::MAX,
            missing: None,
            nothing: (),
            date: js::Date(1500.0),
            regexp: "/a.b/gi".parse().unwrap(),
            int: js::BigInt(5),
            map: js::Map(BTreeMap::from([("a".into(), 1)])),
            numbers: BTreeMap::from([(-1, "x".into()), (2, "€".into())]),
            set: js::Set(vec![1, 2]),
            buffer: js::Buffer(b"abc".to_vec()),
            plain: js::ArrayBuffer(vec![9]),
            bytes: js::Uint8Array(vec![1, 2]),
            floats: js::Float64Array(vec![0.5, -0.0]),
            error: js::Error {
                cause: Some(js::Cause(Box::new(js::Error::new(ErrorKind::RangeError, "inner")))),
                ..js::Error::new(ErrorKind::TypeError, "outer")
            },
            kind: Shape::Circle { radius: 2.0 },
        };
        child.channel().unwrap().send(&own).unwrap();
        let message = message(&mut child).await;
        let mut back: Own = message
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {:?}", message.value()));
        // Node gives an error that came without one a stack.
        back.error.stack = None;
        if let Some(js::Cause(cause)) = &mut back.error.cause {
            cause.stack = None;
        }
        assert_eq!(back, own);
        child.disconnect();
        let mut last = None;
        while let Some(event) = tokio::time::timeout(PATIENCE, child.next()).await.unwrap() {
            last = Some(event);
        }
        assert!(matches!(last, Some(ChildEvent::Close(_))), "{last:?}");
    });
}

on!(nodes: a_struct_with_javascripts_own_types_is_what_node_sees_and_comes_back);

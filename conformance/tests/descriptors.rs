//! Descriptors of any kind between two thead processes, and to nobody else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use conformance::{PATIENCE, Process, Runtime};
use thead::channel::{Handle, MAX_DESCRIPTORS, SendError};
use thead::wire::Dialect;
use thead::{Child, ChildEvent, Command, HandleKind, Serialization};

const CHILD: &str = env!("CARGO_BIN_EXE_child");

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let test = async { tokio::time::timeout(PATIENCE, test).await.unwrap() };
    runtime.unwrap().block_on(test);
}

fn child(what: &str, serialization: Serialization) -> Child {
    Command::new(CHILD).arg(what).channel(serialization).spawn().unwrap()
}

/// The next event that says something of the channel.
async fn next(child: &mut Child) -> ChildEvent {
    loop {
        match child.next().await.unwrap() {
            ChildEvent::Spawn => {}
            event => return event,
        }
    }
}

const BOTH: [Serialization; 2] = [Serialization::Json, Serialization::Advanced];

#[test]
fn files_pipes_and_memory_go_to_a_child_and_come_back() {
    for serialization in BOTH {
        run(async {
            let mut child = child("echoes", serialization);
            let channel = child.channel().unwrap().clone();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"in a file").unwrap();
            let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::io::write(&memory, b"in memory").unwrap();
            let (reader, writer) = std::io::pipe().unwrap();
            let sent: Vec<Handle> = vec![
                OwnedFd::from(file).into(),
                memory.into(),
                OwnedFd::from(reader).into(),
                OwnedFd::from(writer).into(),
            ];
            channel.post_descriptors("four", sent).await.unwrap();
            let ChildEvent::Descriptors { message, descriptors } = next(&mut child).await else {
                panic!("descriptors");
            };
            assert_eq!(message.parse::<String>().unwrap(), "four");
            let [file, memory, reader, writer] = <[Handle; 4]>::try_from(descriptors).unwrap();
            for (handle, expected) in [(file, "in a file"), (memory, "in memory")] {
                let mut file = File::from(handle.into_owned().unwrap());
                file.seek(SeekFrom::Start(0)).unwrap();
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(text, expected);
            }
            let mut writer = PipeWriter::from(writer.into_owned().unwrap());
            writer.write_all(b"through a pipe").unwrap();
            drop(writer);
            let mut text = String::new();
            let mut reader = PipeReader::from(reader.into_owned().unwrap());
            // Its end comes when nobody has the other end: the acknowledgement of our copy may still be under way.
            let mut some = [0; 64];
            let n = reader.read(&mut some).unwrap();
            text.push_str(std::str::from_utf8(&some[..n]).unwrap());
            assert_eq!(text, "through a pipe");
            child.disconnect();
            child.wait().await;
        });
    }
}

#[test]
fn thousands_come_in_order_and_none_stays_open() {
    run(async {
        let mut child = child("counts descriptors", Serialization::Json);
        let channel = child.channel().unwrap().clone();
        let ours = || Process::read(std::process::id()).unwrap().descriptors();
        let null: Handle = OwnedFd::from(File::open("/dev/null").unwrap()).into();
        channel.post_descriptors(&0, vec![null.clone()]).await.unwrap();
        let before = ours();
        for n in 0..500 {
            channel
                .post_descriptors(&n, vec![null.clone(); MAX_DESCRIPTORS])
                .await
                .unwrap();
        }
        channel.post_message("how many?").await.unwrap();
        let ChildEvent::Message { message, .. } = next(&mut child).await else {
            panic!("a count");
        };
        assert_eq!(message.parse::<usize>().unwrap(), 1 + 500 * MAX_DESCRIPTORS);
        assert!(ours() <= before + 1, "{} more", ours() - before);
        assert!(Process::read(child.id()).unwrap().descriptors() < 32);
        child.disconnect();
        child.wait().await;
    });
}

#[test]
fn none_is_ever_sent_to_a_node_child() {
    run(async {
        let null = || -> Handle { OwnedFd::from(File::open("/dev/null").unwrap()).into() };
        for dialect in [Dialect::Pipelined, Dialect::Careful] {
            let code = "process.on('message', () => {}); process.send('here')";
            let mut child = Command::new(Runtime::Node22.path())
                .args(["-e", code])
                .channel(Serialization::Json)
                .dialect(dialect)
                .spawn()
                .unwrap();
            let channel = child.channel().unwrap().clone();
            // Of an unknown program it is known from its first word.
            let (error, back) = channel.post_descriptors("two", vec![null(), null()]).await.unwrap_err();
            assert_eq!((error, back.len()), (SendError::NotThead, 2));
            // Nor is a file as a handle, of which Node would be aborted.
            let (error, _) = channel.send_handle("one", HandleKind::Native, null()).unwrap_err();
            assert!(matches!(error, SendError::Unfit { .. }), "{error}");
            assert!(matches!(next(&mut child).await, ChildEvent::Message { .. }));
            channel.disconnect();
            assert_eq!(child.wait().await.code(), Some(0));
        }
    });
}

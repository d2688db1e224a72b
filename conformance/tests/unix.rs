//! Unix sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use conformance::{Run, Runtime, client, on};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn both_workers_answer(socket: &Path) {
    client::until_all(2, || [client::try_get_unix(socket, "/").unwrap().pid()]);
}

fn a_path_is_shared_and_its_file_removed_at_the_end(runtime: Runtime) {
    for schedule in ["round-robin", "shared", "kernel", "sticky"] {
        let mut thead = Run::program(runtime, "http.js")
            .env("SOCKET", "./socket")
            .option("--schedule", schedule)
            .start();
        let said = thead.next("listening");
        let socket = thead.dir().join("socket");
        assert_eq!(said.text("address"), socket.to_str().unwrap());
        thead.ready(2);
        assert_eq!(mode(&socket) & 0o022, 0, "nobody else may connect unless asked for");
        if schedule == "shared" {
            assert_eq!(client::try_get_unix(&socket, "/").unwrap().status, 200);
        } else {
            both_workers_answer(&socket);
        }
        // The kernel cannot spread it, nor are its clients known by an address: people are told, once.
        let notes = thead.all("note");
        assert_eq!(
            notes.len(),
            usize::from(matches!(schedule, "kernel" | "sticky")),
            "{notes:?}"
        );
        // The census at the end finds no socket file.
        thead.stop_cleanly();
    }
}

fn readable_all_and_writable_all_open_the_socket_to_everybody(runtime: Runtime) {
    let mut thead = Run::program(runtime, "unix.js").env("SOCKET", "./socket").start();
    thead.ready(2);
    let socket = thead.dir().join("socket");
    assert_eq!(mode(&socket), 0o777);
    both_workers_answer(&socket);
    thead.stop_cleanly();
}

fn a_file_that_is_there_already_is_eaddrinuse_and_stays(runtime: Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let end = Run::program(runtime, "http.js").env("SOCKET", socket.display()).end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.all("listen_failed")
            .iter()
            .all(|said| said.text("code") == "EADDRINUSE")
    );
    assert!(end.only("failed").json["last_lines"].to_string().contains("EADDRINUSE"));
    assert!(socket.exists(), "it may be another's");
}

fn a_missing_directory_is_eacces_as_node_has_it(runtime: Runtime) {
    let end = Run::program(runtime, "http.js").env("SOCKET", "./missing/socket").end();
    assert_eq!(end.code, Some(1));
    assert!(
        end.all("listen_failed")
            .iter()
            .all(|said| said.text("code") == "EACCES")
    );
}

fn an_abstract_name_has_no_file_and_no_directory(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => res.setHeader('x-pid', process.pid).end('hello'));
        server.listen('\\0' + process.env.NAME);
    ";
    let name = format!("thead-conformance-{}", std::process::id());
    // The workers' directory is not thead's: Node's own primary fails there.
    let run = Run::script(runtime, text)
        .file("elsewhere/script.cjs", text)
        .env("NAME", &name);
    let mut thead = run.option("--cwd", "elsewhere").start();
    thead.ready(2);
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    client::until_all(2, || {
        let stream = UnixStream::connect_addr(&address).unwrap();
        [client::request(stream, "/", Instant::now()).unwrap().pid()]
    });
    thead.stop_cleanly();
    assert!(UnixStream::connect_addr(&address).is_err());
}

fn a_path_longer_than_the_kernel_takes_is_used_relatively(runtime: Runtime) {
    let run = Run::program(runtime, "http.js").env("SOCKET", "./socket");
    let deep = run.dir().join("a".repeat(60)).join("b".repeat(60));
    std::fs::create_dir_all(&deep).unwrap();
    let mut thead = run.under(["env", "-C", deep.to_str().unwrap()]).start();
    thead.ready(2);
    assert!(deep.join("socket").exists());
    thead.stop_cleanly();
    assert!(!deep.join("socket").exists());
}

on!(nodes:
    a_path_is_shared_and_its_file_removed_at_the_end,
    readable_all_and_writable_all_open_the_socket_to_everybody,
    a_file_that_is_there_already_is_eaddrinuse_and_stays,
    a_missing_directory_is_eacces_as_node_has_it,
    an_abstract_name_has_no_file_and_no_directory,
    a_path_longer_than_the_kernel_takes_is_used_relatively,
);

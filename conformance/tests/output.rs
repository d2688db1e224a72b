//! What workers print: every line, whole, whoever reads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Read;

use conformance::{Run, Runtime, client, eventually, on};
use rustix::process::Signal;

/// Prints LINES lines, most short, some long, each with its number and its length; then it ends.
const PRINTS: &str = "
    const lines = Number(process.env.LINES);
    let n = 0;
    (function more() {
        for (; n < lines;) {
            const text = 'x'.repeat(n % 100 === 7 ? 5000 : n % 60);
            const stream = n % 10 === 3 ? process.stderr : process.stdout;
            if (!stream.write(`${n++} ${text.length} ${text}\\n`)) return stream.once('drain', more);
        }
        process.stdout.write('', () => process.stderr.write('', () => process.exit(0)));
    })();
";

/// Checks that the lines of one worker are the ones that it printed, in order for each stream.
fn check(lines: &[(String, String)], count: usize) {
    let mut seen = vec![false; count];
    let mut last = BTreeMap::new();
    for (stream, line) in lines {
        let mut parts = line.splitn(3, ' ');
        let n: usize = parts
            .next()
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("torn: {line:?}"));
        let length: usize = parts
            .next()
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("torn: {line:?}"));
        let text = parts.next().unwrap_or_else(|| panic!("torn: {line:?}"));
        assert!(
            text.len() == length && text.bytes().all(|byte| byte == b'x'),
            "torn: {line:?}"
        );
        assert!(!std::mem::replace(&mut seen[n], true), "twice: {n}");
        let before = last.insert(stream.clone(), n);
        assert!(
            before.is_none_or(|before| before < n),
            "out of order: {n} after {before:?}"
        );
    }
    let missing: Vec<_> = (0..count).filter(|n| !seen[*n]).collect();
    assert!(
        missing.is_empty(),
        "{} lines are lost, from {} on",
        missing.len(),
        missing[0]
    );
}

fn no_line_of_many_workers_is_torn_or_lost(runtime: Runtime) {
    const LINES: usize = 10_000;
    let run = Run::script(runtime, PRINTS)
        .env("LINES", LINES)
        .workers(4)
        .option("--restart", "never");
    let end = run.end();
    assert_eq!(end.code, Some(0));
    let mut lines: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for said in end.all("line") {
        assert_eq!(said.json["cut"], false);
        let line = (said.text("stream").to_owned(), said.text("text").to_owned());
        lines.entry(said.number("worker")).or_default().push(line);
    }
    assert_eq!(lines.len(), 4);
    lines.values().for_each(|lines| check(lines, LINES));
    assert_eq!(end.said.last().unwrap().event(), "exit", "nothing comes after the end");
}

fn people_see_whole_lines_each_with_its_worker(runtime: Runtime) {
    const LINES: usize = 3_000;
    let run = Run::script(runtime, PRINTS)
        .env("LINES", LINES)
        .option("--restart", "never")
        .option("--name", "api");
    let end = run.human().end();
    assert_eq!(end.code, Some(0));
    for slot in 0..2 {
        let of = |text: &str, stream: &str| -> Vec<(String, String)> {
            let mark = format!("api/{slot} {stream}| ");
            let lines = text.lines().filter_map(|line| line.strip_prefix(&mark));
            lines.map(|line| (stream.to_owned(), line.to_owned())).collect()
        };
        check(&[of(&end.printed, "out"), of(&end.stderr, "err")].concat(), LINES);
    }
    let foreign = end.printed.lines().find(|line| !line.starts_with("api/"));
    assert_eq!(foreign, None, "standard output has lines of workers only");
}

fn a_line_longer_than_64_kib_comes_in_marked_pieces(runtime: Runtime) {
    let text = "console.log('y'.repeat(200000)); process.stdout.write('', () => process.exit(0))";
    let end = Run::script(runtime, text).workers(1).option("--restart", "never").end();
    let pieces = end.all("line");
    let cut: Vec<_> = pieces.iter().map(|said| said.json["cut"] == true).collect();
    assert_eq!(cut, [true, true, true, false]);
    assert_eq!(
        pieces.iter().map(|said| said.text("text").len()).sum::<usize>(),
        200_000
    );
}

fn bytes_that_are_no_text_are_passed_on(runtime: Runtime) {
    let text = "
        process.stdout.write(Buffer.from([0xff, 0x00, 0x61, 0x0a]), () => process.exit(0));
    ";
    let end = Run::script(runtime, text).workers(1).option("--restart", "never").end();
    assert_eq!(end.only("line").text("text"), "\u{fffd}\0a");
}

fn the_last_line_needs_no_newline(runtime: Runtime) {
    let text = "process.stdout.write('unfinished', () => process.exit(0))";
    let end = Run::script(runtime, text).workers(1).option("--restart", "never").end();
    assert_eq!(end.only("line").text("text"), "unfinished");
}

/// Messages enough to fill every pipe and queue, then a server.
const BABBLES: &str = "
    for (let n = 0; n < 6000; n++) process.send({ n, text: 'x'.repeat(50) });
    const answer = (req, res) => res.setHeader('x-pid', process.pid).end('hello');
    require('node:http').createServer(answer).listen(Number(process.env.PORT), '127.0.0.1');
";

fn a_reader_that_does_not_read_stops_neither_serving_nor_stopping(runtime: Runtime) {
    let port = client::free_port();
    let thead = Run::script(runtime, BABBLES).env("PORT", port).unread().start();
    eventually("it serves", || client::try_get(port, "/").ok());
    for _ in 0..20 {
        assert_eq!(client::get(port, "/").body, "hello");
    }
    thead.stop();
}

fn a_flood_of_messages_drowns_no_event(runtime: Runtime) {
    let port = client::free_port();
    let mut thead = Run::script(runtime, BABBLES)
        .workers(1)
        .env("PORT", port)
        .unread()
        .start();
    eventually("it serves", || client::try_get(port, "/").ok());
    let worker = client::get(port, "/").pid();
    conformance::kill(worker, Signal::KILL);
    eventually("another serves", || {
        client::try_get(port, "/").ok().filter(|answer| answer.pid() != worker)
    });
    let mut stdout = thead.take_stdout();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    thead.stop();
    let text = reader.join().unwrap().unwrap();
    let said: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |event: &str| said.iter().filter(|said| said["event"] == event).count();
    assert_eq!(
        (count("spawned"), count("ready"), count("exited"), count("exit")),
        (2, 2, 2, 1)
    );
    let missed: u64 = said.iter().filter_map(|said| said["missed"].as_u64()).sum();
    assert_eq!(count("message") as u64 + missed, 12_000, "what was dropped is counted");
}

fn a_reader_that_goes_away_stops_nothing(runtime: Runtime) {
    let text = "
        const server = require('node:http').createServer((req, res) => {
            console.log('x'.repeat(1000));
            res.end('hello');
        });
        server.listen(Number(process.env.PORT), '127.0.0.1');
    ";
    let port = client::free_port();
    // As `thead run … | head`: the first line is read, then nobody is there.
    let run = Run::script(runtime, text).env("PORT", port).human().unread();
    let mut thead = run.start();
    drop(thead.take_stdout());
    eventually("it serves", || client::try_get(port, "/").ok());
    for _ in 0..300 {
        assert_eq!(client::get(port, "/").body, "hello");
    }
    thead.stop();
}

fn a_worker_that_prints_to_nobody_waits_and_goes_on(runtime: Runtime) {
    let text = "
        process.on('SIGUSR2', () => process.exit(0));
        for (let n = 0; n < 20000; n++) process.stdout.write('x'.repeat(99) + '\\n');
        process.stdout.write('done\\n');
        setInterval(() => {}, 1000);
    ";
    let mut thead = Run::script(runtime, text)
        .workers(1)
        .human()
        .unread()
        .option("--ready", "0")
        .start();
    // 2 MB are more than the pipes and queues on the way hold: until somebody reads, it cannot be done.
    let mut stdout = thead.take_stdout();
    let mut text = Vec::new();
    let mut piece = [0; 1 << 16];
    while !text.ends_with(b"done\n") {
        let read = stdout.read(&mut piece).unwrap();
        assert_ne!(read, 0);
        text.extend_from_slice(&piece[..read]);
    }
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 20_001);
    drop(stdout);
    thead.signal(Signal::TERM);
    assert_eq!(thead.wait().code, Some(0));
}

fn standard_input_of_workers_is_empty(runtime: Runtime) {
    let text = "
        process.stdin.on('data', (data) => console.log('data ' + data));
        process.stdin.on('end', () => process.stdout.write('end\\n', () => process.exit(0)));
    ";
    let end = Run::script(runtime, text).workers(1).option("--restart", "never").end();
    assert_eq!(end.only("line").text("text"), "end");
}

on!([node22 Node22, bun Bun, deno Deno]:
    no_line_of_many_workers_is_torn_or_lost,
);
on!([node22 Node22]:
    people_see_whole_lines_each_with_its_worker,
    a_line_longer_than_64_kib_comes_in_marked_pieces,
    bytes_that_are_no_text_are_passed_on,
    the_last_line_needs_no_newline,
    a_reader_that_does_not_read_stops_neither_serving_nor_stopping,
    a_flood_of_messages_drowns_no_event,
    a_reader_that_goes_away_stops_nothing,
    a_worker_that_prints_to_nobody_waits_and_goes_on,
    standard_input_of_workers_is_empty,
);

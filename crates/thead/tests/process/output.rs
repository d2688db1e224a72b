//! What workers print, on its way to whoever wants it.

use std::time::Duration;

use thead::Command;
use thead::core::service::Outcome;
use thead::output::{self, Block, Item, Queue, Sink, Stream, WhenFull};
use thead::service::{Drain, Options, Policy, Program, Ready, Service, ServiceEvent};

use crate::kit::{forget_peak, in_time, peak, test};

/// A service of shells that run until they end.
fn service(script: &str, instances: usize, sink: Sink) -> Service {
    let mut program = Program::new(Command::new("sh").arg("-c").arg(script));
    program.drain = Drain::Signal;
    let mut options = Options::new(program);
    let life = &mut options.settings.life;
    life.instances = instances;
    life.ready = Ready::After(Duration::ZERO);
    life.restart.policy = Policy::Never;
    options.lines = Some(sink);
    Service::start(options).unwrap()
}

async fn ends(service: &mut Service) {
    while let Some(event) = in_time("the end", service.next()).await {
        if let ServiceEvent::Finished(outcome) = event {
            assert_eq!(outcome, Outcome::Done);
        }
    }
}

async fn blocks(mut queue: Queue) -> Vec<Block> {
    let mut blocks = Vec::new();
    while let Some(item) = in_time("all lines", queue.next()).await {
        match item {
            Item::Block(block) => blocks.push(block),
            other => panic!("{other:?}"),
        }
    }
    blocks
}

/// All that the workers of a service print until they end.
async fn printed(script: &str, instances: usize) -> Vec<Block> {
    let (sink, queue) = output::queue(64 << 10);
    let mut service = service(script, instances, sink);
    let run = async {
        ends(&mut service).await;
        drop(service);
    };
    tokio::join!(run, blocks(queue)).1
}

fn text_of(blocks: &[Block], slot: u32, stream: Stream) -> String {
    let of = blocks
        .iter()
        .filter(|block| (block.from.slot.0, block.from.stream) == (slot, stream));
    let bytes: Vec<u8> = of.flat_map(|block| block.text.clone()).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn every_line_of_every_stream_comes_once_and_in_order() {
    test(async || {
        let script = "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; echo err $n >&2; done";
        let blocks = printed(script, 3).await;
        let expected = |mark: &str| (1..=3000).map(|n| format!("{mark}{n}\n")).collect::<String>();
        for slot in 0..3 {
            assert_eq!(text_of(&blocks, slot, Stream::Stdout), expected(""));
            assert_eq!(text_of(&blocks, slot, Stream::Stderr), expected("err "));
        }
        for block in &blocks {
            assert!(!block.cut && block.text.ends_with(b"\n"));
            assert!(block.from.pid > 1);
        }
    });
}

#[test]
fn a_flood_of_short_lines_comes_in_few_blocks() {
    test(async || {
        let blocks = printed("n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done", 1).await;
        let lines: usize = blocks.iter().map(Block::line_count).sum();
        assert_eq!(lines, 20_000);
        assert!(blocks.len() < lines / 10, "{} blocks", blocks.len());
    });
}

#[test]
fn a_line_waits_until_it_has_its_end() {
    test(async || {
        let blocks = printed("printf a; sleep 0.05; printf b; sleep 0.05; printf 'c\\nd'", 1).await;
        let texts: Vec<_> = blocks.iter().map(|block| &*block.text).collect();
        assert_eq!(texts, [&b"abc\n"[..], b"d"]);
    });
}

#[test]
fn g28_a_queue_that_nobody_takes_from_holds_no_worker_up_if_it_is_to_drop() {
    test(async || {
        let before = forget_peak();
        let (sink, mut queue) = output::queue(256 << 10);
        sink.set_when_full(WhenFull::Drop);
        let mut service = service("yes 'a line of some length' | head -n 2000000", 1, sink.clone());
        ends(&mut service).await;
        drop(service);
        let grown = peak().saturating_sub(before);
        assert!(grown < 8 << 20, "grown by {} KiB", grown >> 10);
        // What was read last is on its way.
        let (mut kept, mut dropped) = (0, 0);
        while kept + dropped < 2_000_000 {
            match in_time("the rest", queue.next()).await.unwrap() {
                Item::Block(block) => kept += block.line_count() as u64,
                Item::Dropped { lines, .. } => dropped += lines,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((kept + dropped, dropped), (2_000_000, sink.dropped_lines()));
        assert!(dropped > 1_900_000, "{dropped}");
    });
}

#[test]
fn a_worker_may_print_a_megabyte_before_anybody_reads() {
    test(async || {
        let most = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap();
        if most.trim().parse::<usize>().unwrap() < 1 << 20 {
            eprintln!("skipped: pipes hold no more than {most}");
            return;
        }
        // Full, and whoever sends waits.
        let (sink, queue) = output::queue(0);
        // A worker that is held up does not end.
        let mut service = service("yes | head -c 900000", 1, sink);
        ends(&mut service).await;
        drop(queue);
    });
}

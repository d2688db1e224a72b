//! What can be found in files.

use std::fs;
use std::time::{Duration, SystemTime};

use regex::bytes::Regex;
use thead::output::Stream;

use super::kit::{PID, Scene, close, numbered, origin, patient, print, print_at, print_lines, text, texts};
use crate::log::read::{Begin, Cursor, Entry, Filter, Query, Reader, Then};
use crate::log::{Kind, Settings, Time, Writer};

fn at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200 + second)
}

/// A thousand lines, one a second, over many files of which some are compressed.
async fn thousand() -> Scene {
    let scene = Scene::new();
    let writer = scene.open(Settings {
        max_size: 4 << 10,
        compress: false,
        ..patient()
    });
    let sink = writer.sink();
    for (second, line) in (0..).zip(numbered(0..1000)) {
        let stream = if second % 10 == 3 {
            Stream::Stderr
        } else {
            Stream::Stdout
        };
        print_at(
            &sink,
            at(second),
            origin(u32::try_from(second % 4).unwrap(), stream),
            line + "\n",
        )
        .await;
    }
    close(writer).await;
    let asides = scene.log().asides().unwrap();
    assert!(asides.len() > 10);
    for aside in asides.iter().step_by(2) {
        pack(&aside.path);
    }
    scene
}

fn pack(path: &std::path::Path) {
    // By another name until it is whole: the housekeeper may still be about.
    let part = path.with_extension("part");
    let packed = fs::File::create(&part).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
    std::io::copy(&mut fs::File::open(path).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    fs::rename(part, format!("{}.gz", path.display())).unwrap();
    let _ = fs::remove_file(path);
}

#[tokio::test]
async fn the_last_lines_are_those_at_the_end_of_all_whatever_is_asked_for() {
    let scene = thousand().await;
    assert_eq!(scene.texts(), numbered(0..1000));
    let filters = [
        Filter::default(),
        Filter {
            grep: Some(Regex::new("^[0-9]*7 x").unwrap()),
            ..Filter::default()
        },
        Filter {
            kinds: vec![Kind::Stderr],
            ..Filter::default()
        },
        Filter {
            slot: Some(3),
            since: Some(at(100).into()),
            until: Some(at(900).into()),
            ..Filter::default()
        },
        Filter {
            pid: Some(PID + 1),
            ..Filter::default()
        },
    ];
    for filter in filters {
        let all = scene.entries(Begin::Oldest, filter.clone());
        for count in [0, 1, 2, 10, 99, 100, 500, 999, 1000, 2000] {
            let last = scene.entries(Begin::Last(count), filter.clone());
            assert_eq!(last, all[all.len().saturating_sub(count)..], "{count} of {filter:?}");
        }
    }
}

#[tokio::test]
async fn only_what_is_wanted_is_shown() {
    let scene = thousand().await;
    let numbers = |filter: Filter| -> Vec<usize> {
        let entries = scene.entries(Begin::Oldest, filter);
        let number = |entry: &Entry| text(entry).split(' ').next().unwrap().parse().unwrap();
        entries.iter().map(number).collect()
    };
    let some = |wanted: fn(&usize) -> bool| (0..1000).filter(wanted).collect::<Vec<_>>();
    let none = Filter::default;
    assert_eq!(
        numbers(Filter {
            since: Some(at(200).into()),
            until: Some(at(299).into()),
            ..none()
        }),
        (200..300).collect::<Vec<_>>()
    );
    assert_eq!(
        numbers(Filter {
            kinds: vec![Kind::Stderr],
            ..none()
        }),
        some(|n| n % 10 == 3)
    );
    assert_eq!(
        numbers(Filter {
            slot: Some(2),
            ..none()
        }),
        some(|n| n % 4 == 2)
    );
    assert_eq!(
        numbers(Filter {
            pid: Some(PID),
            ..none()
        })
        .len(),
        1000
    );
    assert_eq!(
        numbers(Filter {
            grep: Some(Regex::new("^5.. ").unwrap()),
            ..none()
        }),
        (500..600).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn services_are_shown_together_by_time() {
    let scene = Scene::new();
    let names = ["api", "web", "worker"].map(String::from);
    let writers = names
        .each_ref()
        .map(|name| Writer::open(scene.dir(), name, patient()).unwrap());
    for second in 0..300 {
        let writer = &writers[second * 7 % 11 % 3];
        print_at(
            &writer.sink(),
            at(second as u64),
            origin(0, Stream::Stdout),
            format!("{second}\n"),
        )
        .await;
    }
    for writer in writers {
        close(writer).await;
    }
    let read = |begin: Begin| {
        let query = Query {
            filter: Filter::default(),
            begin,
            follow: false,
        };
        let mut reader = Reader::open(scene.dir(), &names, query).unwrap();
        let batch = reader.read().unwrap();
        assert_eq!(batch.then, Then::End);
        (batch.entries, reader.cursor())
    };
    let (all, cursor) = read(Begin::Oldest);
    assert_eq!(texts(&all), (0..300).map(|n| n.to_string()).collect::<Vec<_>>());
    for entry in &all {
        let second: usize = text(entry).parse().unwrap();
        assert_eq!(*entry.service, names[second * 7 % 11 % 3]);
    }
    for count in [0, 1, 5, 100, 299, 300, 301] {
        assert_eq!(read(Begin::Last(count)).0, all[300_usize.saturating_sub(count)..]);
    }
    assert_eq!(read(Begin::At(cursor)).0, []);
}

#[tokio::test]
async fn who_follows_all_services_sees_those_that_come_later() {
    let scene = Scene::new();
    let query = || Query {
        filter: Filter::default(),
        begin: Begin::Last(0),
        follow: true,
    };
    let old = Writer::open(scene.dir(), "old", patient()).unwrap();
    print(&old.sink(), "before\n").await;
    close(old).await;
    let mut all = Reader::open(scene.dir(), &[], query())
        .unwrap()
        .with_newcomers(scene.dir())
        .unwrap();
    let mut named = Reader::open(scene.dir(), &["api".into()], query()).unwrap();
    assert_eq!(all.read().unwrap().then, Then::Wait);
    for name in ["api", "old", "web"] {
        let writer = Writer::open(scene.dir(), name, patient()).unwrap();
        print(&writer.sink(), format!("of {name}\n")).await;
        close(writer).await;
    }
    // One that prints without end must not hide the others.
    let busy = Writer::open(scene.dir(), "old", patient()).unwrap();
    let sink = busy.sink();
    let mut seen = Vec::new();
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while seen.len() < 3 && std::time::Instant::now() < until {
        print(&sink, "tick\n").await;
        seen.extend(texts(&all.read().unwrap().entries));
        seen.retain(|line| line != "tick");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(sink);
    close(busy).await;
    seen.sort();
    assert_eq!(seen, ["of api", "of old", "of web"]);
    assert_eq!(texts(&named.read().unwrap().entries), ["of api"]);
}

#[test]
fn a_cursor_is_a_text_and_any_other_text_is_none() {
    for text in ["", "api:1f2e-5a0", "api:0-0,we-b.x:ffffffffffffffff-10"] {
        assert_eq!(text.parse::<Cursor>().unwrap().to_string(), text);
    }
    for text in [
        "api",
        "api:",
        "api:1",
        "api:1-x",
        "api:-1",
        "api:1-2-3",
        "api:11111111111111111-0",
    ] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn who_comes_with_a_cursor_of_a_file_that_is_gone_gets_all_that_is_left() {
    let scene = thousand().await;
    let query = |begin| Query {
        filter: Filter::default(),
        begin,
        follow: false,
    };
    let cursor = {
        let writer = Scene::new();
        let other = writer.open(patient());
        print(&other.sink(), "gone\n").await;
        close(other).await;
        let mut reader = writer.reader(query(Begin::Oldest));
        reader.read().unwrap();
        reader.cursor()
    };
    assert_eq!(texts(&scene.entries(Begin::At(cursor), Filter::default())).len(), 1000);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_hides_no_other() {
    let scene = thousand().await;
    let asides = scene.log().asides().unwrap();
    let packed: Vec<_> = asides.iter().filter(|aside| aside.compressed).collect();
    // One is cut off in the middle, one is nothing, one leads elsewhere.
    let bytes = fs::read(&packed[1].path).unwrap();
    fs::write(&packed[1].path, &bytes[..bytes.len() / 2]).unwrap();
    fs::write(&packed[2].path, "no gzip").unwrap();
    fs::remove_file(&packed[3].path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &packed[3].path).unwrap();
    let entries = scene.all();
    let broken: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Unknown).collect();
    assert_eq!(broken.len(), 3, "{broken:?}");
    assert!(broken.iter().all(|entry| text(entry).contains("cannot be read")));
    let texts = texts(&entries);
    assert!(texts.len() > 850, "{}", texts.len());
    assert_eq!(texts.last(), numbered(999..1000).last());
    let last = scene.entries(Begin::Last(990), Filter::default());
    assert!(last.len() > 850, "{}", last.len());
}

#[tokio::test]
async fn lines_that_are_no_records_are_shown_and_do_not_hide_others() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    print_at(&writer.sink(), at(0), origin(0, Stream::Stdout), "one\n").await;
    close(writer).await;
    let mut text = fs::read(scene.live()).unwrap();
    text.extend_from_slice(b"not ours\n\n\xff\xff\n");
    fs::write(scene.live(), text).unwrap();
    let writer = scene.open(patient());
    print_at(&writer.sink(), at(1), origin(0, Stream::Stdout), "two\n").await;
    close(writer).await;
    let shown =
        |entries: &[Entry]| -> Vec<(Kind, Time)> { entries.iter().map(|entry| (entry.kind, entry.time)).collect() };
    let (first, second) = ((Kind::Stdout, at(0).into()), (Kind::Stdout, at(1).into()));
    let unknown = (Kind::Unknown, at(0).into());
    assert_eq!(shown(&scene.all()), [first, unknown, unknown, unknown, second]);
    let filter = Filter {
        since: Some(at(0).into()),
        ..Filter::default()
    };
    assert_eq!(shown(&scene.entries(Begin::Last(5), filter)), shown(&scene.all()));
}

#[tokio::test]
async fn g39_a_line_without_end_in_a_file_costs_no_more_memory_than_any_other() {
    let scene = Scene::new();
    let length = 40 << 20;
    fs::write(
        scene.live(),
        [b"2026-11-23T12:00:00.000Z 0 1 out ".to_vec(), vec![b'x'; length]].concat(),
    )
    .unwrap();
    let pieces = scene.entries(Begin::Oldest, Filter::default());
    assert!(pieces.iter().all(|entry| entry.text.len() <= 128 << 10));
    assert_eq!(pieces.iter().map(|entry| entry.text.len()).sum::<usize>(), length);
    assert!(scene.entries(Begin::Last(1), Filter::default())[0].text.len() <= 256 << 10);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let scene = Scene::new();
    let writer = scene.open(Settings {
        max_size: 64 << 10,
        keep: 2,
        ..patient()
    });
    let mut reader = scene.reader(Query {
        filter: Filter::default(),
        begin: Begin::Oldest,
        follow: true,
    });
    print(&writer.sink(), "first\n").await;
    super::kit::eventually("it is written", || (writer.stats().lines == 1).then_some(())).await;
    assert_eq!(texts(&reader.read().unwrap().entries), ["first"]);
    print_lines(&writer.sink(), &numbered(0..20_000), 100).await;
    close(writer).await;
    // What it holds open is read to its end; then comes what is still there.
    let mut seen = Vec::new();
    loop {
        let batch = reader.read().unwrap();
        seen.extend(texts(&batch.entries));
        if batch.then == Then::Wait {
            break;
        }
    }
    assert_eq!(seen[0], numbered(0..1)[0]);
    assert_eq!(seen.last(), numbered(19_999..20_000).last());
}

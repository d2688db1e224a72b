//! G29: files are put aside, moved away and truncated, and no line is lost.

use std::fs;
use std::time::Duration;

use super::kit::{DEADLINE, Scene, close, eventually, numbered, patient, print, print_lines, texts};
use crate::log::read::{Begin, Cursor, Filter, Query, Reader, Stream, Then};
use crate::log::{Settings, Writer};

const LINES: usize = 40_000;

fn small(compress: bool) -> Settings {
    Settings {
        max_size: 4 << 10,
        compress,
        ..patient()
    }
}

fn following(begin: Begin) -> Query {
    Query {
        filter: Filter::default(),
        begin,
        follow: true,
    }
}

#[tokio::test]
async fn g29_a_thousand_rotations_lose_no_line_and_double_none() {
    let scene = Scene::new();
    let writer = scene.open(small(false));
    print_lines(&writer.sink(), &numbered(0..LINES), 50).await;
    eventually("all is written", || {
        (writer.stats().lines == LINES as u64).then_some(())
    })
    .await;
    let stats = writer.stats();
    close(writer).await;
    assert!(stats.put_aside >= 1000, "{stats:?}");
    let asides = scene.log().asides().unwrap();
    assert_eq!(asides.len() as u64, stats.put_aside);
    for aside in &asides {
        assert!(fs::metadata(&aside.path).unwrap().len() <= 4 << 10);
    }
    assert_eq!(scene.texts(), numbered(0..LINES));
}

#[tokio::test]
async fn g29_one_who_follows_sees_every_line_once_while_files_are_put_aside_and_compressed() {
    let scene = Scene::new();
    let writer = scene.open(small(true));
    let mut stream = Stream::new(scene.reader(following(Begin::Oldest)));
    let sink = writer.sink();
    let print_all = tokio::spawn(async move { print_lines(&sink, &numbered(0..LINES), 50).await });
    let mut seen = Vec::new();
    while seen.len() < LINES {
        let Ok(got) = tokio::time::timeout(DEADLINE, stream.next()).await else {
            panic!("nothing more after {:?}, {} lines", seen.last(), seen.len());
        };
        seen.extend(texts(&got.unwrap().unwrap().0));
    }
    print_all.await.unwrap();
    assert!(writer.stats().put_aside >= 1000);
    close(writer).await;
    assert_eq!(seen, numbered(0..LINES));
}

#[tokio::test]
async fn g29_one_who_reads_every_line_as_it_is_written_misses_none_between_two_files() {
    let scene = Scene::new();
    let writer = scene.open(small(false));
    let mut reader = scene.reader(following(Begin::Oldest));
    let read_all = tokio::task::spawn_blocking(move || {
        let until = std::time::Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        while seen.len() < 5000 && std::time::Instant::now() < until {
            seen.extend(texts(&reader.read().unwrap().entries));
        }
        seen
    });
    // Nothing waits for more to be written at once.
    for (n, line) in numbered(0..5000).into_iter().enumerate() {
        print(&writer.sink(), line + "\n").await;
        eventually("it is written", || (writer.stats().lines > n as u64).then_some(())).await;
    }
    close(writer).await;
    assert_eq!(read_all.await.unwrap(), numbered(0..5000));
}

#[tokio::test]
async fn g29_one_who_comes_back_with_a_cursor_goes_on_where_it_was() {
    let scene = Scene::new();
    let writer = scene.open(Settings {
        max_size: 24 << 10,
        ..small(true)
    });
    let sink = writer.sink();
    let mut cursor = Cursor::default();
    let mut seen = Vec::new();
    for round in 0..20 {
        print_lines(&sink, &numbered(round * 500..(round + 1) * 500), 50).await;
        // Each time a new reader, which gets the place as text, reads some and goes away.
        let begin = Begin::At(cursor.to_string().parse().unwrap());
        let mut reader = scene.reader(following(begin));
        for _ in 0..round % 3 {
            seen.extend(texts(&reader.read().unwrap().entries));
        }
        cursor = reader.cursor();
    }
    close(writer).await;
    // What was the live file is compressed by now.
    eventually("all is compressed", || {
        scene
            .log()
            .asides()
            .unwrap()
            .iter()
            .all(|aside| aside.compressed)
            .then_some(())
    })
    .await;
    let mut reader = scene.reader(Query {
        follow: false,
        ..following(Begin::At(cursor))
    });
    loop {
        let batch = reader.read().unwrap();
        seen.extend(texts(&batch.entries));
        if batch.then == Then::End {
            break;
        }
    }
    assert_eq!(seen, numbered(0..10_000));
}

#[tokio::test]
async fn g29_no_line_is_lost_when_the_log_is_moved_away_and_opened_anew() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    let moved = |n: usize| scene.dir().join(format!("moved.{n}"));
    for n in 0..50 {
        print_lines(&sink, &numbered(n * 100..(n + 1) * 100), 7).await;
        eventually("there is a file", || fs::rename(scene.live(), moved(n)).ok()).await;
        writer.reopen();
    }
    print(&sink, "last\n").await;
    close(writer).await;
    let files = (0..50).map(moved).chain([scene.live()]);
    let lines: Vec<String> = files
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines()
                .map(|line| line.splitn(5, ' ').nth(4).unwrap().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let mut expected = numbered(0..5000);
    expected.push("last".into());
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn g29_a_log_that_is_moved_away_or_deleted_unasked_is_noticed() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    for n in 0..2 {
        print(&sink, "text\n").await;
        eventually("there is a file", || fs::remove_file(scene.live()).ok()).await;
        let until = std::time::Instant::now() + DEADLINE;
        while !scene.live().exists() {
            assert!(std::time::Instant::now() < until, "deletion {n} was not noticed");
            print(&sink, "more\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    close(writer).await;
}

#[tokio::test]
async fn g29_a_log_that_somebody_has_replaced_by_another_file_is_noticed() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    print(&sink, "text\n").await;
    // As `logrotate` with create does it.
    let moved = scene.dir().join("api.log.1");
    eventually("there is a file", || fs::rename(scene.live(), &moved).ok()).await;
    fs::write(scene.live(), "").unwrap();
    let until = std::time::Instant::now() + DEADLINE;
    while fs::metadata(scene.live()).unwrap().len() == 0 {
        assert!(std::time::Instant::now() < until);
        print(&sink, "more\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    close(writer).await;
}

#[tokio::test]
async fn one_who_follows_sees_what_comes_after_the_log_was_truncated_or_moved_away() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    let mut stream = Stream::new(scene.reader(following(Begin::Oldest)));
    let mut next = async || {
        let (entries, _) = tokio::time::timeout(DEADLINE, stream.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        texts(&entries)
    };
    print(&sink, "one\n").await;
    assert_eq!(next().await, ["one"]);
    // As `logrotate` with copytruncate does it.
    fs::File::options()
        .write(true)
        .open(scene.live())
        .unwrap()
        .set_len(0)
        .unwrap();
    print(&sink, "2\n").await;
    assert_eq!(next().await, ["2"]);
    print(&sink, "three\n").await;
    assert_eq!(next().await, ["three"]);
    print(&sink, "four\n").await;
    eventually("it is written", || (writer.stats().lines == 4).then_some(())).await;
    fs::rename(scene.live(), scene.dir().join("api.log.1")).unwrap();
    writer.reopen();
    print(&sink, "five\n").await;
    let mut rest = Vec::new();
    while rest.len() < 2 {
        rest.extend(next().await);
    }
    assert_eq!(rest, ["four", "five"]);
    close(writer).await;
}

#[tokio::test]
async fn no_more_files_are_kept_than_are_asked_for() {
    let scene = Scene::new();
    let writer = scene.open(Settings { keep: 3, ..small(true) });
    print_lines(&writer.sink(), &numbered(0..5000), 50).await;
    eventually("the rest is deleted", || {
        let asides = scene.log().asides().unwrap();
        let done = writer.stats().put_aside > 100 && asides.len() == 3 && asides.iter().all(|aside| aside.compressed);
        done.then_some(())
    })
    .await;
    // Less is kept from now on.
    writer.configure(Settings { keep: 1, ..small(true) });
    eventually("less is kept", || {
        (scene.log().asides().unwrap().len() == 1).then_some(())
    })
    .await;
    close(writer).await;
    let texts = scene.texts();
    assert_eq!(texts, numbered(5000 - texts.len()..5000));
}

#[tokio::test]
async fn two_writers_of_one_log_lose_nothing_and_tear_nothing() {
    // As a primary and its successor, for a moment.
    let scene = Scene::new();
    let writers: [Writer; 2] = [(); 2].map(|()| scene.open(small(true)));
    let print_all = writers.each_ref().map(|writer| {
        let sink = writer.sink();
        tokio::spawn(async move { print_lines(&sink, &numbered(0..5000), 20).await })
    });
    for all in print_all {
        all.await.unwrap();
    }
    for writer in writers {
        close(writer).await;
    }
    let mut reader = Reader::open(
        scene.dir(),
        &["api".into()],
        Query {
            follow: false,
            ..following(Begin::Oldest)
        },
    )
    .unwrap();
    let mut lines = Vec::new();
    loop {
        let batch = reader.read().unwrap();
        lines.extend(texts(&batch.entries));
        if batch.then == Then::End {
            break;
        }
    }
    let mut expected = [numbered(0..5000), numbered(0..5000)].concat();
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
}

//! What ends up in files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use thead::core::worker::Slot;
use thead::output::{Block, Stream, WhenFull};

use super::kit::{DEADLINE, PID, Scene, close, eventually, origin, patient, print, print_at};
use crate::log::writer::Event;
use crate::log::{Kind, Settings, Time};

#[tokio::test]
async fn lines_and_notes_are_written_in_the_order_in_which_they_come() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_435_200_123);
    writer.note(None, "started");
    print_at(&sink, time, origin(2, Stream::Stdout), "one\ntwo\n").await;
    print_at(&sink, time, origin(2, Stream::Stderr), "\n").await;
    writer.note(Some((Slot(2), PID)), "exited\nwith code 1");
    close(writer).await;
    let text = fs::read_to_string(scene.live()).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[1..4],
        [
            "2026-11-23T12:00:00.123Z 2 4711 out one",
            "2026-11-23T12:00:00.123Z 2 4711 out two",
            "2026-11-23T12:00:00.123Z 2 4711 err ",
        ]
    );
    assert!(lines[0].ends_with(" - - thead started"), "{text}");
    assert!(lines[4].ends_with(" 2 4711 thead exited with code 1"), "{text}");
    assert_eq!(lines.len(), 5);
}

#[tokio::test]
async fn what_a_worker_writes_is_kept_byte_for_byte() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    let texts: [&[u8]; 4] = [
        b"\r\x1b[2J\0\xff\xfe",
        b"2026-11-23T12:00:00.123Z - - thead api: forged",
        b"",
        "\u{202e}\u{2028}\u{85}".as_bytes(),
    ];
    for text in texts {
        print(&sink, [text, b"\n"].concat()).await;
    }
    let cut = Block {
        from: origin(0, Stream::Stdout),
        time: SystemTime::now(),
        text: b"the first piece".to_vec(),
        cut: true,
    };
    sink.send(cut).await;
    print(&sink, "and the last").await;
    close(writer).await;
    let entries = scene.all();
    assert!(
        entries
            .iter()
            .all(|entry| entry.kind == Kind::Stdout && entry.about == Some((0, PID)))
    );
    let read: Vec<_> = entries.iter().map(|entry| (&*entry.text, entry.cut)).collect();
    let mut expected: Vec<_> = texts.map(|text| (text, false)).into();
    expected.extend([(&b"the first piece"[..], true), (b"and the last", false)]);
    assert_eq!(read, expected);
}

#[tokio::test]
async fn files_can_be_read_by_their_group_and_written_by_nobody_else() {
    let scene = Scene::new();
    let dir = scene.dir().join("logs");
    let writer = crate::log::Writer::open(&dir, "api", patient()).unwrap();
    writer.note(None, "started");
    close(writer).await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir) & !0o750, 0);
    assert_eq!(mode(&dir.join("api.log")) & !0o640, 0);
}

#[tokio::test]
async fn a_record_that_was_not_finished_is_marked_and_nothing_is_written_into_it() {
    let scene = Scene::new();
    fs::write(
        scene.live(),
        "2026-11-23T12:00:00.123Z 0 1 out whole\n2026-11-23T12:00:00.123Z 0 1 out ha",
    )
    .unwrap();
    let writer = scene.open(patient());
    print(&writer.sink(), "new\n").await;
    close(writer).await;
    assert_eq!(scene.texts(), ["whole", "ha", "new"]);
    assert_eq!(scene.notes(), ["the record before this one is not whole"]);
}

/// Something that must not be written to stands where the log belongs.
async fn is_refused_until_it_is_gone(scene: &Scene, what: &str) {
    let mut writer = scene.open(patient());
    print(&writer.sink(), "kept\n").await;
    let event = tokio::time::timeout(DEADLINE, writer.next()).await.unwrap();
    let Event::Failing(error) = event else {
        panic!("{event:?}");
    };
    assert!(error.to_string().contains(what), "{error}");
    assert!(writer.stats().failing.unwrap().contains(what));
    let path = scene.live();
    fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
    let event = tokio::time::timeout(DEADLINE, writer.next()).await.unwrap();
    assert!(matches!(event, Event::Recovered { .. }), "{event:?}");
    assert_eq!(writer.stats().failing, None);
    close(writer).await;
    assert_eq!(scene.texts(), ["kept"]);
    let notes = scene.notes();
    assert!(
        notes.len() == 1 && notes[0].contains("written late") && notes[0].contains(what),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_symbolic_link_in_place_of_the_log_is_refused() {
    let scene = Scene::new();
    let secret = scene.dir().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    symlink(&secret, scene.live()).unwrap();
    is_refused_until_it_is_gone(&scene, "a symbolic link").await;
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret\n");
}

#[tokio::test]
async fn a_hard_link_in_place_of_the_log_is_refused() {
    let scene = Scene::new();
    let secret = scene.dir().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    fs::hard_link(&secret, scene.live()).unwrap();
    is_refused_until_it_is_gone(&scene, "hard-linked").await;
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret\n");
}

#[tokio::test]
async fn a_fifo_in_place_of_the_log_is_refused_and_not_waited_for() {
    let scene = Scene::new();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, scene.live(), fifo, mode, 0).unwrap();
    is_refused_until_it_is_gone(&scene, "a FIFO").await;
}

#[tokio::test]
async fn a_directory_in_place_of_the_log_is_refused() {
    let scene = Scene::new();
    fs::create_dir(scene.live()).unwrap();
    is_refused_until_it_is_gone(&scene, "a directory").await;
}

#[tokio::test]
async fn g28_a_log_that_cannot_be_written_holds_nobody_up_and_tells_what_is_lost() {
    let scene = Scene::new();
    fs::create_dir(scene.live()).unwrap();
    let settings = Settings {
        when_full: WhenFull::Drop,
        queue: 64 << 10,
        ..patient()
    };
    let mut writer = scene.open(settings.clone());
    let sink = writer.sink();
    let line = "x".repeat(99) + "\n";
    let begun = std::time::Instant::now();
    // 10 MB; some of them wait, for 100 ms and a tenth of the time.
    for _ in 0..1000 {
        print(&sink, line.repeat(100)).await;
    }
    assert!(begun.elapsed() < DEADLINE / 10, "{:?}", begun.elapsed());
    let stats = writer.stats();
    assert!(stats.waiting < 128 << 10, "{stats:?}");
    assert!(stats.dropped_lines > 90_000, "{stats:?}");
    fs::remove_dir(scene.live()).unwrap();
    while !matches!(writer.next().await, Event::Recovered { .. }) {}
    // In a queue that is long enough nothing more is dropped.
    writer.configure(Settings {
        queue: 1 << 20,
        ..settings
    });
    print(&sink, "after\n").await;
    let dropped = writer.stats().dropped_lines;
    close(writer).await;
    let texts = scene.texts();
    assert_eq!(texts.len() as u64 + dropped, 100_001);
    assert_eq!(texts.last().unwrap(), "after");
    let notes = scene.notes().join("\n");
    assert!(notes.contains(&format!("{dropped} lines were dropped here")), "{notes}");
}

#[tokio::test]
async fn a_writer_that_is_told_to_waits_for_the_disk_and_drops_nothing() {
    let scene = Scene::new();
    fs::create_dir(scene.live()).unwrap();
    let mut writer = scene.open(Settings { queue: 1, ..patient() });
    let sink = writer.sink();
    let print_all = async {
        for n in 0..100 {
            print(&sink, format!("{n}\n")).await;
        }
    };
    let mend = async {
        assert!(matches!(writer.next().await, Event::Failing(_)));
        fs::remove_dir(scene.live()).unwrap();
    };
    tokio::join!(print_all, mend);
    close(writer).await;
    assert_eq!(scene.texts(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_at_the_end_is_told_and_not_waited_for() {
    let scene = Scene::new();
    fs::create_dir(scene.live()).unwrap();
    let writer = scene.open(patient());
    print(&writer.sink(), "lost\n").await;
    assert!(!writer.close(Duration::from_millis(10)).await);
}

#[tokio::test]
async fn what_is_printed_until_the_writer_is_closed_is_written_though_workers_still_print() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    print(&sink, "before\n").await;
    assert!(writer.close(Duration::from_millis(10)).await);
    // Swallowed, and not waited for.
    print(&sink, "after\n").await;
    assert_eq!(scene.texts(), ["before"]);
}

#[tokio::test]
async fn a_file_that_is_too_old_is_put_aside() {
    let scene = Scene::new();
    let hour = Duration::from_secs(3600);
    let old = Time::now().before(2 * hour);
    fs::write(scene.live(), format!("{old} 0 1 out old\n")).unwrap();
    let writer = scene.open(Settings {
        max_age: Some(hour),
        compress: false,
        ..patient()
    });
    print(&writer.sink(), "new\n").await;
    print(&writer.sink(), "newer\n").await;
    eventually("it is written", || (writer.stats().lines == 2).then_some(())).await;
    assert_eq!(writer.stats().put_aside, 1);
    close(writer).await;
    assert_eq!(fs::read_to_string(scene.live()).unwrap().lines().count(), 2);
    assert_eq!(scene.texts(), ["old", "new", "newer"]);
}

#[tokio::test]
async fn no_process_that_was_started_meanwhile_has_the_log_open() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    print(&writer.sink(), "text\n").await;
    eventually("it is written", || (writer.stats().lines == 1).then_some(())).await;
    let inode = fs::metadata(scene.live()).unwrap().ino();
    let seen = std::process::Command::new("ls")
        .args(["-lLi", "/proc/self/fd"])
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    let inodes = seen.lines().filter_map(|line| line.split_whitespace().next());
    assert!(!inodes.into_iter().any(|number| number == inode.to_string()), "{seen}");
    close(writer).await;
}

#[tokio::test]
async fn a_writer_that_is_closed_waits_for_workers_that_have_more_to_say() {
    let scene = Scene::new();
    let writer = scene.open(patient());
    let sink = writer.sink();
    let more = async {
        for n in 0..10 {
            print(&sink, format!("{n}\n")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(sink);
    };
    let (all, ()) = tokio::join!(writer.close(DEADLINE), more);
    assert!(all);
    assert_eq!(scene.texts(), (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

//! G26: the disk is full.

use std::process::Command;

use thead::output::WhenFull;

use super::kit::{Scene, close, eventually, numbered, patient, print, print_lines};
use crate::log::writer::Event;
use crate::log::{Kind, Settings, Writer};

/// Set in a process that has a small file system to itself.
const SMALL: &str = "THEAD_TEST_SMALL_DISK";

/// Runs a test again in a mount namespace of its own, with a file system of this size; says whether that can be. In there
/// it returns the directory.
fn on_small_disk(test: &str, size: &str) -> Option<String> {
    if let Ok(dir) = std::env::var(SMALL) {
        return Some(dir);
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@""#;
    let root = rustix::process::geteuid().is_root();
    let done = Command::new("unshare")
        .args(if root { ["-m", "sh"] } else { ["-rm", "sh"] })
        .args(["-c", script, "sh", size])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(SMALL, dir.path())
        .output();
    match done {
        Ok(done) if done.status.success() => {}
        Ok(done) if done.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&done.stderr)),
        Ok(done) => eprintln!(
            "skipped, mounting is not permitted: {}",
            String::from_utf8_lossy(&done.stderr)
        ),
        Err(error) => eprintln!("skipped, there is no unshare: {error}"),
    }
    None
}

/// Fills what is left, and says how to free it.
fn fill(dir: &str) -> std::path::PathBuf {
    let path = std::path::Path::new(dir).join("ballast");
    let mut file = std::fs::File::create(&path).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    path
}

#[tokio::test]
async fn g26_a_full_disk_loses_what_does_not_fit_counts_it_and_is_recovered_from() {
    let name = "log::tests::disk::g26_a_full_disk_loses_what_does_not_fit_counts_it_and_is_recovered_from";
    let Some(dir) = on_small_disk(name, "128k") else { return };
    let mut writer = Writer::open(
        dir.as_ref(),
        "api",
        Settings {
            when_full: WhenFull::Drop,
            queue: 32 << 10,
            ..patient()
        },
    )
    .unwrap();
    let sink = writer.sink();
    print_lines(&sink, &numbered(0..10), 1).await;
    eventually("it is written", || (writer.stats().lines == 10).then_some(())).await;
    let ballast = fill(&dir);
    print_lines(&sink, &numbered(10..3000), 10).await;
    let event = writer.next().await;
    assert!(
        matches!(&event, Event::Failing(error) if error.to_string().contains("No space left")),
        "{event:?}"
    );
    let dropped = writer.stats().dropped_lines;
    assert!(dropped > 1000, "{dropped}");
    std::fs::remove_file(ballast).unwrap();
    while !matches!(writer.next().await, Event::Recovered { .. }) {}
    print(&sink, "after\n").await;
    close(writer).await;

    let scene = Scene::at(dir.as_ref());
    let (texts, notes) = (scene.texts(), scene.notes().join("\n"));
    // Every line is there or counted, whole, once, in order.
    assert!(scene.all().iter().all(|entry| entry.kind != Kind::Unknown), "torn");
    let (last, texts) = texts.split_last().unwrap();
    assert_eq!(last, "after");
    assert_eq!(texts.len() as u64 + dropped, 3000);
    let all = numbered(0..3000);
    let mut rest = all.iter();
    assert!(
        texts.iter().all(|text| rest.any(|line| line == text)),
        "torn or out of order"
    );
    assert!(
        notes.contains("written late") && notes.contains("No space left"),
        "{notes}"
    );
    let counted: u64 = notes
        .lines()
        .filter_map(|note| note.split_once(" lines were dropped")?.0.parse::<u64>().ok())
        .sum();
    assert_eq!(counted, dropped, "{notes}");
}

#[tokio::test]
async fn g26_files_that_are_put_aside_on_a_full_disk_lose_no_line() {
    let name = "log::tests::disk::g26_files_that_are_put_aside_on_a_full_disk_lose_no_line";
    let Some(dir) = on_small_disk(name, "256k") else { return };
    let writer = Writer::open(
        dir.as_ref(),
        "api",
        Settings {
            max_size: 16 << 10,
            keep: 1,
            ..patient()
        },
    )
    .unwrap();
    // Ten times what there is room for: room is made by deleting, and nothing can be compressed in the end.
    print_lines(&writer.sink(), &numbered(0..40_000), 50).await;
    eventually("it is written", || (writer.stats().lines >= 40_000).then_some(())).await;
    close(writer).await;
    let scene = Scene::at(dir.as_ref());
    // What is deleted between two files that are read is a gap, as it should be.
    eventually("the last to be deleted", || {
        (scene.log().asides().unwrap().len() <= 1).then_some(())
    })
    .await;
    let texts = scene.texts();
    assert_eq!(texts, numbered(40_000 - texts.len()..40_000));
}

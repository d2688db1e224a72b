//! `thead demo`, the first thing that anybody sees.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use conformance::{Runtime, thead_binary};

/// What the demo prints with this directory as PATH; it ends with success after its own requests.
fn demo(path: &Path) -> String {
    let output = Command::new(thead_binary())
        .args(["demo", "--once"])
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn answers(printed: &str, by: &str) -> usize {
    printed
        .lines()
        .filter(|line| line.contains("was answered by") && line.contains(by))
        .count()
}

#[test]
fn the_demo_shows_who_answers_before_and_after_a_reload() {
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(Runtime::Node22.path(), bin.path().join("node")).unwrap();
    let printed = demo(bin.path());
    assert!(printed.starts_with("Serving http://127.0.0.1:"), "{printed}");
    assert_eq!(answers(&printed, "node v22"), 12, "{printed}");
    assert!(printed.contains("requests meanwhile, all answered"), "{printed}");
}

#[test]
fn the_demo_needs_no_node() {
    let printed = demo(Path::new("/nowhere"));
    assert!(printed.starts_with("No node in PATH"), "{printed}");
    assert_eq!(answers(&printed, "thead's own worker"), 12, "{printed}");
    assert!(printed.contains("requests meanwhile, all answered"), "{printed}");
}

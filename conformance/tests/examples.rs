//! The examples of the documentation do what they say.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use conformance::Runtime;

/// What an example prints, with a `node` in PATH.
fn output(example: &str) -> String {
    let test = std::env::current_exe().unwrap();
    let binary = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples")
        .join(example);
    let bin = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(Runtime::Node22.path(), bin.path().join("node")).unwrap();
    let output = Command::new(binary).env("PATH", bin.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_example_of_a_forked_child_runs() {
    assert_eq!(output("fork"), "the child says 42\nthe child ended: Code(0)\n");
}

#[test]
fn the_example_of_a_cluster_runs() {
    let printed = output("cluster");
    assert!(printed.starts_with("2 workers answered on port "), "{printed}");
    assert_eq!(printed.matches("ended: Code(0)").count(), 2, "{printed}");
}

#[test]
fn the_workers_that_the_guide_shows_are_those_that_are_tested() {
    let root = conformance::root();
    let guide = std::fs::read_to_string(root.join("../docs/guide.md")).unwrap();
    for name in ["axum", "hyper"] {
        let program = std::fs::read_to_string(root.join(format!("src/bin/{name}-worker.rs"))).unwrap();
        let mut blocks = guide.split("```").skip(1).step_by(2);
        let block = blocks.find(|block| block.contains(&format!("use {name}::"))).unwrap();
        let mut lines = program.lines();
        for line in block.lines().skip(1).filter(|line| !line.starts_with("# ")) {
            assert!(
                lines.any(|other| other == line),
                "{name}-worker.rs does not go on with: {line}"
            );
        }
    }
}

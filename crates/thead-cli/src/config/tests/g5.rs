//! G5: whatever a file says, it is a configuration or an error with its place. Nothing else comes of it.

use std::path::Path;

use super::{FULL, directory, load_text};

/// Reads a file; what is wrong with it must have a place in it.
pub(super) fn located(dir: &Path, file: &str, text: &[u8]) {
    let Err(error) = load_text(dir, file, text) else {
        return;
    };
    assert!(!error.problems().is_empty());
    let lines = String::from_utf8_lossy(text).lines().count().max(1);
    for problem in error.problems() {
        assert!(problem.file.ends_with(file), "{error}");
        assert!(
            (1..=lines + 1).contains(&problem.line) && problem.column >= 1,
            "{error}"
        );
        assert!(!problem.message.is_empty(), "{error}");
    }
    assert!(
        error
            .render(false)
            .contains(&format!("{file}:{}", error.problems()[0].line)),
        "{}",
        error.render(false)
    );
}

#[test]
fn g5_a_file_that_ends_anywhere_is_a_configuration_or_a_located_error() {
    let dir = directory();
    for (file, text) in FULL {
        for end in 0..text.len() {
            located(dir.path(), file, &text.as_bytes()[..end]);
        }
    }
}

#[test]
fn g5_a_file_with_any_byte_changed_is_a_configuration_or_a_located_error() {
    let dir = directory();
    for (file, text) in FULL {
        for at in (0..text.len()).step_by(2) {
            // Every other byte once, by what is likely to mean something: structure, quotes, controls, and no UTF-8.
            let with = b"\xff\0[]{}\"'=:,#\n -"[at % 15];
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = with;
            located(dir.path(), file, &bytes);
        }
    }
}

#[test]
fn g5_a_file_with_a_wrong_type_anywhere_is_a_located_error_or_is_read_as_text() {
    let dir = directory();
    let full: serde_json::Value = json5::from_str(FULL[2].1).unwrap();
    let mut places = Vec::new();
    walk(&full, &mut Vec::new(), &mut places);
    assert!(places.len() > 80, "{}", places.len());
    for place in places {
        for wrong in [
            "null",
            "true",
            "-1",
            "1e99",
            "\"\"",
            "\"\\u0000\"",
            "[]",
            "[[]]",
            "{}",
            "{\"x\":1}",
        ] {
            let mut value = full.clone();
            let target = place
                .iter()
                .try_fold(&mut value, |value, step: &String| value.get_mut(step))
                .unwrap();
            *target = serde_json::from_str(wrong).unwrap();
            located(
                dir.path(),
                "thead.json",
                serde_json::to_string_pretty(&value).unwrap().as_bytes(),
            );
        }
    }
}

fn walk(value: &serde_json::Value, path: &mut Vec<String>, places: &mut Vec<Vec<String>>) {
    places.push(path.clone());
    for (key, value) in value.as_object().into_iter().flatten() {
        path.push(key.clone());
        walk(value, path, places);
        path.pop();
    }
}

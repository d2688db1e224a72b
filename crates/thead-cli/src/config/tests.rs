//! Whole files, as operators write them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use super::model::{Data, Form, Ready};
use super::value::{ByteSize, Instances, Signal, Span};
use super::{Ask, Diagnostics, Loaded, load};

mod g5;
mod pm2;
mod wrong;

/// A directory with a program in it.
pub(in crate::config) fn directory() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
    for (file, text) in [
        ("app", "#!/bin/sh\nexec sleep 1\n"),
        ("flags.json", "{}"),
        ("secret", "x"),
        ("geo.mmdb", "x"),
        ("server.js", ""),
        ("node", "#!/bin/sh\n"),
        ("bun", "#!/bin/sh\n"),
    ] {
        let path = dir.path().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    dir
}

pub(in crate::config) fn load_text(dir: &Path, file: &str, text: impl AsRef<[u8]>) -> Result<Loaded, Diagnostics> {
    fs::write(dir.join(file), text).unwrap();
    load(Ask {
        file: Some(&dir.join(file)),
        ..Ask::default()
    })
}

/// Everything that a configuration can say, in each format.
pub(in crate::config) const FULL: [(&str, &str); 3] = [
    ("thead.toml", include_str!("tests/full.toml")),
    ("thead.yaml", include_str!("tests/full.yaml")),
    ("thead.json5", include_str!("tests/full.json5")),
];

#[test]
fn a_file_says_the_same_in_each_format() {
    let dir = directory();
    let [toml, yaml, json5] =
        FULL.map(|(file, text)| load_text(dir.path(), file, text).unwrap_or_else(|error| panic!("{error}")));
    let api = &toml.config.service["api"];
    assert_eq!(api.run.words(), ["./app", "--port", "3000"]);
    assert_eq!(api.instances, Some(Instances::Count(4)));
    assert_eq!(api.cwd.as_deref(), Some(dir.path()));
    assert_eq!(api.env["PORT"], "3000");
    assert_eq!(api.env["DEBUG"], "true");
    assert_eq!(api.secret_files["DB_PASSWORD"], dir.path().join("secret"));
    assert_eq!(api.ready, Ready::Http("http://127.0.0.1:3000/healthz".into()));
    assert_eq!(api.stop.signal.number(), 2);
    assert_eq!(api.limit.memory, Some(ByteSize::mib(512)));
    assert_eq!(api.restart.backoff.max, Span::secs(30));
    let flags = Data {
        file: dir.path().join("flags.json"),
        form: Form::Auto,
        check: None,
        signal: None,
    };
    assert_eq!(api.data["flags"], flags);
    assert_eq!(api.data["geo"].signal, "HUP".parse::<Signal>().ok());
    assert_eq!(toml.config, yaml.config);
    assert_eq!(toml.config, json5.config);
    assert_eq!((toml.base.as_path(), toml.notes.len()), (dir.path(), 0));
}

#[test]
fn what_is_kept_as_json_reads_back_the_same() {
    let dir = directory();
    let config = load_text(dir.path(), FULL[0].0, FULL[0].1).unwrap().config;
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<super::Config>(&json).unwrap(), config);
}

#[test]
fn the_first_of_the_known_files_is_found() {
    let dir = directory();
    let error = super::find(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("no configuration here; name a file"),
        "{error}"
    );
    for name in super::FILES.iter().rev() {
        fs::write(dir.path().join(name), "").unwrap();
        assert_eq!(super::find(dir.path()).unwrap(), dir.path().join(name));
    }
}

#[test]
fn an_empty_file_and_one_for_an_editor_are_right() {
    let dir = directory();
    for (file, text) in [
        ("thead.toml", ""),
        ("thead.yaml", "# nothing\n"),
        ("thead.json5", ""),
        ("thead.json", "{\"$schema\": \"thead.schema.json\"}"),
        ("thead.toml", "\u{feff}# a byte order mark\n"),
    ] {
        assert_eq!(
            load_text(dir.path(), file, text).unwrap().config,
            super::Config::default(),
            "{text}"
        );
    }
}

#[test]
fn a_note_stops_nothing() {
    let dir = directory();
    let loaded = load_text(
        dir.path(),
        "thead.toml",
        "[service.a]\nrun = ['sh', '-c', 'sleep 1']\nschedule = 'kernel'\n",
    )
    .unwrap();
    let notes: Vec<_> = loaded
        .notes
        .iter()
        .map(|note| (note.line, note.message.as_str()))
        .collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].0 == 3 && notes[0].1.contains("listens itself"), "{notes:?}");
    assert!(
        notes[1].0 == 2 && notes[1].1.contains("the worker is the shell"),
        "{notes:?}"
    );
}

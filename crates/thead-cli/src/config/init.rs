//! `thead init`: a configuration to begin with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::value::{Argv, Name};
use super::{Diagnostics, FILES, Problem};
use crate::program::Place;

/// The file that is written.
pub(crate) const FILE: &str = "thead.toml";

/// What every setting is when nothing is said, as comments.
const SAMPLE: &str = include_str!("init/sample.toml");

/// A configuration that fits a directory: from PM2's file or a Procfile if it has one, else for what looks like its server.
///
/// # Errors
/// There is a configuration already, or the file that it would be made from is wrong.
pub(crate) fn text(directory: &Path) -> Result<String, Diagnostics> {
    for file in FILES.iter().filter(|file| file.starts_with("thead.")) {
        if directory.join(file).exists() {
            let mend = "look at it with `thead check`, or move it away first";
            return Err(Problem::of_file(&directory.join(file), "is there already", mend).into());
        }
    }
    if let Ok(file) = super::find(directory) {
        let loaded = super::load(super::Ask {
            file: Some(&file),
            ..super::Ask::default()
        })?;
        let name = file.file_name().unwrap_or_default().display().to_string();
        let head = format!("# From {name}. Look at it with `thead check`, put it in force with `thead apply`.\n\n");
        return Ok(head + &super::write::toml(&loaded.config, &loaded.base, &BTreeMap::new()));
    }
    let (name, run) = match server(directory) {
        Some((name, run)) => (name, Some(run)),
        None => (name_of(directory), None),
    };
    let run = run.as_deref();
    let mut text = SAMPLE.replace("service.NAME", &format!("service.{name}"));
    text = text.replace("RUN", run.unwrap_or("node server.js"));
    if run.is_none() {
        // Nothing here looks like a server: all of it is an example.
        let service = text.find("\n[service.").map_or(0, |at| at + 1);
        let example: String = text[service..]
            .lines()
            .map(|line| if line.is_empty() { "\n".into() } else { comment(line) })
            .collect();
        text.truncate(service);
        text.push_str(
            "# No server was found here; correct `run`, and take the # away before it and before [service...].\n",
        );
        text.push_str(&example);
    }
    Ok(text)
}

fn comment(line: &str) -> String {
    match line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("# {line}\n"),
    }
}

/// The name and the command of what looks like the server of a directory.
fn server(directory: &Path) -> Option<(Name, String)> {
    let package: serde_json::Value = std::fs::read(directory.join("package.json"))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut commands = Vec::new();
    if package["scripts"]["start"].is_string() {
        commands.push("npm start".to_owned());
    }
    commands.extend(text(&package["main"]).map(|main| format!("node {main}")));
    const SCRIPTS: [&str; 10] = [
        "server.js",
        "server.mjs",
        "index.js",
        "index.mjs",
        "app.js",
        "main.js",
        "src/server.js",
        "src/index.js",
        "dist/index.js",
        "dist/server.js",
    ];
    commands.extend(SCRIPTS.map(|script| format!("node {script}")));
    commands.extend(["app.py", "main.py", "server.py"].map(|script| format!("python3 {script}")));
    commands.extend(["app.rb", "server.rb"].map(|script| format!("ruby {script}")));
    let path = std::env::var_os("PATH");
    let place = Place {
        cwd: directory,
        path: path.as_deref(),
        runtime: None,
    };
    let runs = |command: &String| {
        let Ok(argv) = command.parse::<Argv>() else {
            return false;
        };
        // Not only the program: its script is there too.
        let script = argv
            .words()
            .get(1)
            .is_some_and(|script| script == "start" || directory.join(script).is_file());
        let words: Vec<OsString> = argv.words().iter().map(OsString::from).collect();
        script && place.resolve(&words).is_ok()
    };
    let command = commands.into_iter().find(runs)?;
    let name = text(&package["name"]).and_then(|name| plain(name.rsplit('/').next()?));
    Some((name.unwrap_or_else(|| name_of(directory)), command))
}

/// A service called as its directory is.
fn name_of(directory: &Path) -> Name {
    let directory = std::path::absolute(directory).unwrap_or_default();
    let name = directory.file_name().and_then(|name| plain(&name.to_string_lossy()));
    name.unwrap_or_else(Name::app)
}

/// As a service may be called.
fn plain(text: &str) -> Option<Name> {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '-'
        }
    };
    let text: String = text.chars().map(plain).take(64).collect();
    let text = text.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    text.parse().ok().filter(|name: &Name| name.as_str() != "all")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::*;
    use crate::config::model::{Config, Service};
    use crate::config::schema::schema;
    use crate::config::tests::load_text;

    /// A directory with these files.
    fn with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::Builder::new().prefix("thead-").tempdir().unwrap();
        for (file, text) in files {
            fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    fn made(files: &[(&str, &str)]) -> Config {
        let dir = with(files);
        let text = text(dir.path()).unwrap();
        load_text(dir.path(), FILE, &text)
            .unwrap_or_else(|error| panic!("{text}\n{error}"))
            .config
    }

    /// The commented settings, as if they were none.
    fn uncommented() -> String {
        let setting = |line: &&str| {
            let line = line.strip_prefix("# ").unwrap_or_default();
            line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = ")
        };
        SAMPLE
            .lines()
            .filter(setting)
            .map(|line| format!("{}\n", &line[2..]))
            .collect()
    }

    #[test]
    fn a_sample_fits_its_directory_and_is_right() {
        let script = "#!/bin/sh\n";
        for (files, name, run) in [
            (
                &[
                    ("server.py", ""),
                    ("package.json", "{\"name\": \"@a/my-api\", \"main\": \"gone.js\"}"),
                ][..],
                "my-api",
                &["python3", "server.py"][..],
            ),
            (&[("main.py", "")], "", &["python3", "main.py"]),
        ] {
            if thead::sys::path::resolve("python3".as_ref(), std::env::var_os("PATH").as_deref(), None).is_err() {
                continue;
            }
            let config = made(files);
            let (service, only) = config.service.iter().next().unwrap();
            assert!(name.is_empty() || service.as_str() == name);
            assert_eq!(only.run.words(), run);
        }
        let config = made(&[("Procfile", "web: sh -c 'exec sleep 1'\n"), ("x", script)]);
        assert_eq!(config.service["web"].run.words(), ["sh", "-c", "exec sleep 1"]);
    }

    #[test]
    fn a_sample_where_nothing_looks_like_a_server_is_all_example() {
        assert_eq!(made(&[]), Config::default());
        assert_eq!(made(&[("package.json", "{ this is no JSON")]), Config::default());
    }

    #[test]
    fn nothing_is_written_over() {
        let dir = with(&[("thead.yaml", "")]);
        let error = text(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("thead.yaml:1:1: is there already"),
            "{error}"
        );
    }

    #[test]
    fn each_default_in_the_sample_is_the_one_that_is_used() {
        let text = uncommented();
        let service: Service = toml::from_str(&format!("run = \"x\"\n{text}")).unwrap();
        let mut default = Service::new("x".parse().unwrap());
        // What is decided by the program that is run.
        default.instances = service.instances;
        default.live.heartbeat = service.live.heartbeat;
        default.pass_env.clone_from(&service.pass_env);
        default.instance_env = Some("NODE_APP_INSTANCE".into());
        assert_eq!(service, default);
        assert_eq!(service.instances.unwrap().to_string(), "max");
        assert_eq!(service.live.heartbeat.unwrap().to_string(), "5s");
        assert_eq!(service.pass_env.unwrap().len(), 9);
    }

    #[test]
    fn every_setting_with_a_default_is_in_the_sample() {
        let schema = schema();
        let text = uncommented();
        for (table, definition) in [
            ("", "Service"),
            ("live.", "Live"),
            ("restart.", "Restart"),
            ("restart.backoff.", "Backoff"),
            ("restart.intensity.", "Intensity"),
            ("reload.", "Reload"),
            ("stop.", "Stop"),
            ("log.", "Log"),
        ] {
            for (key, property) in schema["$defs"][definition]["properties"].as_object().unwrap() {
                if property["default"].is_null() || property["default"].is_object() {
                    continue;
                }
                assert!(text.contains(&format!("{table}{key} = ")), "{table}{key}");
            }
        }
    }
}

//! Procfiles: a line for each process type, `NAME: COMMAND`.

use super::Reading;
use super::format::Spot;
use super::model::{Config, Service};
use super::tree::{Entry, Tree, Value, steps};
use super::typed::Finding;
use super::value::{Argv, Name};

/// Reads a Procfile.
pub(super) fn read(text: &str) -> Reading {
    let mut reading = Reading {
        tree: Tree {
            span: Some(0..0),
            value: Value::Map(Vec::new()),
        },
        config: None,
        errors: Vec::new(),
        notes: Vec::new(),
        mended: Vec::new(),
        origins: Vec::new(),
    };
    let mut config = Config::default();
    let mut entries = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end().len();
        let begin = start + (line.len() - line.trim_start().len());
        start += line.len();
        if begin >= end || text[begin..].starts_with('#') {
            continue;
        }
        // What is on a line that is no entry has its place too.
        let (key_end, value_start) = match text[begin..end].find(':') {
            Some(colon) => {
                let rest = &text[begin + colon + 1..end];
                (begin + colon, end - rest.trim_start().len())
            }
            None => (end, end),
        };
        let key = text[begin..key_end].trim_end().to_owned();
        let command = &text[value_start..end];
        let path = steps![key.as_str()];
        let entry = Entry {
            key_span: Some(begin..begin + key.len()),
            value: Tree {
                span: Some(value_start..end),
                value: Value::Text(command.to_owned()),
            },
            key: key.clone(),
        };
        let finding = |spot, message: String, mend: &str| Finding {
            path: path.to_vec(),
            spot,
            message,
            mend: Some(mend.to_owned()),
        };
        let known = entries.iter().any(|entry: &Entry| entry.key == key);
        entries.push(entry);
        if command.is_empty() {
            reading.errors.push(finding(
                Spot::Key,
                format!("{key:?} has no command"),
                "a line is NAME: COMMAND",
            ));
            continue;
        }
        if known {
            reading.errors.push(finding(
                Spot::Key,
                format!("{key:?} is there twice"),
                "call one of them something else",
            ));
            continue;
        }
        if key == "release" {
            let message = "`release` runs once before a release, and is no service".to_owned();
            reading
                .notes
                .push(finding(Spot::Key, message, "run it before `thead apply`"));
            continue;
        }
        let name = match key.parse::<Name>() {
            Ok(name) => name,
            Err(reason) => {
                reading
                    .errors
                    .push(finding(Spot::Key, reason, "call it something else"));
                continue;
            }
        };
        if command.contains("$PORT") || command.contains("${PORT}") {
            let message = "thead sets no PORT".to_owned();
            reading.notes.push(finding(
                Spot::Value,
                message,
                "set it by `env` in a thead.toml: thead import Procfile",
            ));
        }
        match service(command) {
            Ok(service) => {
                reading
                    .origins
                    .push((steps!["service", name.as_str()].to_vec(), path.to_vec()));
                config.service.insert(name, service);
            }
            Err(reason) => reading.errors.push(finding(Spot::Value, reason, "correct the command")),
        }
    }
    reading.tree.value = Value::Map(entries);
    reading.config = Some(config);
    reading
}

/// A shell runs what needs one, and leaves its place to the program where it can.
fn service(command: &str) -> Result<Service, String> {
    let mut rest = command;
    let mut env = Vec::new();
    while let Some((word, more)) = rest.split_once(' ') {
        let Some((name, value)) = word.split_once('=') else {
            break;
        };
        let variable = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
        if !variable || value.contains(['$', '`', '\'', '"', '\\']) {
            break;
        }
        env.push((name.to_owned(), value.to_owned()));
        rest = more.trim_start();
    }
    let mut service = match rest.parse::<Argv>() {
        Ok(run) => {
            let mut service = Service::new(run);
            service.env.extend(env);
            service
        }
        Err(reason) if reason.contains("needs a shell") => Service::new(Argv::new(in_shell(command))?),
        Err(reason) => return Err(reason),
    };
    // What a Procfile does not say: that a worker would be more than one.
    service.instances = super::value::Instances::new(1);
    Ok(service)
}

/// `sh -c`, with `exec` before a lone command, so that signals reach it and not the shell.
pub(super) fn in_shell(command: &str) -> Vec<String> {
    const NOT_PROGRAMS: [&str; 14] = [
        "cd", "if", "for", "while", "until", "case", "export", "set", "exec", ".", "source", "ulimit", "umask", "eval",
    ];
    let first = command
        .split_whitespace()
        .find(|word| !word.contains('='))
        .unwrap_or_default();
    let lone = !command.contains([';', '&', '|', '\n', '('])
        && !command.contains("{ ")
        && !NOT_PROGRAMS.contains(&first)
        && !first.is_empty();
    // Assignments before `exec` are for what it starts.
    let line = match lone {
        true => {
            let at = command.find(first).unwrap_or(0);
            format!("{}exec {}", &command[..at], &command[at..])
        }
        false => command.to_owned(),
    };
    vec!["sh".into(), "-c".into(), line]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn words(reading: &Reading, name: &str) -> Vec<String> {
        reading.config.as_ref().unwrap().service[name].run.words().to_vec()
    }

    #[test]
    fn each_line_is_a_service() {
        let reading =
            read("# types\nweb: bundle exec puma -C config/puma.rb\n\n worker : NODE_ENV=production node worker.js\n");
        assert_eq!(
            words(&reading, "web"),
            ["bundle", "exec", "puma", "-C", "config/puma.rb"]
        );
        assert_eq!(words(&reading, "worker"), ["node", "worker.js"]);
        assert_eq!(
            reading.config.as_ref().unwrap().service["worker"].env["NODE_ENV"],
            "production"
        );
        assert!(reading.errors.is_empty() && reading.notes.is_empty());
    }

    #[test]
    fn what_needs_a_shell_gets_one_that_leaves_its_place() {
        let reading =
            read("a: gunicorn app -b :$PORT\nb: cd app && node x.js\nc: A=$B node x.js\nd: cd $APP\ne: x ${PORT:-80}");
        assert_eq!(words(&reading, "a"), ["sh", "-c", "exec gunicorn app -b :$PORT"]);
        assert_eq!(words(&reading, "b"), ["sh", "-c", "cd app && node x.js"]);
        assert_eq!(words(&reading, "c"), ["sh", "-c", "A=$B exec node x.js"]);
        assert_eq!(words(&reading, "d"), ["sh", "-c", "cd $APP"]);
        assert_eq!(words(&reading, "e"), ["sh", "-c", "exec x ${PORT:-80}"]);
        assert_eq!(reading.notes.len(), 1);
    }

    #[test]
    fn what_is_no_line_of_a_procfile_is_told_with_its_place() {
        let text = "web: a\nnonsense\nweb: b\nmy app: c\nempty:\nrelease: migrate\nq: 'x";
        let reading = read(text);
        let errors: Vec<_> = reading.errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(errors.len(), 5, "{errors:?}");
        assert!(errors[0].contains("\"nonsense\" has no command"));
        assert!(errors[1].contains("twice"));
        assert!(errors[2].contains("my app"));
        assert!(errors[3].contains("\"empty\""));
        assert!(errors[4].contains("not closed"));
        assert_eq!(reading.notes.len(), 1);
        let span = reading
            .tree
            .entry(&reading.errors[2].path)
            .unwrap()
            .key_span
            .clone()
            .unwrap();
        assert_eq!(&text[span], "my app");
    }
}

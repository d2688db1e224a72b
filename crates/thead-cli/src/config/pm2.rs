//! PM2's ecosystem files, as PM2 7 reads them: `lib/API/schema.json` and `lib/Common.js` there.

use std::path::Path;

use super::format::Spot;
use super::model::Config;
use super::tree::{Entry, Step, Tree, Value, steps};
use super::typed::Finding;
use super::value::Name;
use super::{Reading, hint};

mod app;
mod dump;
mod evaluate;
mod given;
mod key;
mod program;

pub(super) use dump::apps as apps_of_dump;
pub(super) use evaluate::evaluate;

/// Whether a file is a program that exports its configuration, by PM2's rule for names.
pub(super) fn is_program(path: &Path) -> bool {
    const EXTENSIONS: [&str; 6] = ["js", "cjs", "mjs", "ts", "cts", "mts"];
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once('.')
        .is_some_and(|(stem, extension)| stem.ends_with(".config") && EXTENSIONS.contains(&extension))
}

/// Whether a file of another format is PM2's: a list of apps, an object that has one, or a lone app.
pub(super) fn is_tree(tree: &Tree) -> bool {
    match &tree.value {
        Value::Seq(_) => true,
        _ => tree.get("service").is_none() && ["apps", "pm2", "script"].iter().any(|key| tree.get(key).is_some()),
    }
}

/// Understands apps as services.
pub(super) fn read(tree: Tree, base: &Path, environment: Option<&str>) -> Reading {
    let mut ecosystem = Ecosystem {
        base,
        environment,
        environment_found: false,
        deployed: Vec::new(),
        config: Config::default(),
        errors: Vec::new(),
        notes: Vec::new(),
        origins: Vec::new(),
    };
    ecosystem.root(&tree);
    ecosystem.namespaces();
    if let (Some(name), false) = (environment, ecosystem.environment_found) {
        ecosystem.note(
            &[],
            Spot::Key,
            format!("no app has env_{name}"),
            "check the name that --env gives",
        );
    }
    Reading {
        config: Some(ecosystem.config),
        errors: ecosystem.errors,
        notes: ecosystem.notes,
        mended: Vec::new(),
        origins: ecosystem.origins,
        tree,
    }
}

/// A file on its way to a configuration.
struct Ecosystem<'a> {
    base: &'a Path,
    /// `--env`
    environment: Option<&'a str>,
    environment_found: bool,
    /// The variables of `deploy.NAME.env`, which PM2 gives to every app.
    deployed: Vec<(String, String)>,
    config: Config,
    errors: Vec<Finding>,
    notes: Vec<Finding>,
    /// From the configuration to the file.
    origins: Vec<(Vec<Step>, Vec<Step>)>,
}

impl Ecosystem<'_> {
    fn root(&mut self, tree: &Tree) {
        let (path, apps) = match &tree.value {
            Value::Map(_) => match ["apps", "pm2"].iter().find_map(|key| Some((*key, tree.get(key)?))) {
                Some((key, apps)) => (steps![key].to_vec(), apps),
                None => (Vec::new(), tree),
            },
            _ => (Vec::new(), tree),
        };
        if let (Some(name), [_, ..]) = (self.environment, &path[..]) {
            let deployed = tree.get("deploy").and_then(|deploy| deploy.get(name)?.get("env"));
            self.deployed = deployed.map(given::variables).unwrap_or_default();
        }
        if !path.is_empty() {
            for Entry { key, .. } in tree.entries() {
                let (message, mend) = match key.as_str() {
                    "apps" | "pm2" => continue,
                    "deploy" => (
                        "`deploy`: thead copies nothing to other machines",
                        "keep that in a script of yours",
                    ),
                    "static" => (
                        "`static`: thead serves no files",
                        "run a file server as a service of its own",
                    ),
                    _ => ("this is none of PM2's keys, nor thead's", "leave it out"),
                };
                self.note(&steps![key.as_str()], Spot::Key, message, mend);
            }
        }
        match &apps.value {
            Value::Seq(items) => {
                for (index, app) in items.iter().enumerate() {
                    let mut path = path.clone();
                    path.push(index.into());
                    self.app(app, path);
                }
            }
            Value::Map(_) => self.app(apps, path),
            _ => {
                let message = "expected a list of apps: an object with `apps`, or a list";
                self.error(&path, Spot::Value, message, "export { apps: [{ name, script }] }");
            }
        }
    }

    fn error(&mut self, path: &[Step], spot: Spot, message: impl Into<String>, mend: &str) {
        self.errors.push(finding(path, spot, message, mend));
    }

    fn note(&mut self, path: &[Step], spot: Spot, message: impl Into<String>, mend: &str) {
        self.notes.push(finding(path, spot, message, mend));
    }

    /// A name of ours that nobody else has yet.
    fn name(&mut self, wanted: &str, path: &[Step]) -> Name {
        let plain = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c
            } else {
                '-'
            }
        };
        let text: String = wanted.chars().map(plain).collect();
        let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let stem: String = match text {
            "" | "all" => "app".into(),
            text => text.chars().take(60).collect(),
        };
        let numbered = (2..).map(|number| format!("{stem}-{number}"));
        let free = [stem.clone()]
            .into_iter()
            .chain(numbered)
            .filter_map(|name| name.parse().ok());
        let name = free.into_iter().find(|name| !self.config.service.contains_key(name));
        // There are more numbers than apps in a file.
        let name: Name = name.unwrap_or_else(|| unreachable!("a number is free"));
        if name.as_str() != wanted {
            let message = format!("the app {wanted:?} is the service `{name}`");
            let why = match self.config.service.contains_key(stem.as_str()) {
                true => "two apps had one name",
                false => "a service's name has letters, digits, '.', '_' and '-'",
            };
            self.note(path, Spot::Value, message, why);
        }
        name
    }

    /// Verbs take a service or a namespace, so that no service may be called as a namespace is.
    fn namespaces(&mut self) {
        let names: Vec<Name> = self.config.service.keys().cloned().collect();
        let mut dropped = Vec::new();
        for (name, service) in &mut self.config.service {
            if service
                .namespace
                .as_ref()
                .is_some_and(|namespace| names.contains(namespace) || namespace.as_str() == "all")
                && let Some(namespace) = service.namespace.take()
            {
                dropped.push((name.clone(), namespace));
            }
        }
        for (name, namespace) in dropped {
            let place = steps!["service", name.as_str(), "namespace"];
            let path = self
                .origins
                .iter()
                .find(|(ours, _)| *ours == place)
                .map(|(_, path)| path.clone());
            let message =
                format!("`namespace` = \"{namespace}\": a service has that name, so `{name}` has no namespace");
            self.note(
                &path.unwrap_or_default(),
                Spot::Value,
                message,
                "call the namespace something else",
            );
        }
    }
}

fn finding(path: &[Step], spot: Spot, message: impl Into<String>, mend: &str) -> Finding {
    Finding {
        path: path.to_vec(),
        spot,
        message: message.into(),
        mend: (!mend.is_empty()).then(|| mend.to_owned()),
    }
}

/// Where a value of an evaluated file may have been written: the parser that read it was a runtime's, which tells no places.
/// If a key is written as often as there are apps that have it, they are in the same order.
pub(super) fn locate(text: &str, tree: &Tree, path: &[Step]) -> Option<std::ops::Range<usize>> {
    let Some(apps) = path.iter().position(|step| matches!(step, Step::Index(_))) else {
        // Outside of the apps: if it is written once, it is there.
        let Some(Step::Key(key)) = path.last() else {
            return None;
        };
        return <[_; 1]>::try_from(hint::keys(text, key)).ok().map(|[only]| only);
    };
    let (Step::Index(app), rest) = (&path[apps], &path[apps + 1..]) else {
        return None;
    };
    let Value::Seq(all) = &tree.at(&path[..apps])?.value else {
        return None;
    };
    let name = Step::from("name");
    let keys = rest
        .iter()
        .rev()
        .filter(|step| matches!(step, Step::Key(_)))
        .chain([&name]);
    keys.into_iter().find_map(|step| {
        let Step::Key(key) = step else {
            return None;
        };
        // As deep as the key is in this app, in every app.
        let depth = rest.iter().position(|other| other == step);
        let has = |app: &Tree| match depth {
            Some(depth) => app.at(&rest[..=depth]).is_some(),
            None => app.get(key).is_some(),
        };
        let written = hint::keys(text, key);
        let rank = all.iter().take(*app).filter(|app| has(app)).count();
        let count = all.iter().filter(|app| has(app)).count();
        (written.len() == count && has(all.get(*app)?)).then(|| written.into_iter().nth(rank))?
    })
}

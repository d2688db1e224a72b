//! From what a file says to a [`Config`], telling all that is wrong and not only the first.

use super::format::Spot;
use super::hint;
use super::model::Config;
use super::tree::{Fault, Kind, Step, Tree, Value, read, show_path, steps};

/// Something wrong at the end of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: Vec<Step>,
    pub(crate) spot: Spot,
    pub(crate) message: String,
    pub(crate) mend: Option<String>,
}

/// What a tree is as a configuration.
pub(crate) struct Typed {
    /// `None` if nothing could be made of it.
    pub(crate) config: Option<Config>,
    pub(crate) findings: Vec<Finding>,
    /// What was taken out or put in so that the rest could be read. Nothing there is worth a second complaint.
    pub(crate) mended: Vec<Vec<Step>>,
}

/// Each is a round of reading.
const MOST_FINDINGS: usize = 50;

/// Reads the tree again and again, each time without what was wrong with it.
pub(crate) fn config(tree: &Tree) -> Typed {
    let mut tree = tree.clone();
    let mut typed = Typed {
        config: None,
        findings: Vec::new(),
        mended: Vec::new(),
    };
    while typed.findings.len() < MOST_FINDINGS {
        let fault = match read(&tree) {
            Ok(config) => {
                typed.config = Some(config);
                break;
            }
            Err(fault) => fault,
        };
        let Some(mended) = mend(&mut tree, &fault) else {
            typed.findings.push(finding(fault));
            break;
        };
        // A key that was taken out may be missed now.
        if !typed.mended.contains(&mended) {
            typed.findings.push(finding(fault));
            typed.mended.push(mended);
        }
    }
    typed
}

/// Changes the tree so that the fault is gone. Returns the place of the change; `None` if there is no help.
fn mend(tree: &mut Tree, fault: &Fault) -> Option<Vec<Step>> {
    let Kind::MissingKey(key) = fault.kind else {
        let removed = tree.remove(&fault.path)?;
        // A table of a service's that is empty now could be wrong for that: `ready = {}`.
        let table = &removed[..removed.len() - 1];
        if table.len() > 2 && tree.at(table).is_some_and(|table| table.entries().is_empty()) {
            tree.remove(table);
        }
        return Some(removed.to_vec());
    };
    let stand_in = match key {
        "services" => Value::Seq(Vec::new()),
        _ => Value::Text("-".into()),
    };
    let inserted = tree.insert(&fault.path, key, stand_in);
    // What is wrong with a file is told of its table, which may be no more than a path.
    let place = if key == "file" {
        fault.path.clone()
    } else {
        [&fault.path[..], &steps![key]].concat()
    };
    inserted.then_some(place)
}

fn finding(fault: Fault) -> Finding {
    let Fault { path, kind } = fault;
    let (spot, message, mend) = match (kind, path.split_last()) {
        (Kind::UnknownKey(known), Some((Step::Key(key), table))) => {
            let message = format!("unknown key `{key}`{}", place(table));
            (Spot::Key, message, Some(suggestion(table, key, known)))
        }
        (Kind::UnknownKey(_), _) => (Spot::Key, "unknown key".into(), None),
        (Kind::MissingKey(key), _) => {
            let mend = match key {
                "run" => "say what is run, such as run = \"node server.js\"",
                "services" => "list the members, such as services = [\"db\", \"api\"]",
                _ => "say which file, such as file = \"flags.json\"",
            };
            (
                Spot::Key,
                format!("the key `{key}` is missing{}", place(&path)),
                Some(mend.to_owned()),
            )
        }
        (Kind::Key(message), _) => (Spot::Key, message, None),
        (Kind::Value(message), None) => (Spot::Value, message, None),
        (Kind::Value(message), Some(_)) => (Spot::Value, format!("`{}`: {message}", show_path(&path)), None),
    };
    Finding {
        path,
        spot,
        message,
        mend,
    }
}

/// ` in service.api`, unless that is the whole file.
fn place(table: &[Step]) -> String {
    match table {
        [] => String::new(),
        _ => format!(" in {}", show_path(table)),
    }
}

/// What to do about a key that this table does not have.
fn suggestion(table: &[Step], key: &str, known: &[&'static str]) -> String {
    if let Some(near) = hint::nearest(key, known.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    let in_service = table.len() == 2 && table[0] == Step::from("service");
    if in_service && let Some(place) = hint::elsewhere(key) {
        return format!("thead has it as {place}");
    }
    let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
    format!("leave it out; known here are {}", names.join(", "))
}

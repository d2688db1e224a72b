//! Who starts before whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Checked;
use crate::config::hint;
use crate::config::model::Config;
use crate::config::tree::{Step, steps};
use crate::config::value::Name;

/// What a service waits for, and where that is said.
type Waits<'a> = BTreeMap<&'a Name, Vec<(&'a Name, Vec<Step>)>>;

pub(super) fn check(config: &Config, checked: &mut Checked) {
    let mut waits: Waits<'_> = config.service.keys().map(|name| (name, Vec::new())).collect();
    for (name, service) in &config.service {
        for (index, before) in service.after.iter().enumerate() {
            let path = steps!["service", name.as_str(), "after", index].to_vec();
            if known(config, before, &path, checked)
                && let Some(waits) = waits.get_mut(name)
            {
                waits.push((before, path));
            }
        }
    }
    let mut members: HashMap<&Name, &Name> = HashMap::new();
    for (group, options) in &config.group {
        if options.services.is_empty() {
            let path = steps!["group", group.as_str(), "services"].to_vec();
            checked.error(path, "a group needs a member", "name some, or leave the group out");
        }
        let mut before: Option<&Name> = None;
        for (index, member) in options.services.iter().enumerate() {
            let path = steps!["group", group.as_str(), "services", index].to_vec();
            if !known(config, member, &path, checked) {
                continue;
            }
            if let Some(other) = members.insert(member, group) {
                let message = match other == group {
                    true => format!("`{member}` is in the group `{group}` twice"),
                    false => format!("`{member}` is in the group `{other}` already"),
                };
                checked.error(path, message, "a service can be in one group, once");
                continue;
            }
            if let (Some(before), Some(waits)) = (before, waits.get_mut(member)) {
                waits.push((before, path));
            }
            before = Some(member);
        }
    }
    circles(waits, checked);
}

fn known(config: &Config, name: &Name, path: &[Step], checked: &mut Checked) -> bool {
    if config.service.contains_key(name) {
        return true;
    }
    let names = config.service.keys().map(Name::as_str);
    let mend = match hint::nearest(name.as_str(), names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "add it, or leave it out".into(),
    };
    checked.error(path.to_vec(), format!("there is no service `{name}`"), mend);
    false
}

/// Tells each circle once. What waits for nothing can start; what is left when no more can start waits in a circle, or for one.
fn circles(mut waits: Waits<'_>, checked: &mut Checked) {
    loop {
        let mut left: HashMap<&Name, usize> = waits.iter().map(|(name, before)| (*name, before.len())).collect();
        let mut waiting: HashMap<&Name, Vec<&Name>> = HashMap::new();
        for (name, before) in &waits {
            for (before, _) in before {
                waiting.entry(before).or_default().push(name);
            }
        }
        let mut free: Vec<&Name> = left
            .iter()
            .filter(|(_, left)| **left == 0)
            .map(|(name, _)| *name)
            .collect();
        while let Some(name) = free.pop() {
            left.remove(name);
            for next in waiting.get(name).into_iter().flatten() {
                if let Some(count) = left.get_mut(next) {
                    *count -= 1;
                    if *count == 0 {
                        free.push(next);
                    }
                }
            }
        }
        // The first by name, so that the same circle is told the same way.
        let Some(start) = left.keys().min() else {
            return;
        };
        let mut walked: Vec<(&Name, &[Step])> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut name = *start;
        while seen.insert(name) {
            let next = waits
                .get(name)
                .and_then(|before| before.iter().find(|(before, _)| left.contains_key(*before)));
            let Some((before, path)) = next else {
                return;
            };
            walked.push((name, path));
            name = before;
        }
        let first = walked.iter().position(|(walked, _)| *walked == name).unwrap_or(0);
        let circle = &walked[first..];
        let (Some((_, path)), mut names) = (
            circle.last(),
            circle.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ) else {
            return;
        };
        names.push(name.as_str());
        let message = match circle.len() {
            1 => format!("`{name}` waits for itself"),
            _ => format!("none of these can start first: {}", names.join(" waits for ")),
        };
        checked.error(
            path.to_vec(),
            message,
            "leave out one of `after`, or change the order of the group",
        );
        let done: Vec<Name> = circle.iter().map(|(name, _)| (*name).clone()).collect();
        waits.retain(|name, _| !done.contains(name));
        for before in waits.values_mut() {
            before.retain(|(before, _)| !done.contains(before));
        }
    }
}

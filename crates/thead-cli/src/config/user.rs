//! Users and groups of the machine.

use std::fs;

use thead::Command;

/// A user that a service can run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: Option<String>,
    pub(crate) uid: u32,
    /// Its own group; `None` for a number that nobody has.
    pub(crate) gid: Option<u32>,
    pub(crate) home: Option<String>,
}

impl User {
    /// By name, or by number; a number need not be anybody's.
    pub(crate) fn find(user: &str) -> Option<Self> {
        let number = user.parse().ok();
        // name:password:uid:gid:comment:home:shell
        let found = entry("passwd", user).and_then(|fields| {
            Some(Self {
                name: fields.first().cloned(),
                uid: fields.get(2)?.parse().ok()?,
                gid: Some(fields.get(3)?.parse().ok()?),
                home: fields.get(5).cloned(),
            })
        });
        found.or(number.map(|uid| Self {
            name: None,
            uid,
            gid: None,
            home: None,
        }))
    }
}

/// A group, by name or by number, as its number.
pub(crate) fn group(group: &str) -> Option<u32> {
    // name:password:gid:members
    let found = entry("group", group).and_then(|fields| fields.get(2)?.parse().ok());
    found.or_else(|| group.parse().ok())
}

/// The line of a name or a number. What is not in the file of `/etc` is asked of the name service, which may have it from
/// elsewhere, such as LDAP; only its own program can ask it without the C library's loader.
fn entry(database: &str, key: &str) -> Option<Vec<String>> {
    if key.is_empty() || key.starts_with('-') || key.contains([':', '\n', '\0']) {
        return None;
    }
    let field = usize::from(key.parse::<u32>().is_ok()) * 2;
    let find = |text: &str| {
        let mut lines = text
            .lines()
            .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>());
        lines.find(|fields| fields.get(field).is_some_and(|found| found == key))
    };
    let text = fs::read_to_string(format!("/etc/{database}")).unwrap_or_default();
    find(&text).or_else(|| {
        let output = Command::new("getent")
            .args([database, key])
            .timeout(PATIENCE)
            .output_sync()
            .ok()?;
        find(&String::from_utf8_lossy(&output.stdout))
    })
}

/// For a name service that does not answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = User::find("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, Some(0)));
        assert_eq!(User::find("0").unwrap(), root);
        assert_eq!(group("root"), Some(0));
    }

    #[test]
    fn a_number_need_not_be_anybodys_but_a_name_must() {
        assert_eq!(User::find("4000000").unwrap().gid, None);
        assert_eq!(group("4000000"), Some(4_000_000));
        for nobody in ["", "no such user", "-x", "a:b", "99999999999"] {
            assert_eq!(User::find(nobody), None);
            assert_eq!(group(nobody), None);
        }
    }
}

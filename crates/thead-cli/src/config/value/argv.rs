//! A program and its arguments.

use super::*;

/// A program and its arguments, at least one word. From text it is split as a POSIX shell splits a line, but without a
/// shell: what a shell would do more than split is refused, so that nobody is surprised to find a `$PORT` in an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argv(Vec<String>);

impl Argv {
    /// The words, if there is one, and if none has a NUL.
    pub(crate) fn new(words: Vec<String>) -> Result<Self, String> {
        match words.first().map(String::as_str) {
            None => Err("the command is empty; name a program".into()),
            Some("") => Err("the program's name is empty".into()),
            _ if words.iter().any(|word| word.contains('\0')) => {
                Err("a command cannot have a NUL character in it".into())
            }
            _ => Ok(Self(words)),
        }
    }

    /// The program and its arguments.
    pub(crate) fn words(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Argv {
    /// As a shell would read it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_alphanumeric() || "_-+./:@%,=".contains(c);
        for (index, word) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            if !word.is_empty() && word.chars().all(plain) {
                f.write_str(word)?;
            } else {
                write!(f, "'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Argv {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words = split(line)?;
        if let Some((name, value)) = words.first().and_then(|word| assignment(word, line)) {
            return Err(format!(
                "{name}={value} in front of a command needs a shell; set it by env = {{ {name} = {value:?} }}"
            ));
        }
        Self::new(words)
    }
}

/// `NAME=value`, not quoted, as a shell takes it in front of a command.
fn assignment<'a>(word: &'a str, line: &str) -> Option<(&'a str, &'a str)> {
    let (name, value) = word.split_once('=')?;
    let variable = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (variable && line.trim_start().starts_with(&format!("{name}="))).then_some((name, value))
}

/// XCU 2.2 and 2.3 of POSIX, without expansion.
fn split(line: &str) -> Result<Vec<String>, String> {
    let needs_a_shell = |what: &str| {
        Err(format!(
            "{what} needs a shell, and none is run; put it in single quotes if it is meant as it stands, or say \
             [\"sh\", \"-c\", \"...\"]"
        ))
    };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote (') is not closed".into()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('$' | '`' | '"' | '\\')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a double quote (\") is not closed".into()),
                        },
                        Some('`') => return needs_a_shell("`"),
                        Some('$') if expands(chars.peek()) => return needs_a_shell("$"),
                        Some(c) => word.push(c),
                        None => return Err("a double quote (\") is not closed".into()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("nothing follows the \\ at the end".into()),
            },
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '`' | '*' | '?' | '[' => return needs_a_shell(&c.to_string()),
            '$' if expands(chars.peek()) => return needs_a_shell("$"),
            '~' | '#' if word.is_none() => return needs_a_shell(&c.to_string()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Is a `$` before this more than a dollar?
fn expands(next: Option<&char>) -> bool {
    next.is_some_and(|c| c.is_ascii_alphanumeric() || "_{(@*#?-$!'\"".contains(*c))
}

impl Serialize for Argv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Argv;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a command: one line, or a list of words")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Argv, E> {
                line.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Argv, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = access.next_element()? {
                    words.push(word);
                }
                Argv::new(words).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Argv {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Argv".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A command: one line, split as a shell would but run without one, or a list of words.",
            "anyOf": [
                { "type": "string", "minLength": 1 },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.parse::<Argv>().unwrap_or_else(|error| panic!("{line}: {error}")).0
    }

    #[test]
    fn a_line_is_split_as_a_shell_splits_it() {
        for (line, expected) in [
            ("node server.js", &["node", "server.js"][..]),
            ("  node\tserver.js\n --port 80 ", &["node", "server.js", "--port", "80"]),
            (r#"a 'b c' "d e" f\ g"#, &["a", "b c", "d e", "f g"]),
            (r#"a '' """#, &["a", "", ""]),
            (r#"a b'c'"d"e"#, &["a", "bcde"]),
            (r#"a "\$HOME \" \\ \n""#, &["a", r#"$HOME " \ \n"#]),
            (r"a '$HOME `x` \'", &["a", r"$HOME `x` \"]),
            ("a b\\\nc", &["a", "bc"]),
            (
                "a 'http://h/?x=1&y=2' x#y x~ $ 1$",
                &["a", "http://h/?x=1&y=2", "x#y", "x~", "$", "1$"],
            ),
            ("a B=1", &["a", "B=1"]),
            ("'B=1' a", &["B=1", "a"]),
            ("./a=b", &["./a=b"]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
    }

    #[test]
    fn what_needs_a_shell_is_refused() {
        for line in [
            "a | b",
            "a && b",
            "a; b",
            "a > log",
            "a < in",
            "(a)",
            "a $PORT",
            "a \"$PORT\"",
            "a $(b)",
            "a `b`",
            "a \"`b`\"",
            "a *.js",
            "a ?",
            "a [ab]",
            "~/a",
            "a #b",
            "a ${B}",
        ] {
            let error = line.parse::<Argv>().unwrap_err();
            assert!(error.contains("needs a shell"), "{line}: {error}");
        }
        let error = "PORT=80 node server.js".parse::<Argv>().unwrap_err();
        assert!(error.contains("env = { PORT = \"80\" }"), "{error}");
    }

    #[test]
    fn a_line_that_ends_too_early_or_is_empty_is_refused() {
        for line in ["", "  ", "a 'b", "a \"b", "a \"b\\", "a \\", "'' a", "a\0b"] {
            assert!(line.parse::<Argv>().is_err(), "{line:?}");
        }
        for list in ["[]", "[\"\"]", "[\"a\", 1]", "1", "{}"] {
            assert!(serde_json::from_str::<Argv>(list).is_err(), "{list}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for list in [
            &["a"][..],
            &["a b", "c'd", "", "$x", "ü", "a=b", "\\", "\n"],
            &["B=1"],
            &["~"],
            &["x", "#"],
        ] {
            let argv = Argv::new(list.iter().map(|word| (*word).to_owned()).collect()).unwrap();
            let json = serde_json::to_string(&argv).unwrap();
            assert_eq!(serde_json::from_str::<Argv>(&json).unwrap(), argv);
            // What a shell would take as an assignment can be printed, but is not a line of ours.
            if list != ["B=1"] {
                assert_eq!(argv.to_string().parse::<Argv>().unwrap(), argv, "{argv}");
            }
        }
    }
}

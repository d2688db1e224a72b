//! The values that a configuration is made of: each is read from text that people write, and printed as such.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod argv;
mod size;
mod span;

pub(crate) use argv::Argv;
pub(crate) use size::ByteSize;
pub(crate) use span::Span;

/// How many workers a service has at most.
pub(crate) const MAX_INSTANCES: u16 = 1024;

/// How many workers a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instances {
    /// One for every core that the machine or its cgroup grants.
    Max,
    /// So many: 1 to 1024.
    Count(u16),
}

impl Instances {
    /// A number of workers, if it is from 1 to 1024.
    pub(crate) fn new(count: u64) -> Option<Self> {
        let count = u16::try_from(count).ok()?;
        (1..=MAX_INSTANCES).contains(&count).then_some(Self::Count(count))
    }

    /// The number, on a machine of so many cores.
    pub(crate) fn count(self, cores: usize) -> usize {
        match self {
            Self::Max => cores.clamp(1, MAX_INSTANCES.into()),
            Self::Count(count) => count.into(),
        }
    }
}

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl Serialize for Instances {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Max => serializer.serialize_str("max"),
            Self::Count(count) => serializer.serialize_u16(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Instances {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Instances;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1 to 1024, or \"max\"")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Instances, E> {
                Instances::new(count).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(count), &self))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Instances, E> {
                match u64::try_from(count) {
                    Ok(count) => self.visit_u64(count),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(count), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Instances, E> {
                match text {
                    "max" => Ok(Instances::Max),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl JsonSchema for Instances {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Instances".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number from 1 to 1024, or `max`.",
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": MAX_INSTANCES },
                { "const": "max" },
            ],
        })
    }
}

/// The name of a service, a namespace, a group, a socket or a piece of data: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`. It is safe
/// in a path and on a command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(String);

/// The rule of [`Name`] as a regular expression.
const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";

impl Name {
    /// What is called nothing else.
    pub(crate) fn app() -> Self {
        Self("app".into())
    }

    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        match bytes.first() {
            None => Err("a name may not be empty".into()),
            Some(first) if !first.is_ascii_alphanumeric() => Err(format!(
                "the name {text:?} must begin with a letter (A-Z, a-z) or a digit"
            )),
            _ if bytes.len() > 64 => Err(format!("the name {text:?} is longer than 64 characters")),
            _ if !bytes.iter().all(plain) => Err(format!(
                "the name {text:?} may have letters (A-Z, a-z), digits, '.', '_' and '-' only"
            )),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FromText::new("a name"))
    }
}

impl JsonSchema for Name {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Name".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Up to 64 letters (A-Z, a-z), digits, `.`, `_` and `-`; a letter or digit first.",
            "type": "string",
            "pattern": NAME_PATTERN,
        })
    }
}

/// A signal: its name with or without `SIG`, or its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal(i32);

/// By number on Linux, but for MIPS and SPARC.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// The first and the last real-time signal that the C library leaves to programs.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

impl Signal {
    /// SIGINT.
    pub(crate) const INT: Self = Self(2);
    /// SIGTERM.
    pub(crate) const TERM: Self = Self(15);

    /// The number that the kernel knows it by.
    pub(crate) fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.parse::<i32>() {
            Ok(number) => Some(number),
            Err(_) => {
                let name = text.to_ascii_uppercase();
                let name = name.strip_prefix("SIG").unwrap_or(&name);
                let named = SIGNALS.iter().position(|signal| *signal == name);
                named.and_then(|index| i32::try_from(index + 1).ok())
            }
        };
        match number {
            Some(number) if (1..=31).contains(&number) || REAL_TIME.contains(&number) => Ok(Self(number)),
            _ => Err(format!(
                "{text:?} is no signal; write its name, such as \"SIGTERM\" or \"INT\", or its number"
            )),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = usize::try_from(self.0 - 1).ok();
        match index.and_then(|index| SIGNALS.get(index)) {
            Some(name) => f.pad(&format!("SIG{name}")),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a signal such as \"SIGTERM\"").or_number())
    }
}

impl JsonSchema for Signal {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A signal: its name with or without `SIG`, or its number.",
            "type": ["string", "integer"],
            "minimum": 1,
            "maximum": 64,
        })
    }
}

/// Reads a value by its [`FromStr`].
struct FromText<T> {
    expected: &'static str,
    number: bool,
    value: std::marker::PhantomData<T>,
}

impl<T> FromText<T> {
    fn new(expected: &'static str) -> Self {
        Self {
            expected,
            number: false,
            value: std::marker::PhantomData,
        }
    }

    /// A bare number is read as its text.
    fn or_number(self) -> Self {
        Self { number: true, ..self }
    }
}

impl<T: FromStr<Err = String>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        if !self.number {
            return Err(E::invalid_type(de::Unexpected::Unsigned(number), &self));
        }
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        if !self.number {
            return Err(E::invalid_type(de::Unexpected::Signed(number), &self));
        }
        number.to_string().parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn instances_are_max_or_a_number_from_1_to_1024() {
        let read = |text: &str| serde_json::from_str::<Instances>(text);
        assert_eq!(read("\"max\"").unwrap(), Instances::Max);
        assert_eq!(read("1024").unwrap(), Instances::Count(1024));
        for wrong in ["0", "1025", "-1", "\"many\"", "1.5", "true", "null"] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(
                error.contains("a number from 1 to 1024, or \"max\""),
                "{wrong}: {error}"
            );
        }
        assert_eq!(Instances::Max.count(0), 1);
        assert_eq!(Instances::Count(3).count(8), 3);
    }

    #[test]
    fn a_name_is_safe_in_a_path_and_on_a_command_line() {
        for right in ["api", "0", "a.b_c-D", &"x".repeat(64)] {
            assert_eq!(right.parse::<Name>().unwrap().as_str(), right);
        }
        for wrong in ["", ".", "..", "-x", "_x", "a/b", "a b", "é", "a\n", &"x".repeat(65)] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_signal_is_a_name_or_a_number() {
        let read = |text: &str| serde_json::from_str::<Signal>(text);
        for text in ["\"SIGTERM\"", "\"term\"", "\"TERM\"", "\"15\"", "15"] {
            assert_eq!(read(text).unwrap(), Signal::TERM, "{text}");
        }
        assert_eq!(serde_json::to_string(&Signal::TERM).unwrap(), "\"SIGTERM\"");
        assert_eq!(Signal(34).to_string(), "34");
        assert_eq!("SIGSYS".parse(), Ok(Signal(31)));
        for wrong in ["0", "65", "32", "-15", "\"SIGSOON\"", "\"\"", "1.5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

//! A length of time.

use std::time::Duration;

use super::*;

/// A length of time, at most ten years: a number with a unit (`500ms`, `1m 30s`, `2 days`), or `0`. A bare number is
/// refused, for nobody sees whether it is seconds or milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(Duration);

/// Timers count in units that a longer one could overflow.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

impl Span {
    /// So many seconds.
    pub(crate) const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub(crate) const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The same as the standard library has it.
    pub(crate) const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        span.0
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "0" {
            return Ok(Self(Duration::ZERO));
        }
        match humantime::parse_duration(text) {
            Ok(duration) if duration <= LONGEST => Ok(Self(duration)),
            Ok(_) => Err(format!("{text:?} is longer than ten years")),
            Err(_) => Err(format!(
                "{text:?} is no length of time; write a number with a unit, such as \"500ms\", \"10s\" or \"1m 30s\""
            )),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&humantime::format_duration(self.0).to_string())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a length of time such as \"10s\"").or_number())
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A length of time: a number with a unit, such as `500ms`, `10s` or `1m 30s`; or 0.",
            "anyOf": [
                { "type": "string", "pattern": r"^\s*(0|([0-9]+(\.[0-9]+)?\s*[A-Za-zµ]+\s*)+)\s*$" },
                { "const": 0 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_unit_is_asked_for() {
        assert_eq!("500ms".parse(), Ok(Span::millis(500)));
        assert_eq!("1m 30s".parse(), Ok(Span::secs(90)));
        assert_eq!("0".parse(), Ok(Span::secs(0)));
        assert_eq!(serde_json::from_str::<Span>("0").unwrap(), Span::secs(0));
        for wrong in ["10", "", "s", "10 parsecs", "11 years", "99999999999999999999s", "-1s"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong:?}");
        }
        let error = serde_json::from_str::<Span>("10").unwrap_err().to_string();
        assert!(error.contains("write a number with a unit"), "{error}");
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for span in [
            Span::secs(0),
            Span::millis(1),
            Span::secs(90),
            Span::secs(86_400 * 400),
            Span(LONGEST),
        ] {
            assert_eq!(span.to_string().parse(), Ok(span), "{span}");
        }
    }
}

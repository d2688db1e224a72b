//! A number of bytes.

use super::*;

/// A number of bytes. K, M, G and T are 1024-based, with or without `B` or `iB` behind, as systemd and PM2 have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(u64);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl ByteSize {
    /// So many times 1024 × 1024 bytes.
    pub(crate) const fn mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// The number.
    pub(crate) const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write bytes, or a number with K, M, G or T, such as \"512M\"");
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let unit = unit.trim_start().to_ascii_uppercase();
        let mut letters = unit.chars();
        let first = letters.next();
        let shift = match first {
            None | Some('B') => 0,
            Some(letter) => UNITS.iter().find(|(unit, _)| *unit == letter).ok_or_else(wrong)?.1,
        };
        if !matches!(
            (first, letters.as_str()),
            (_, "") | (Some('K' | 'M' | 'G' | 'T'), "B" | "IB")
        ) {
            return Err(wrong());
        }
        let too_large = || format!("{text:?} is more bytes than can be counted");
        // Whole and fraction apart, for a double would not hold every number of bytes.
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') || fraction.len() > 9 {
            return Err(wrong());
        }
        let whole: u128 = whole.parse().map_err(|_| too_large())?;
        let tenths = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
        let fraction: u128 = fraction.parse().map_err(|_| wrong())?;
        let bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)? + (fraction << shift) / tenths;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for ByteSize {
    /// Exact: in the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.is_multiple_of(1 << shift));
        f.pad(&match unit {
            Some((unit, shift)) => format!("{} {unit}iB", self.0 >> shift),
            None => format!("{} B", self.0),
        })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FromText::new("a size such as \"512M\", or a number of bytes").or_number())
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes: a number, or text such as `512M`; K, M, G and T are 1024-based.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]{1,9})?\s*([KMGTkmgt]?[Bb]?|[KMGTkmgt][Ii][Bb])\s*$" },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn units_are_1024_based() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("512 MiB", 512 << 20),
            ("300mb", 300 << 20),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
            ("9007199254740993", 9_007_199_254_740_993),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(serde_json::from_str::<ByteSize>("1024").unwrap(), ByteSize(1024));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "M",
            "-1",
            "1X",
            "1.M",
            ".5M",
            "1..5M",
            "1Mi",
            "1iB",
            "1 M B",
            "99999999T",
            "1e3",
            "1BB",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_is_exact() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (3 << 29, "1536 MiB"),
            (u64::MAX, "18446744073709551615 B"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
        }
        assert_eq!(ByteSize::mib(1024).to_string(), "1 GiB");
    }
}

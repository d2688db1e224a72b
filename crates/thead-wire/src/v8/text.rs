//! JavaScript's strings, big integers and flags of regular expressions.

use std::{borrow::Cow, char, cmp::Ordering, fmt, slice, str};

/// A JavaScript string: a sequence of UTF-16 code units, in which a surrogate may stand alone.
///
/// It keeps the encoding it came in, so that it is written back with the same bytes; comparison is by content.
#[derive(Clone, Copy)]
pub struct JsStr<'a>(pub(super) Repr<'a>);

/// The three encodings of the wire. `Utf16` is little-endian and of even length.
#[derive(Clone, Copy)]
pub(super) enum Repr<'a> {
    Latin1(&'a [u8]),
    Utf16(&'a [u8]),
    Utf8(&'a str),
}

/// Names an encoding where the bytes are known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Latin1,
    Utf16,
    Utf8,
}

impl<'a> JsStr<'a> {
    /// The text, or nothing if a lone surrogate makes it unrepresentable.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        match self.0 {
            Repr::Latin1(bytes) => Some(latin1(bytes)),
            Repr::Utf16(_) => char::decode_utf16(self.units())
                .collect::<Result<String, _>>()
                .ok()
                .map(Cow::Owned),
            Repr::Utf8(text) => Some(Cow::Borrowed(text)),
        }
    }

    /// The text, with U+FFFD in the place of each lone surrogate.
    pub fn to_string_lossy(self) -> Cow<'a, str> {
        match self.0 {
            Repr::Latin1(bytes) => latin1(bytes),
            Repr::Utf16(_) => char::decode_utf16(self.units())
                .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect::<String>()
                .into(),
            Repr::Utf8(text) => Cow::Borrowed(text),
        }
    }

    /// The UTF-16 code units, as `charCodeAt` gives them.
    pub fn units(self) -> impl Iterator<Item = u16> + 'a {
        match self.0 {
            Repr::Latin1(bytes) => Units::Latin1(bytes.iter()),
            Repr::Utf16(bytes) => Units::Utf16(bytes.as_chunks().0.iter()),
            Repr::Utf8(text) => Units::Utf8(text.encode_utf16()),
        }
    }

    /// Whether it is `""`.
    pub fn is_empty(self) -> bool {
        self.units().next().is_none()
    }

    /// The array index that this property name is, if it is one: `"7"` is, `"07"` and `"4294967295"` are not.
    pub(super) fn array_index(self) -> Option<u32> {
        let mut index: u32 = 0;
        for (position, unit) in self.units().enumerate() {
            let digit = u32::from(unit)
                .checked_sub(u32::from(b'0'))
                .filter(|digit| *digit < 10)?;
            if position > 0 && index == 0 {
                return None;
            }
            index = index.checked_mul(10)?.checked_add(digit)?;
        }
        (index < u32::MAX && !self.is_empty()).then_some(index)
    }

    /// An order, for finding equal names; it is the one of code units.
    pub(super) fn compare(self, other: JsStr<'_>) -> Ordering {
        match (self.0, other.0) {
            (Repr::Latin1(one), Repr::Latin1(two)) => one.cmp(two),
            _ => self.units().cmp(other.units()),
        }
    }
}

enum Units<'a> {
    Latin1(slice::Iter<'a, u8>),
    Utf16(slice::Iter<'a, [u8; 2]>),
    Utf8(str::EncodeUtf16<'a>),
}

impl Iterator for Units<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        match self {
            Units::Latin1(bytes) => bytes.next().map(|byte| u16::from(*byte)),
            Units::Utf16(pairs) => pairs.next().map(|pair| u16::from_le_bytes(*pair)),
            Units::Utf8(units) => units.next(),
        }
    }
}

fn latin1(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) if bytes.is_ascii() => Cow::Borrowed(text),
        _ => bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into(),
    }
}

impl PartialEq for JsStr<'_> {
    fn eq(&self, other: &JsStr<'_>) -> bool {
        match (self.0, other.0) {
            (Repr::Latin1(one), Repr::Latin1(two)) | (Repr::Utf16(one), Repr::Utf16(two)) => one == two,
            (Repr::Utf8(one), Repr::Utf8(two)) => one == two,
            _ => self.units().eq(other.units()),
        }
    }
}

impl Eq for JsStr<'_> {}

impl PartialEq<str> for JsStr<'_> {
    fn eq(&self, other: &str) -> bool {
        match self.0 {
            Repr::Latin1(bytes) if other.is_ascii() => bytes == other.as_bytes(),
            _ => *self == JsStr(Repr::Utf8(other)),
        }
    }
}

impl PartialEq<&str> for JsStr<'_> {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl JsStr<'_> {
    /// Prints at most so many code units, as JavaScript source, lone surrogates escaped.
    pub(super) fn excerpt(self, f: &mut fmt::Formatter<'_>, units: usize) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for unit in char::decode_utf16(self.units().take(units)) {
            match unit {
                Ok(char) => write!(f, "{}", char.escape_debug())?,
                Err(lone) => write!(f, "\\u{:04x}", lone.unpaired_surrogate())?,
            }
        }
        f.write_str(if self.units().nth(units).is_some() {
            "…\""
        } else {
            "\""
        })
    }
}

impl fmt::Debug for JsStr<'_> {
    /// As JavaScript source, lone surrogates escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.excerpt(f, usize::MAX)
    }
}

/// An integer of any size.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BigInt<'a> {
    negative: bool,
    magnitude: &'a [u8],
}

impl<'a> BigInt<'a> {
    /// From the absolute value's bytes, lowest first.
    pub(super) fn new(negative: bool, magnitude: &'a [u8]) -> BigInt<'a> {
        let len = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        BigInt {
            negative: negative && len > 0,
            magnitude: &magnitude[..len],
        }
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.negative
    }

    /// The bytes of the absolute value, lowest first, without leading zeros; none for zero.
    pub fn magnitude_le(self) -> &'a [u8] {
        self.magnitude
    }

    /// The number, if it fits.
    pub fn to_i128(self) -> Option<i128> {
        let mut bytes = [0; 16];
        bytes.get_mut(..self.magnitude.len())?.copy_from_slice(self.magnitude);
        let magnitude = u128::from_le_bytes(bytes);
        if self.negative {
            0_i128.checked_sub_unsigned(magnitude)
        } else {
            i128::try_from(magnitude).ok()
        }
    }
}

impl fmt::Debug for BigInt<'_> {
    /// As JavaScript source, in hexadecimal, of which only the beginning is shown where it is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let (shown, more) = match self.magnitude.len() {
            0..=32 => (self.magnitude, ""),
            len => (&self.magnitude[len - 32..], "…"),
        };
        write!(f, "{sign}0x")?;
        match shown.split_last() {
            None => f.write_str("0")?,
            Some((top, rest)) => {
                write!(f, "{top:x}")?;
                rest.iter().rev().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        write!(f, "{more}n")
    }
}

/// The flags of a regular expression; printed and parsed as JavaScript does, `"gi"`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct RegExpFlags(u16);

/// A letter that is no flag, a flag twice, or `u` and `v` together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the flags of a regular expression; allowed are d, g, i, m, s, y, and one of u and v, each once")]
pub struct RegExpFlagsError;

impl RegExpFlags {
    /// In the order in which JavaScript prints them.
    const LETTERS: [(char, u16); 8] = [
        ('d', 128),
        ('g', 1),
        ('i', 2),
        ('m', 4),
        ('s', 32),
        ('u', 16),
        ('v', 256),
        ('y', 8),
    ];

    /// From the wire's bits, if V8 would take them. Bit 6 is V8's own `l`, off by default and so refused.
    pub(super) fn from_bits(bits: u32) -> Option<RegExpFlags> {
        let known = RegExpFlags::LETTERS.iter().fold(0, |all, (_, bit)| all | bit);
        let bits = u16::try_from(bits).ok()?;
        (bits & !known == 0 && bits & 272 != 272).then_some(RegExpFlags(bits))
    }

    pub(super) fn bits(self) -> u16 {
        self.0
    }
}

impl str::FromStr for RegExpFlags {
    type Err = RegExpFlagsError;

    fn from_str(flags: &str) -> Result<RegExpFlags, RegExpFlagsError> {
        let mut bits = 0;
        for letter in flags.chars() {
            let (_, bit) = RegExpFlags::LETTERS
                .iter()
                .find(|(known, _)| *known == letter)
                .ok_or(RegExpFlagsError)?;
            if bits & bit != 0 {
                return Err(RegExpFlagsError);
            }
            bits |= bit;
        }
        RegExpFlags::from_bits(bits.into()).ok_or(RegExpFlagsError)
    }
}

impl fmt::Display for RegExpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = RegExpFlags::LETTERS.iter().filter(|(_, bit)| self.0 & bit != 0);
        set.map(|(letter, _)| letter)
            .try_for_each(|letter| write!(f, "{letter}"))
    }
}

impl fmt::Debug for RegExpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

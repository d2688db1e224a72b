//! Bytes to Rust types.

use std::borrow::Cow;
use std::fmt;

use bytes::BytesMut;
use serde::de::value::{BorrowedBytesDeserializer, F64Deserializer, SeqAccessDeserializer, StringDeserializer};
use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, IntoDeserializer, Unexpected, Visitor};

use super::{
    Limits,
    error::ReadError,
    js::{self, Wrapper},
    json::iso,
    kind::ViewKind,
    place::{Place, Step},
    text::JsStr,
    value::{Value, whole},
    write::write_value,
};
use access::{Elements, Entries, Members, Variant};
use cursor::{Cursor, Head, Part};

mod access;
mod cursor;

/// Reads the payload of one frame into a Rust value, without a [`Document`](super::Document) in between.
///
/// As [`to_vec`](super::to_vec) writes it, and:
/// - `None` and `()` are read from `undefined` and `null`. A property of a struct that is `undefined` is as good as
///   missing, so that defaults apply.
/// - Integers are read from whole numbers up to 2^53 and from `BigInt`s, floats from both too.
/// - Maps are read from plain objects and from `Map`s, sequences from arrays, `Set`s, and the elements of typed arrays.
///   A hole is `undefined`.
/// - Bytes are read from a `Buffer`, any view and an `ArrayBuffer`, and `&[u8]` borrows them. `&str` borrows what is ASCII.
/// - A `Date` is read as its milliseconds, or as the string that `toISOString` gives where a string is asked for.
/// - An error object is read as a map with `name`, `message`, `stack` and `cause`.
/// - An object that is used twice is read twice; one that contains itself is an error.
///
/// Types recurse, so that depth is limited to 256, whatever `limits` allow; what a type ignores is not. What follows the
/// value is ignored, as Node does.
///
/// # Errors
///
/// [`DecodeError`], with the place in the value.
pub fn from_slice<'de, T: Deserialize<'de>>(payload: &'de [u8], limits: &Limits) -> Result<T, DecodeError> {
    decode(payload, limits, false)
}

/// As [`from_slice`], with U+FFFD in the place of each lone surrogate, which no Rust string can hold.
///
/// # Errors
///
/// [`DecodeError`].
pub fn from_slice_lossy<'de, T: Deserialize<'de>>(payload: &'de [u8], limits: &Limits) -> Result<T, DecodeError> {
    decode(payload, limits, true)
}

fn decode<'de, T: Deserialize<'de>>(payload: &'de [u8], limits: &Limits, lossy: bool) -> Result<T, DecodeError> {
    let mut decoder = Decoder {
        cursor: Cursor::new(payload, limits)?,
        lossy,
    };
    T::deserialize(&mut decoder)
}

/// A value of a document as a Rust value. It is written and read again, so it costs a copy.
///
/// # Errors
///
/// [`DecodeError`].
pub fn from_value<T: DeserializeOwned>(value: Value<'_>) -> Result<T, DecodeError> {
    let limits = Limits::default();
    let mut payload = BytesMut::new();
    write_value(value.doc, value.slot, &limits, &mut payload)
        .map_err(|error| DecodeError::from(DecodeErrorKind::Shape(error.to_string())))?;
    from_slice(&payload, &limits)
}

/// Why a payload cannot be read into a type.
#[derive(Debug, Clone)]
pub struct DecodeError(Box<(DecodeErrorKind, Place)>);

impl DecodeError {
    /// What is wrong.
    pub fn kind(&self) -> &DecodeErrorKind {
        &self.0.0
    }

    /// Where: `items[3].price`, empty for the value itself. What is inside an untagged or internally tagged enum, or a
    /// flattened field, has the place of the whole: serde reads it before it knows what it is.
    pub fn place(&self) -> String {
        self.0.1.to_string()
    }

    fn within(mut self, step: Step) -> DecodeError {
        self.0.1.push(step);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.0)?;
        self.0.1.print(f)
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeErrorKind> for DecodeError {
    fn from(kind: DecodeErrorKind) -> DecodeError {
        DecodeError(Box::new((kind, Place::default())))
    }
}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> DecodeError {
        DecodeErrorKind::Shape(message.to_string()).into()
    }
}

/// What can be wrong with a payload that is to be of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// It is no value in V8's format, or over the limits.
    #[error(transparent)]
    Format(#[from] ReadError),
    /// Something else was expected.
    #[error("{0}")]
    Shape(String),
    /// No Rust string can hold it; see [`from_slice_lossy`].
    #[error("a string with a lone surrogate")]
    LoneSurrogate,
    /// An object is part of itself; read a [`Document`](super::Document) instead.
    #[error("an object that contains itself")]
    Cycle,
    /// Nested deeper than types may be.
    #[error("nested deeper than {limit}")]
    TooDeep {
        /// That depth.
        limit: usize,
    },
    /// Read as often as it is used it would be much larger than it is.
    #[error("much larger than its bytes: shared objects, or arrays with many holes")]
    TooLarge,
}

struct Decoder<'de> {
    cursor: Cursor<'de>,
    lossy: bool,
}

/// What a type asked for, where that makes a difference.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Any,
    Text,
    Bytes,
    Sequence,
    /// Properties, without those that are `undefined`.
    Struct,
}

impl<'de> Decoder<'de> {
    fn value<V: Visitor<'de>>(&mut self, want: Want, visitor: V) -> Result<V::Value, DecodeError> {
        let (head, mark) = self.cursor.head()?;
        let value = match head {
            Head::Part(part) => self.part(part, want, visitor)?,
            Head::Blob(kind, bytes) => blob(kind, bytes, want, visitor)?,
            Head::Text(text) => self.text(text, visitor)?,
            leaf => scalar(leaf, want, visitor)?,
        };
        self.cursor.finish(mark);
        Ok(value)
    }

    fn part<V: Visitor<'de>>(&mut self, part: Part, want: Want, visitor: V) -> Result<V::Value, DecodeError> {
        match part {
            Part::Object | Part::Map | Part::Error(_) => {
                let mut entries = Entries::new(self, part, want == Want::Struct);
                let value = visitor.visit_map(&mut entries)?;
                entries.end()?;
                Ok(value)
            }
            _ => {
                let mut members = Members::new(self, part);
                let value = visitor.visit_seq(&mut members)?;
                members.end()?;
                Ok(value)
            }
        }
    }

    fn text<V: Visitor<'de>>(&self, text: JsStr<'de>, visitor: V) -> Result<V::Value, DecodeError> {
        match text.as_str() {
            Some(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Some(Cow::Owned(text)) => visitor.visit_string(text),
            None if self.lossy => visitor.visit_string(text.to_string_lossy().into_owned()),
            None => Err(DecodeErrorKind::LoneSurrogate.into()),
        }
    }

    fn text_of(&self, text: JsStr<'de>) -> Result<Cow<'de, str>, DecodeError> {
        match text.as_str() {
            Some(text) => Ok(text),
            None if self.lossy => Ok(text.to_string_lossy()),
            None => Err(DecodeErrorKind::LoneSurrogate.into()),
        }
    }

    /// A value that has to be one of JavaScript's own.
    fn wrapped<V: Visitor<'de>>(&mut self, wrapper: Wrapper, visitor: V) -> Result<V::Value, DecodeError> {
        let (head, mark) = self.cursor.head()?;
        let value = match (wrapper, head) {
            (Wrapper::Date, Head::Date(ms)) => visitor.visit_newtype_struct(F64Deserializer::new(ms)),
            (Wrapper::RegExp, Head::RegExp { pattern, flags }) => {
                let literal = format!("/{}/{flags}", self.text_of(pattern)?);
                visitor.visit_newtype_struct(StringDeserializer::new(literal))
            }
            (Wrapper::ArrayBuffer, Head::Blob(kind, bytes)) if is_of_bytes(kind) => {
                visitor.visit_newtype_struct(BorrowedBytesDeserializer::new(bytes))
            }
            (Wrapper::View(wanted), Head::Blob(kind, bytes)) if is_of_bytes(Some(wanted)) && is_of_bytes(kind) => {
                visitor.visit_newtype_struct(BorrowedBytesDeserializer::new(bytes))
            }
            (Wrapper::View(wanted), Head::Blob(Some(kind), bytes)) if wanted == kind => {
                visitor.visit_newtype_struct(SeqAccessDeserializer::new(Elements::new(kind, bytes)))
            }
            (Wrapper::View(wanted), Head::Part(part @ (Part::Dense { .. } | Part::Sparse { .. })))
                if !is_of_bytes(Some(wanted)) =>
            {
                let mut members = Members::new(self, part);
                let value = visitor.visit_newtype_struct(SeqAccessDeserializer::new(&mut members))?;
                members.end()?;
                Ok(value)
            }
            (wrapper, head) => Err(de::Error::invalid_type(Unexpected::Other(head.name()), &wrapper.name())),
        }?;
        self.cursor.finish(mark);
        Ok(value)
    }
}

/// Whether it is read as bytes where a type does not say what it wants.
fn is_of_bytes(kind: Option<ViewKind>) -> bool {
    matches!(
        kind,
        None | Some(ViewKind::Buffer | ViewKind::Uint8Array | ViewKind::Uint8ClampedArray | ViewKind::DataView)
    )
}

fn blob<'de, V: Visitor<'de>>(
    kind: Option<ViewKind>,
    bytes: &'de [u8],
    want: Want,
    visitor: V,
) -> Result<V::Value, DecodeError> {
    match want {
        Want::Bytes => visitor.visit_borrowed_bytes(bytes),
        Want::Any | Want::Text | Want::Struct if is_of_bytes(kind) => visitor.visit_borrowed_bytes(bytes),
        _ => visitor.visit_seq(Elements::new(kind.unwrap_or(ViewKind::Uint8Array), bytes)),
    }
}

fn scalar<'de, V: Visitor<'de>>(head: Head<'de>, want: Want, visitor: V) -> Result<V::Value, DecodeError> {
    match head {
        Head::Bool(bool) => visitor.visit_bool(bool),
        Head::Int(int) => visitor.visit_i64(int.into()),
        Head::Date(ms) if want == Want::Text => match iso(ms) {
            Some(text) => visitor.visit_string(text),
            None => Err(de::Error::invalid_value(Unexpected::Other("an invalid Date"), &visitor)),
        },
        Head::Double(double) | Head::Date(double) => match exact(double) {
            Some(int) => visitor.visit_i64(int),
            None => visitor.visit_f64(double),
        },
        Head::BigInt(int) => big_int(int, visitor),
        Head::RegExp { .. } => Err(de::Error::invalid_type(Unexpected::Other(head.name()), &visitor)),
        _ => visitor.visit_unit(),
    }
}

/// The integer that a number is; -0 is none.
fn exact(double: f64) -> Option<i64> {
    whole(double).filter(|int| *int != 0 || double.is_sign_positive())
}

/// In the narrowest of the types that hold it, for visitors that know not all of them.
fn big_int<'de, V: Visitor<'de>>(int: super::text::BigInt<'_>, visitor: V) -> Result<V::Value, DecodeError> {
    let mut bytes = [0; 16];
    let magnitude = int.magnitude_le();
    let Some(low) = bytes.get_mut(..magnitude.len()) else {
        let found = Unexpected::Other("a BigInt of more than 128 bits");
        return Err(de::Error::invalid_value(found, &visitor));
    };
    low.copy_from_slice(magnitude);
    let magnitude = u128::from_le_bytes(bytes);
    if !int.is_negative() {
        return match u64::try_from(magnitude) {
            Ok(int) => visitor.visit_u64(int),
            Err(_) => visitor.visit_u128(magnitude),
        };
    }
    match int.to_i128() {
        Some(int) => match i64::try_from(int) {
            Ok(int) => visitor.visit_i64(int),
            Err(_) => visitor.visit_i128(int),
        },
        None => {
            let found = Unexpected::Other("a BigInt of more than 128 bits");
            Err(de::Error::invalid_value(found, &visitor))
        }
    }
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Any, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Text, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Text, visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Bytes, visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Bytes, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Sequence, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.value(Want::Sequence, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.value(Want::Sequence, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != js::ERROR {
            return self.value(Want::Struct, visitor);
        }
        let (head, mark) = self.cursor.head()?;
        let Head::Part(part @ Part::Error(_)) = head else {
            let found = Unexpected::Other(head.name());
            return Err(de::Error::invalid_type(found, &"an error object"));
        };
        let value = self.part(part, Want::Struct, visitor)?;
        self.cursor.finish(mark);
        Ok(value)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.cursor.peek() {
            Some(b'_' | b'0') => {
                let (_, mark) = self.cursor.head()?;
                self.cursor.finish(mark);
                visitor.visit_none()
            }
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match Wrapper::of(name) {
            None | Some(Wrapper::Map | Wrapper::Set | Wrapper::BigInt) => visitor.visit_newtype_struct(self),
            Some(wrapper) => self.wrapped(wrapper, visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let (head, mark) = self.cursor.head()?;
        let value = match head {
            Head::Text(text) => visitor.visit_enum(self.text_of(text)?.into_deserializer()),
            Head::Part(part @ Part::Object) => Variant::read(self, part, visitor),
            other => Err(de::Error::invalid_type(
                Unexpected::Other(other.name()),
                &"a variant: a string, or an object with one property",
            )),
        }?;
        self.cursor.finish(mark);
        Ok(value)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.cursor.skip()?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char unit unit_struct map identifier
    }
}

//! JavaScript's own types, for fields of types that are sent and received by [`to_vec`](super::to_vec) and
//! [`from_slice`](super::from_slice).
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use thead_wire::v8::{self, Limits, js};
//!
//! #[derive(Serialize, Deserialize, PartialEq, Debug)]
//! struct Upload<'a> {
//!     name: String,
//!     at: js::Date,
//!     #[serde(borrow)]
//!     body: js::Buffer<&'a [u8]>,
//! }
//!
//! let upload = Upload { name: "a.bin".into(), at: js::Date(0.0), body: js::Buffer(b"\x00\x01") };
//! let payload = v8::to_vec(&upload)?;
//! assert_eq!(v8::from_slice::<Upload>(&payload, &Limits::default())?, upload);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In other formats of serde's they are what they hold: a number, a string, bytes, a map, a sequence.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::de::{self, Deserializer, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::{
    kind::{ErrorKind, ViewKind},
    text::{RegExpFlags, RegExpFlagsError},
};

/// What the names of these types begin with, as serde is told them; nobody's own types are called so.
pub(super) const PREFIX: &str = "$thead::v8::";
pub(super) const ERROR: &str = "$thead::v8::Error";
pub(super) const UNDEFINED: &str = "$thead::v8::Undefined";

/// What of all this a value is to be, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapper {
    Date,
    BigInt,
    RegExp,
    Map,
    Set,
    ArrayBuffer,
    View(ViewKind),
}

impl Wrapper {
    pub(super) fn of(name: &str) -> Option<Wrapper> {
        // Asked for each newtype; most are somebody's own.
        Some(match name.strip_prefix(PREFIX)? {
            "Date" => Wrapper::Date,
            "BigInt" => Wrapper::BigInt,
            "RegExp" => Wrapper::RegExp,
            "Map" => Wrapper::Map,
            "Set" => Wrapper::Set,
            "ArrayBuffer" => Wrapper::ArrayBuffer,
            name => Wrapper::View(ViewKind::ALL.into_iter().find(|kind| kind.name() == name)?),
        })
    }

    /// With its article.
    pub(super) fn name(self) -> &'static str {
        match self {
            Wrapper::Date => "a Date",
            Wrapper::BigInt => "a BigInt",
            Wrapper::RegExp => "a RegExp",
            Wrapper::Map => "a Map",
            Wrapper::Set => "a Set",
            Wrapper::ArrayBuffer => "an ArrayBuffer",
            Wrapper::View(kind) => kind.name(),
        }
    }
}

/// A `Date`: milliseconds since 1970, `NaN` if invalid. Without this wrapper a `Date` is read as that number, or as the
/// string that `toISOString` gives.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename = "$thead::v8::Date")]
pub struct Date(pub f64);

/// A `BigInt`, however small. Without this wrapper integers are numbers up to 2^53, and `BigInt`s beyond; both are read
/// as either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename = "$thead::v8::BigInt")]
pub struct BigInt(pub i128);

/// A `Map`, of any type that serde takes for a map: even an empty one, and one with strings for keys, which otherwise
/// would be a plain object. A plain object is read too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename = "$thead::v8::Map")]
pub struct Map<M>(pub M);

/// A `Set`, of any type that serde takes for a sequence; otherwise it would be an array. An array is read too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename = "$thead::v8::Set")]
pub struct Set<S>(pub S);

/// `undefined`, which `None` is written as too. A missing property is read as it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename = "$thead::v8::Undefined")]
pub struct Undefined;

impl<'de> Deserialize<'de> for Undefined {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Undefined, D::Error> {
        struct Nothing;
        impl Visitor<'_> for Nothing {
            type Value = Undefined;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("undefined")
            }

            fn visit_none<E>(self) -> Result<Undefined, E> {
                Ok(Undefined)
            }

            fn visit_unit<E>(self) -> Result<Undefined, E> {
                Ok(Undefined)
            }
        }
        // As an option, because serde then gives nothing where a property is missing.
        deserializer.deserialize_option(Nothing)
    }
}

/// A regular expression. Whether the source is one is not checked; Node refuses the whole message if it is none.
///
/// In other formats it is a string, `/source/flags`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegExp {
    /// What stands between the slashes.
    pub source: String,
    /// What stands behind them.
    pub flags: RegExpFlags,
}

impl fmt::Display for RegExp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/{}", self.source, self.flags)
    }
}

impl FromStr for RegExp {
    type Err = RegExpFlagsError;

    fn from_str(text: &str) -> Result<RegExp, RegExpFlagsError> {
        let (source, flags) = text
            .strip_prefix('/')
            .and_then(|text| text.rsplit_once('/'))
            .ok_or(RegExpFlagsError)?;
        Ok(RegExp {
            source: source.to_owned(),
            flags: flags.parse()?,
        })
    }
}

impl Serialize for RegExp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct("$thead::v8::RegExp", &self.to_string())
    }
}

impl<'de> Deserialize<'de> for RegExp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RegExp, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "$thead::v8::RegExp")]
        struct Literal(String);
        let Literal(text) = Literal::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// An error object: what of it V8 sends. Other properties, as `code`, and the name of a class of one's own are lost.
///
/// `C` is the type of its cause, by default an error again; use `serde::de::IgnoredAny` to read whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error<C = Cause> {
    /// Its class.
    pub kind: ErrorKind,
    /// `error.message`
    pub message: Option<String>,
    /// `error.stack`
    pub stack: Option<String>,
    /// `error.cause`
    pub cause: Option<C>,
}

/// The error that caused another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cause(pub Box<Error>);

impl Error {
    /// One with a message alone.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: Some(message.into()),
            stack: None,
            cause: None,
        }
    }
}

impl<C: Serialize> Serialize for Error<C> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut error = serializer.serialize_struct(ERROR, 4)?;
        error.serialize_field("name", self.kind.name())?;
        if let Some(message) = &self.message {
            error.serialize_field("message", message)?;
        }
        if let Some(stack) = &self.stack {
            error.serialize_field("stack", stack)?;
        }
        if let Some(cause) = &self.cause {
            error.serialize_field("cause", cause)?;
        }
        error.end()
    }
}

impl<'de, C: Deserialize<'de>> Deserialize<'de> for Error<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Error<C>, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "$thead::v8::Error")]
        struct Parts<C> {
            name: String,
            message: Option<String>,
            stack: Option<String>,
            cause: Option<C>,
        }
        let Parts {
            name,
            message,
            stack,
            cause,
        } = Parts::deserialize(deserializer)?;
        Ok(Error {
            kind: ErrorKind::from_name(&name),
            message,
            stack,
            cause,
        })
    }
}

struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// What the contents of a buffer can be read into.
pub trait FromBytes<'de> {
    /// Borrows the bytes, or copies them.
    fn from_bytes(bytes: &'de [u8]) -> Self;
}

impl<'de: 'a, 'a> FromBytes<'de> for &'a [u8] {
    fn from_bytes(bytes: &'de [u8]) -> &'a [u8] {
        bytes
    }
}

impl<'de: 'a, 'a> FromBytes<'de> for Cow<'a, [u8]> {
    fn from_bytes(bytes: &'de [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(bytes)
    }
}

impl FromBytes<'_> for Vec<u8> {
    fn from_bytes(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

impl FromBytes<'_> for Bytes {
    fn from_bytes(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }
}

macro_rules! bytes {
    ($($(#[$doc:meta])* $name:ident = $rename:literal),* $(,)?) => {
        $($(#[$doc])*
        ///
        /// `&[u8]` borrows from the payload, `Vec<u8>` copies. All types of single bytes are read as one another.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name<B>(pub B);

        impl<B: AsRef<[u8]>> Serialize for $name<B> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_newtype_struct($rename, &Raw(self.0.as_ref()))
            }
        }

        impl<'de, B: FromBytes<'de>> Deserialize<'de> for $name<B> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name<B>, D::Error> {
                #[derive(Deserialize)]
                #[serde(rename = $rename)]
                struct Borrowed<'a>(#[serde(borrow)] &'a [u8]);
                let Borrowed(bytes) = Borrowed::deserialize(deserializer)?;
                Ok($name(B::from_bytes(bytes)))
            }
        })*
    };
}

bytes! {
    /// A `Buffer` of Node's, which bytes without a wrapper (`serialize_bytes`) become too.
    Buffer = "$thead::v8::Buffer",
    /// An `ArrayBuffer`.
    ArrayBuffer = "$thead::v8::ArrayBuffer",
    /// A `Uint8Array`.
    Uint8Array = "$thead::v8::Uint8Array",
    /// A `Uint8ClampedArray`.
    Uint8ClampedArray = "$thead::v8::Uint8ClampedArray",
    /// A `DataView`.
    DataView = "$thead::v8::DataView",
}

macro_rules! elements {
    ($($name:ident of $element:ty = $rename:literal),* $(,)?) => {
        $(#[doc = concat!("A `", stringify!($name), "`. An array of such numbers is read too.")]
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename = $rename)]
        pub struct $name(pub Vec<$element>);)*
    };
}

elements! {
    Int8Array of i8 = "$thead::v8::Int8Array",
    Int16Array of i16 = "$thead::v8::Int16Array",
    Uint16Array of u16 = "$thead::v8::Uint16Array",
    Int32Array of i32 = "$thead::v8::Int32Array",
    Uint32Array of u32 = "$thead::v8::Uint32Array",
    Float32Array of f32 = "$thead::v8::Float32Array",
    Float64Array of f64 = "$thead::v8::Float64Array",
    BigInt64Array of i64 = "$thead::v8::BigInt64Array",
    BigUint64Array of u64 = "$thead::v8::BigUint64Array",
}

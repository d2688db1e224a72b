//! Rust types to bytes.

use std::fmt;

use bytes::BytesMut;
use serde::ser::{self, Serialize, Serializer};

use super::{
    Limits,
    js::{self, Wrapper},
    kind::ViewKind,
    output::Output,
    place::{Place, Step},
    read::read,
    text::{BigInt, JsStr, Repr},
    value::Document,
    write::WriteError,
};
use compound::{Body, Compound};

mod compound;

/// Writes a Rust value as the payload of a frame, without a [`Document`] in between.
///
/// | Rust | JavaScript |
/// | --- | --- |
/// | `()`, unit struct | `null` |
/// | `None` | `undefined`: in a struct that is a property that is not there, for `?.` and defaults. JSON writes `null` |
/// | integer | number up to 2^53 - 1, `BigInt` beyond |
/// | `f32`, `f64` | number |
/// | `char`, `str` | string |
/// | bytes | `Buffer` |
/// | sequence, tuple | array |
/// | struct, map with strings for keys, empty map | plain object |
/// | map with other keys | `Map` |
/// | enum | as `serde_json` has it: `"Unit"`, `{ Newtype: value }`, `{ Tuple: [..] }`, `{ Struct: {..} }` |
///
/// For JavaScript's other types see [`js`]. The bytes are those that Node would write, but for names that are array
/// indexes: they stand where they came, and JavaScript sorts them. Depth is limited to 256, because types recurse.
///
/// # Errors
///
/// [`EncodeError`].
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut out = BytesMut::with_capacity(128);
    to_buffer(value, &Limits::default(), &mut out)?;
    Ok(out.into())
}

/// As [`to_vec`], appended to a buffer.
///
/// # Errors
///
/// [`EncodeError`]; the buffer is then as before.
pub fn to_buffer<T: Serialize + ?Sized>(value: &T, limits: &Limits, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    let mut encoder = Encoder {
        out: Output::begin(out),
        depth: limits.depth.min(super::TYPED_DEPTH),
        open: 0,
        wrapper: None,
        element: None,
    };
    let written = value.serialize(&mut encoder).and_then(|()| Ok(encoder.out.room(0)?));
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// A Rust value as a document: what [`to_vec`] writes.
///
/// # Errors
///
/// [`EncodeError`].
pub fn to_document<T: Serialize + ?Sized>(value: &T) -> Result<Document, EncodeError> {
    read(&to_vec(value)?.into(), &Limits::default()).map_err(|error| EncodeErrorKind::Refused(error.to_string()).into())
}

/// Why a Rust value cannot be written.
#[derive(Debug, Clone)]
pub struct EncodeError(Box<(EncodeErrorKind, Place)>);

impl EncodeError {
    /// What is wrong.
    pub fn kind(&self) -> &EncodeErrorKind {
        &self.0.0
    }

    /// Where: `items[3].price`, empty for the value itself.
    pub fn place(&self) -> String {
        self.0.1.to_string()
    }

    fn within(mut self, step: Step) -> EncodeError {
        self.0.1.push(step);
        self
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.0)?;
        self.0.1.print(f)
    }
}

impl std::error::Error for EncodeError {}

impl From<EncodeErrorKind> for EncodeError {
    fn from(kind: EncodeErrorKind) -> EncodeError {
        EncodeError(Box::new((kind, Place::default())))
    }
}

impl From<WriteError> for EncodeError {
    fn from(error: WriteError) -> EncodeError {
        EncodeErrorKind::Write(error).into()
    }
}

impl ser::Error for EncodeError {
    fn custom<T: fmt::Display>(message: T) -> EncodeError {
        EncodeErrorKind::Refused(message.to_string()).into()
    }
}

/// What can be wrong with a Rust value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeErrorKind {
    /// It is too deep or too large.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Some keys of a map are strings and some are not: neither an object nor a `Map`.
    #[error("a map of which some keys are strings and some are not")]
    Keys,
    /// Two properties of an object have one name, as of a flattened field and another.
    #[error("the property {0} twice")]
    KeyTwice(String),
    /// A sequence gave another number of elements than it said it would.
    #[error("a sequence that said it has {said} elements and has {found}")]
    Length {
        /// What it said.
        said: usize,
        /// What came.
        found: usize,
    },
    /// What a type of [`js`] holds is not what it can hold.
    #[error("not what {0} can hold")]
    Wrapped(&'static str),
    /// The type's own `Serialize` says why.
    #[error("{0}")]
    Refused(String),
}

struct Encoder<'o> {
    out: Output<'o>,
    depth: usize,
    /// How many objects are not closed.
    open: usize,
    /// What the next value is to be.
    wrapper: Option<Wrapper>,
    /// What the next number is an element of.
    element: Option<ViewKind>,
}

impl<'o> Encoder<'o> {
    /// Takes the wrapper away, which is none or that one.
    fn unwrap_or_none(&mut self, allowed: Wrapper) -> Result<bool, EncodeError> {
        match self.wrapper.take() {
            None => Ok(false),
            Some(wrapper) if wrapper == allowed => Ok(true),
            Some(wrapper) => Err(EncodeErrorKind::Wrapped(wrapper.name()).into()),
        }
    }

    fn plain(&mut self) -> Result<(), EncodeError> {
        match (self.wrapper, self.element) {
            (None, None) => Ok(()),
            (Some(wrapper), _) => Err(EncodeErrorKind::Wrapped(wrapper.name()).into()),
            (None, Some(kind)) => Err(EncodeErrorKind::Wrapped(kind.name()).into()),
        }
    }

    fn tag(&mut self, tag: u8) -> Result<(), EncodeError> {
        self.plain()?;
        self.out.byte(tag);
        Ok(())
    }

    fn signed(&mut self, int: i64) -> Result<(), EncodeError> {
        if let Some(kind) = self.element {
            return self.element(kind, &int.to_le_bytes());
        }
        if self.wrapper.is_some() {
            return self.big_int(int < 0, &int.unsigned_abs().to_le_bytes());
        }
        if let Ok(int) = i32::try_from(int) {
            self.out.int(int);
        } else if int.unsigned_abs() < 1 << 53 {
            self.out.tagged_double(b'N', int as f64);
        } else {
            self.big_int(int < 0, &int.unsigned_abs().to_le_bytes())?;
        }
        Ok(())
    }

    fn big_int(&mut self, negative: bool, magnitude: &[u8]) -> Result<(), EncodeError> {
        self.unwrap_or_none(Wrapper::BigInt)?;
        self.plain()?;
        self.out.byte(b'Z');
        Ok(self.out.big_int(BigInt::new(negative, magnitude))?)
    }

    /// An element of a typed array, of which the lowest bytes count.
    fn element(&mut self, kind: ViewKind, bytes: &[u8]) -> Result<(), EncodeError> {
        self.out.out.extend_from_slice(&bytes[..kind.element_size()]);
        Ok(())
    }

    fn view(&mut self, kind: ViewKind, bytes: &[u8]) -> Result<(), EncodeError> {
        self.out.view(kind);
        Ok(self.out.blob(bytes, None)?)
    }

    fn property(&mut self, name: &str) -> Result<(), EncodeError> {
        if name.starts_with(|first: char| first.is_ascii_digit())
            && let Some(index) = JsStr(Repr::Utf8(name)).array_index()
        {
            self.out.index(index);
            return Ok(());
        }
        Ok(self.out.text(name)?)
    }

    fn open(&mut self) -> Result<(), EncodeError> {
        if self.open >= self.depth {
            return Err(EncodeErrorKind::Write(WriteError::TooDeep { limit: self.depth }).into());
        }
        self.open += 1;
        Ok(())
    }

    fn compound(&mut self, body: Body) -> Result<Compound<'_, 'o>, EncodeError> {
        self.plain()?;
        self.open()?;
        Ok(Compound {
            encoder: self,
            body,
            count: 0,
            variant: false,
        })
    }

    /// The object around what a variant holds.
    fn variant(&mut self, name: &str) -> Result<(), EncodeError> {
        self.plain()?;
        self.open()?;
        self.out.byte(b'o');
        self.property(name)
    }

    fn close_variant(&mut self) {
        self.out.tagged(b'{', 1);
        self.open -= 1;
    }

    fn sequence(&mut self, len: Option<usize>) -> Result<Compound<'_, 'o>, EncodeError> {
        match self.wrapper.take() {
            None => {}
            Some(Wrapper::Set) => {
                self.out.byte(b'\'');
                return self.compound(Body::Set);
            }
            Some(Wrapper::View(kind)) => {
                let len = len.ok_or(EncodeErrorKind::Wrapped(kind.name()))?;
                let size = len.saturating_mul(kind.element_size());
                self.out.room(size)?;
                self.out.view(kind);
                self.out.varint(size as u32);
                return self.compound(Body::Elements { kind, said: len });
            }
            Some(other) => return Err(EncodeErrorKind::Wrapped(other.name()).into()),
        }
        self.plain()?;
        let Some(said) = len else {
            self.out.byte(b'A');
            let at = self.out.out.len();
            // A number of so many bytes that every length fits in.
            self.out.out.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0]);
            return self.compound(Body::Uncounted { at });
        };
        self.out.room(said)?;
        self.out.tagged(b'A', said as u32);
        self.compound(Body::Array { said })
    }
}

macro_rules! signed {
    ($($method:ident: $int:ty),*) => {
        $(fn $method(self, int: $int) -> Result<(), EncodeError> {
            self.signed(int.into())
        })*
    };
}

impl<'e, 'o> Serializer for &'e mut Encoder<'o> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Compound<'e, 'o>;
    type SerializeTuple = Compound<'e, 'o>;
    type SerializeTupleStruct = Compound<'e, 'o>;
    type SerializeTupleVariant = Compound<'e, 'o>;
    type SerializeMap = Compound<'e, 'o>;
    type SerializeStruct = Compound<'e, 'o>;
    type SerializeStructVariant = Compound<'e, 'o>;

    signed! {
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32
    }

    fn serialize_u64(self, int: u64) -> Result<(), EncodeError> {
        match (i64::try_from(int), self.element) {
            (Ok(int), _) => self.signed(int),
            (Err(_), Some(kind)) => self.element(kind, &int.to_le_bytes()),
            (Err(_), None) => self.big_int(false, &int.to_le_bytes()),
        }
    }

    fn serialize_i128(self, int: i128) -> Result<(), EncodeError> {
        match i64::try_from(int) {
            Ok(int) => self.signed(int),
            Err(_) => self.big_int(int < 0, &int.unsigned_abs().to_le_bytes()),
        }
    }

    fn serialize_u128(self, int: u128) -> Result<(), EncodeError> {
        match i64::try_from(int) {
            Ok(int) => self.signed(int),
            Err(_) => self.big_int(false, &int.to_le_bytes()),
        }
    }

    fn serialize_f32(self, double: f32) -> Result<(), EncodeError> {
        match self.element {
            Some(kind) => self.element(kind, &double.to_le_bytes()),
            None => self.serialize_f64(double.into()),
        }
    }

    fn serialize_f64(self, double: f64) -> Result<(), EncodeError> {
        if let Some(kind) = self.element {
            return self.element(kind, &double.to_le_bytes());
        }
        if self.unwrap_or_none(Wrapper::Date)? {
            self.out.tagged_double(b'D', double);
            return Ok(());
        }
        let int = double as i32;
        if f64::from(int).to_bits() == double.to_bits() {
            self.out.int(int);
        } else {
            self.out.tagged_double(b'N', double);
        }
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Result<(), EncodeError> {
        self.tag(if value { b'T' } else { b'F' })
    }

    fn serialize_char(self, char: char) -> Result<(), EncodeError> {
        self.serialize_str(char.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<(), EncodeError> {
        if self.unwrap_or_none(Wrapper::RegExp)? {
            let Ok(js::RegExp { source, flags }) = text.parse() else {
                return Err(EncodeErrorKind::Wrapped(Wrapper::RegExp.name()).into());
            };
            self.out.byte(b'R');
            self.out.text(&source)?;
            self.out.varint(flags.bits().into());
            return Ok(());
        }
        self.plain()?;
        Ok(self.out.text(text)?)
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), EncodeError> {
        match self.wrapper.take() {
            None => {
                self.plain()?;
                self.view(ViewKind::Buffer, bytes)
            }
            Some(Wrapper::View(kind)) => self.view(kind, bytes),
            Some(Wrapper::ArrayBuffer) => {
                self.out.byte(b'B');
                Ok(self.out.blob(bytes, None)?)
            }
            Some(other) => Err(EncodeErrorKind::Wrapped(other.name()).into()),
        }
    }

    fn serialize_none(self) -> Result<(), EncodeError> {
        self.tag(b'_')
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.tag(b'0')
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), EncodeError> {
        self.tag(if name == js::UNDEFINED { b'_' } else { b'0' })
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), EncodeError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        if let Some(wrapper) = Wrapper::of(name) {
            self.plain()?;
            self.wrapper = Some(wrapper);
        }
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.variant(variant)?;
        value
            .serialize(&mut *self)
            .map_err(|error| error.within(Step::name(variant)))?;
        self.close_variant();
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'e, 'o>, EncodeError> {
        self.sequence(len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Compound<'e, 'o>, EncodeError> {
        self.sequence(Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Compound<'e, 'o>, EncodeError> {
        self.sequence(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'e, 'o>, EncodeError> {
        self.variant(variant)?;
        Ok(Compound {
            variant: true,
            ..self.sequence(Some(len))?
        })
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Compound<'e, 'o>, EncodeError> {
        let is_map = self.unwrap_or_none(Wrapper::Map)?;
        self.plain()?;
        let tag = self.out.out.len();
        self.out.byte(if is_map { b';' } else { b'o' });
        self.compound(Body::Keys {
            tag,
            is_object: is_map.then_some(false),
            names: len.is_none().then(Vec::new),
            last: tag,
        })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Compound<'e, 'o>, EncodeError> {
        self.plain()?;
        match name {
            js::ERROR => {
                self.out.byte(b'r');
                self.compound(Body::Error)
            }
            "$serde_json::private::RawValue" => self.compound(Body::RawJson),
            _ => {
                self.out.byte(b'o');
                self.compound(Body::Object)
            }
        }
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'e, 'o>, EncodeError> {
        self.variant(variant)?;
        self.out.byte(b'o');
        Ok(Compound {
            variant: true,
            ..self.compound(Body::Object)?
        })
    }
}

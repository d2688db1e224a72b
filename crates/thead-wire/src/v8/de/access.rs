//! The parts of values, as serde asks for them.

use std::borrow::Cow;
use std::slice::ChunksExact;

use serde::de::value::{BorrowedStrDeserializer, UnitDeserializer};
use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::super::{json::half, kind::ViewKind, place::Step};
use super::cursor::{Frame, Name, Next, Part};
use super::{DecodeError, Decoder, Want, exact};

impl Name<'_> {
    fn step(self) -> Step {
        match self {
            Name::Index(index) => Step::Index(index as usize),
            Name::Text(text) => Step::name(&text.to_string_lossy()),
            Name::Field(name) => Step::name(name),
        }
    }
}

/// The members of an array or a `Set`.
pub(super) struct Members<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    frame: Frame,
    at: usize,
    /// Of an array with holes: where its next element belongs.
    ahead: Option<usize>,
    ended: bool,
}

impl<'a, 'de> Members<'a, 'de> {
    pub(super) fn new(decoder: &'a mut Decoder<'de>, part: Part) -> Members<'a, 'de> {
        Members {
            decoder,
            frame: Frame::new(part),
            at: 0,
            ahead: None,
            ended: false,
        }
    }

    /// Goes to the next member: whether there is one, and whether it is more than a hole.
    fn next(&mut self) -> Result<Option<bool>, DecodeError> {
        let cursor = &mut self.decoder.cursor;
        loop {
            if let Some(ahead) = self.ahead {
                if self.at < ahead {
                    cursor.charge(0)?;
                    return Ok(Some(false));
                }
                self.ahead = None;
                return Ok((!self.ended).then_some(true));
            }
            if self.ended {
                return Ok(None);
            }
            match self.frame.next(cursor)? {
                Next::Value => return Ok(Some(true)),
                Next::Hole => return Ok(Some(false)),
                Next::Property(Name::Index(index)) if matches!(self.frame.part(), Part::Sparse { length } if index < length) =>
                {
                    let index = index as usize;
                    if index < self.at {
                        return Err(de::Error::custom("the elements of an array are not in order"));
                    }
                    self.ahead = Some(index);
                }
                // What else was put on the array.
                Next::Property(_) => cursor.skip()?,
                Next::End => {
                    self.ended = true;
                    if let Part::Sparse { length } = self.frame.part() {
                        self.ahead = Some(length as usize);
                    }
                }
            }
        }
    }

    /// Checks that a type has taken all members.
    pub(super) fn end(mut self) -> Result<(), DecodeError> {
        let taken = self.at;
        match self.next()? {
            None => Ok(()),
            Some(_) => Err(de::Error::custom(format_args!("more than {taken} elements"))),
        }
    }
}

impl<'de> SeqAccess<'de> for &mut Members<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(is_value) = self.next()? else {
            return Ok(None);
        };
        let at = self.at;
        self.at += 1;
        let read = if is_value {
            seed.deserialize(&mut *self.decoder)
        } else {
            seed.deserialize(UnitDeserializer::new())
        };
        read.map(Some).map_err(|error| error.within(Step::Index(at)))
    }

    fn size_hint(&self) -> Option<usize> {
        match self.frame.part() {
            Part::Dense { length } => (length as usize).checked_sub(self.at),
            _ => None,
        }
    }
}

/// The properties of an object or an error, the entries of a `Map`.
pub(super) struct Entries<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    frame: Frame,
    skip_undefined: bool,
    /// How many entries of a `Map` have come.
    at: usize,
    /// Whose value comes next, if it is a property's.
    name: Option<Name<'de>>,
    /// The name of an error's class, which comes last: it may stand anywhere.
    class: Option<&'static str>,
    ended: bool,
}

impl<'a, 'de> Entries<'a, 'de> {
    pub(super) fn new(decoder: &'a mut Decoder<'de>, part: Part, skip_undefined: bool) -> Entries<'a, 'de> {
        Entries {
            decoder,
            frame: Frame::new(part),
            skip_undefined,
            at: 0,
            name: None,
            class: None,
            ended: false,
        }
    }

    /// Goes over what a type has not asked for.
    pub(super) fn end(mut self) -> Result<(), DecodeError> {
        while !self.ended {
            match self.frame.next(&mut self.decoder.cursor)? {
                Next::End => self.ended = true,
                _ => self.decoder.cursor.skip()?,
            }
        }
        Ok(())
    }
}

impl<'de> MapAccess<'de> for &mut Entries<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            match self.frame.next(&mut self.decoder.cursor)? {
                Next::Property(_) if self.skip_undefined && self.decoder.cursor.peek() == Some(b'_') => {
                    self.decoder.cursor.skip()?;
                }
                Next::Property(name) => {
                    self.name = Some(name);
                    let lossy = self.decoder.lossy;
                    return seed.deserialize(Key { name, lossy }).map(Some);
                }
                Next::End => {
                    self.ended = true;
                    let Part::Error(kind) = self.frame.part() else {
                        return Ok(None);
                    };
                    self.class = Some(kind.name());
                    return seed.deserialize(BorrowedStrDeserializer::new("name")).map(Some);
                }
                Next::Value | Next::Hole => {
                    let at = self.at;
                    let key = seed.deserialize(&mut *self.decoder);
                    return key.map(Some).map_err(|error| error.within(Step::Index(at)));
                }
            }
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        if let Some(class) = self.class.take() {
            return seed.deserialize(BorrowedStrDeserializer::new(class));
        }
        let at = self.at;
        self.at += 1;
        let step = match self.name.take() {
            Some(name) => name,
            None => {
                self.frame.next(&mut self.decoder.cursor)?;
                Name::Index(u32::try_from(at).unwrap_or(u32::MAX))
            }
        };
        seed.deserialize(&mut *self.decoder)
            .map_err(|error| error.within(step.step()))
    }
}

/// The name of a property, of which a type may make a number: names are all that an object has for keys.
struct Key<'de> {
    name: Name<'de>,
    lossy: bool,
}

impl<'de> Key<'de> {
    fn text(&self) -> Result<Cow<'de, str>, DecodeError> {
        match self.name {
            Name::Index(index) => Ok(index.to_string().into()),
            Name::Field(name) => Ok(name.into()),
            Name::Text(text) => match text.as_str() {
                Some(text) => Ok(text),
                None if self.lossy => Ok(text.to_string_lossy()),
                None => Err(super::DecodeErrorKind::LoneSurrogate.into()),
            },
        }
    }
}

macro_rules! parsed {
    ($($method:ident: $visit:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.text()?.parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.text()? {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    parsed! {
        deserialize_bool: visit_bool,
        deserialize_i8: visit_i8, deserialize_i16: visit_i16, deserialize_i32: visit_i32, deserialize_i64: visit_i64,
        deserialize_i128: visit_i128, deserialize_u8: visit_u8, deserialize_u16: visit_u16, deserialize_u32: visit_u32,
        deserialize_u64: visit_u64, deserialize_u128: visit_u128, deserialize_f32: visit_f32, deserialize_f64: visit_f64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_enum(self.text()?.into_deserializer())
    }

    serde::forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant that holds something: an object with one property.
pub(super) struct Variant<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    name: Name<'de>,
}

impl<'a, 'de> Variant<'a, 'de> {
    pub(super) fn read<V: Visitor<'de>>(
        decoder: &'a mut Decoder<'de>,
        part: Part,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let one = || de::Error::invalid_type(Unexpected::Map, &"an object with one property, the variant");
        let mut frame = Frame::new(part);
        let Next::Property(name) = frame.next(&mut decoder.cursor)? else {
            return Err(one());
        };
        let value = visitor.visit_enum(Variant { decoder, name })?;
        match frame.next(&mut decoder.cursor)? {
            Next::End => Ok(value),
            _ => Err(one()),
        }
    }

    fn read_as<V: Visitor<'de>>(self, want: Want, visitor: V) -> Result<V::Value, DecodeError> {
        self.decoder
            .value(want, visitor)
            .map_err(|error| error.within(self.name.step()))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let key = Key {
            name: self.name,
            lossy: self.decoder.lossy,
        };
        Ok((seed.deserialize(key)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        <()>::deserialize(self.decoder)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.decoder)
            .map_err(|error| error.within(self.name.step()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.read_as(Want::Sequence, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        self.read_as(Want::Struct, visitor)
    }
}

/// The elements of a typed array: little-endian, wherever they stand.
pub(super) struct Elements<'de> {
    kind: ViewKind,
    chunks: ChunksExact<'de, u8>,
}

impl<'de> Elements<'de> {
    pub(super) fn new(kind: ViewKind, bytes: &'de [u8]) -> Elements<'de> {
        Elements {
            kind,
            chunks: bytes.chunks_exact(kind.element_size()),
        }
    }
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(bytes) = self.chunks.next() else {
            return Ok(None);
        };
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self.kind {
            ViewKind::Int8Array => seed.deserialize(i64::from(bits as i8).into_deserializer()),
            ViewKind::Int16Array => seed.deserialize(i64::from(bits as i16).into_deserializer()),
            ViewKind::Int32Array => seed.deserialize(i64::from(bits as i32).into_deserializer()),
            ViewKind::BigInt64Array => seed.deserialize((bits as i64).into_deserializer()),
            ViewKind::Float16Array => float(half(bits as u16), seed),
            ViewKind::Float32Array => float(f32::from_bits(bits as u32).into(), seed),
            ViewKind::Float64Array => float(f64::from_bits(bits), seed),
            _ => seed.deserialize(bits.into_deserializer()),
        }
        .map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.chunks.len())
    }
}

/// As any other number is read: a whole one as an integer.
fn float<'de, T: DeserializeSeed<'de>>(double: f64, seed: T) -> Result<T::Value, DecodeError> {
    match exact(double) {
        Some(int) => seed.deserialize(int.into_deserializer()),
        None => seed.deserialize(double.into_deserializer()),
    }
}

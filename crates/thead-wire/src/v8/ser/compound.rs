//! What is written part by part: sequences, maps, structs.

use serde::ser::{self, Serialize, SerializeMap, SerializeStruct};

use super::super::{
    input::Input,
    kind::{ErrorKind, ViewKind},
    place::Step,
    value::{Slot, string},
};
use super::{EncodeError, EncodeErrorKind, Encoder};

/// Something with parts that is being written.
pub(super) struct Compound<'e, 'o> {
    pub(super) encoder: &'e mut Encoder<'o>,
    pub(super) body: Body,
    pub(super) count: usize,
    /// Whether the object around a variant has to be closed too.
    pub(super) variant: bool,
}

pub(super) enum Body {
    Array {
        said: usize,
    },
    /// An array whose length will stand at that place.
    Uncounted {
        at: usize,
    },
    Elements {
        kind: ViewKind,
        said: usize,
    },
    Set,
    Object,
    /// A map, by its first key an object or a `Map`: where its tag is. Without a length it may repeat names, as with
    /// flattened fields; then the names are remembered.
    Keys {
        tag: usize,
        is_object: Option<bool>,
        names: Option<Vec<(usize, usize)>>,
        last: usize,
    },
    Error,
    /// Text that is JSON already.
    RawJson,
}

impl Compound<'_, '_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let kind = match self.body {
            Body::Elements { kind, .. } => Some(kind),
            _ => None,
        };
        self.encoder.element = kind;
        let index = self.count;
        self.count += 1;
        let written = value.serialize(&mut *self.encoder);
        self.encoder.element = None;
        written.map_err(|error| error.within(Step::Index(index)))
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        match &self.body {
            Body::Error => match name {
                "message" => self.encoder.out.byte(b'm'),
                "stack" => self.encoder.out.byte(b's'),
                "cause" => self.encoder.out.byte(b'c'),
                _ => {
                    let name = serde_json::to_value(value).map_err(refused)?;
                    let kind = name.as_str().map_or(ErrorKind::Error, ErrorKind::from_name);
                    if let Some(tag) = kind.tag() {
                        self.encoder.out.byte(tag);
                    }
                    return Ok(());
                }
            },
            Body::RawJson => {
                let text = serde_json::to_value(value).map_err(refused)?;
                let json: serde_json::Value =
                    serde_json::from_str(text.as_str().unwrap_or_default()).map_err(refused)?;
                return json.serialize(&mut *self.encoder);
            }
            _ => {
                self.encoder.property(name)?;
                self.count += 1;
            }
        }
        value
            .serialize(&mut *self.encoder)
            .map_err(|error| error.within(Step::name(name)))
    }

    fn close(self) -> Result<(), EncodeError> {
        let Compound {
            encoder,
            body,
            count,
            variant,
        } = self;
        let out = &mut encoder.out;
        out.room(count)?;
        match body {
            Body::Array { said } | Body::Elements { said, .. } if said != count => {
                return Err(EncodeErrorKind::Length { said, found: count }.into());
            }
            Body::Array { .. } => {
                out.tagged(b'$', 0);
                out.varint(count as u32);
            }
            Body::Uncounted { at } => {
                for (shift, byte) in (0..).step_by(7).zip(&mut out.out[at..at + 5]) {
                    *byte |= (count >> shift) as u8 & 0x7f;
                }
                out.tagged(b'$', 0);
                out.varint(count as u32);
            }
            Body::Elements { .. } | Body::RawJson => {}
            Body::Set => out.tagged(b',', count as u32),
            Body::Object => out.tagged(b'{', count as u32),
            Body::Keys { is_object, names, .. } => {
                if is_object == Some(false) {
                    out.tagged(b':', 2 * count as u32);
                } else {
                    if let Some(name) = names.and_then(|names| twice(out.out, names)) {
                        return Err(EncodeErrorKind::KeyTwice(name).into());
                    }
                    out.tagged(b'{', count as u32);
                }
            }
            Body::Error => out.byte(b'.'),
        }
        encoder.open -= 1;
        if variant {
            encoder.close_variant();
        }
        Ok(())
    }
}

fn refused(error: serde_json::Error) -> EncodeError {
    EncodeErrorKind::Refused(error.to_string()).into()
}

/// The name that stands at two of these places.
fn twice(bytes: &[u8], mut names: Vec<(usize, usize)>) -> Option<String> {
    let name = |(start, end): (usize, usize)| &bytes[start..end];
    names.sort_unstable_by_key(|at| name(*at));
    let twice = names.windows(2).find(|pair| name(pair[0]) == name(pair[1]))?;
    Some(key_name(name(twice[0])).unwrap_or_default())
}

/// The text of a written key, if it is a string or an index.
fn key_name(bytes: &[u8]) -> Option<String> {
    match Input::new(bytes).key().ok()? {
        Slot::Index(index) => Some(index.to_string()),
        name => Some(string(bytes, name)?.to_string_lossy().into_owned()),
    }
}

impl SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        let from = self.encoder.out.out.len();
        key.serialize(&mut *self.encoder)
            .map_err(|error| error.within(Step::Index(self.count)))?;
        self.count += 1;
        let Body::Keys {
            tag,
            is_object,
            names,
            last,
        } = &mut self.body
        else {
            return Ok(());
        };
        let out = &mut self.encoder.out;
        let padding = usize::from(out.out.get(from) == Some(&0));
        *last = from + padding;
        let is_text = matches!(out.out.get(*last), Some(b'"' | b'c'));
        match is_object {
            None if is_text => *is_object = Some(true),
            None => {
                *is_object = Some(false);
                out.out[*tag] = b';';
            }
            Some(true) if !is_text => return Err(EncodeErrorKind::Keys.into()),
            _ => {}
        }
        if *is_object == Some(true) {
            let key = &out.out[*last..];
            // Behind tag and length; the name of an index is short.
            if let Some(b'0'..=b'9') = key.get(2)
                && let Ok(Slot::Index(index)) = Input::new(key).key()
            {
                out.out.truncate(from);
                out.index(index);
            }
            if let Some(names) = names {
                names.push((*last, out.out.len()));
            }
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let end = self.encoder.out.out.len();
        value.serialize(&mut *self.encoder).map_err(|error| {
            let Body::Keys { last, .. } = self.body else {
                return error;
            };
            let key = self.encoder.out.out.get(last..end).and_then(key_name);
            error.within(key.map_or(Step::Index(self.count - 1), |name| Step::name(&name)))
        })
    }

    fn end(self) -> Result<(), EncodeError> {
        self.close()
    }
}

impl SerializeStruct for Compound<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), EncodeError> {
        self.close()
    }
}

impl ser::SerializeStructVariant for Compound<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), EncodeError> {
        self.close()
    }
}

macro_rules! sequences {
    ($($part:ident::$method:ident),*) => {
        $(impl ser::$part for Compound<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.item(value)
            }

            fn end(self) -> Result<(), EncodeError> {
                self.close()
            }
        })*
    };
}

sequences!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

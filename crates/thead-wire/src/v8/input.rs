//! The scalars of V8's format.

use std::{ops::Range, str};

use super::{
    build::number,
    error::ReadErrorKind as Fault,
    kind::ViewKind,
    read::is_javascript_core,
    text::Form,
    value::{Slot, string},
};

/// A payload, and how far it is read.
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) version: u32,
    pub(super) at: usize,
    /// Where the value began that is being read.
    pub(super) mark: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input {
            bytes,
            version: 0,
            at: 0,
            mark: 0,
        }
    }

    /// What every payload begins with.
    pub(super) fn header(&mut self) -> Result<(), Fault> {
        if self.bytes.first() != Some(&0xff) {
            return Err(if is_javascript_core(self.bytes) {
                Fault::JavaScriptCore
            } else {
                Fault::NoHeader
            });
        }
        self.at = 1;
        self.version = self.varint()?;
        if (13..=16).contains(&self.version) {
            Ok(())
        } else {
            Err(Fault::Version(self.version))
        }
    }

    /// The tag of the next value, behind any padding.
    pub(super) fn tag(&mut self) -> Result<u8, Fault> {
        self.skip_padding();
        self.mark = self.at;
        self.byte()
    }

    /// Whether the next tag is that one, which is then consumed.
    pub(super) fn ends(&mut self, tag: u8) -> Result<bool, Fault> {
        self.skip_padding();
        let Some(&next) = self.bytes.get(self.at) else {
            return Err(Fault::Truncated { missing: 1 });
        };
        if next == tag {
            self.mark = self.at;
            self.at += 1;
        }
        Ok(next == tag)
    }

    fn skip_padding(&mut self) {
        while self.bytes.get(self.at) == Some(&0) {
            self.at += 1;
        }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let Some(&byte) = self.bytes.get(self.at) else {
            return Err(Fault::Truncated { missing: 1 });
        };
        self.at += 1;
        Ok(byte)
    }

    /// Whether so many bytes are left.
    pub(super) fn available(&self, len: u64) -> Result<(), Fault> {
        let left = (self.bytes.len() - self.at) as u64;
        match len.checked_sub(left) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(Fault::Truncated {
                missing: usize::try_from(missing).unwrap_or(usize::MAX),
            }),
        }
    }

    pub(super) fn take(&mut self, len: u64) -> Result<Range<usize>, Fault> {
        self.available(len)?;
        let start = self.at;
        self.at += len as usize;
        Ok(start..self.at)
    }

    pub(super) fn double(&mut self) -> Result<f64, Fault> {
        let range = self.take(8)?;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[range]);
        Ok(f64::from_le_bytes(bytes))
    }

    pub(super) fn zigzag(&mut self) -> Result<i32, Fault> {
        let bits = self.varint()?;
        Ok((bits >> 1) as i32 ^ -((bits & 1) as i32))
    }

    /// The size of an array buffer: version 16 has them beyond 4 GB.
    pub(super) fn size(&mut self) -> Result<u64, Fault> {
        self.varint_of(if self.version >= 16 { 64 } else { 32 })
    }

    pub(super) fn varint(&mut self) -> Result<u32, Fault> {
        // Most are one byte.
        if let Some(&byte @ ..0x80) = self.bytes.get(self.at) {
            self.at += 1;
            return Ok(byte.into());
        }
        Ok(self.varint_of(32)? as u32)
    }

    /// Seven bits per byte, low ones first; more bytes than needed are allowed, as in V8.
    fn varint_of(&mut self, bits: u32) -> Result<u64, Fault> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let group = u64::from(byte & 0x7f);
            if group != 0 && (shift >= bits || group >> (bits - shift).min(7) != 0) {
                break;
            }
            value |= group.checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::TooLong { bits })
    }

    /// A string with its tag.
    pub(super) fn string(&mut self) -> Result<Slot, Fault> {
        let tag = self.tag()?;
        self.string_of(tag)
    }

    pub(super) fn string_of(&mut self, tag: u8) -> Result<Slot, Fault> {
        let form = match tag {
            b'"' => Form::Latin1,
            b'c' => Form::Utf16,
            b'S' => Form::Utf8,
            found => return Err(Fault::NotAString { found }),
        };
        let len = self.varint()?;
        if form == Form::Utf16 && len % 2 != 0 {
            return Err(Fault::OddString);
        }
        let range = self.take(len.into())?;
        let start = range.start;
        match form {
            Form::Utf8 if str::from_utf8(&self.bytes[range]).is_err() => Err(Fault::Utf8),
            form => Ok(Slot::Text { form, len, start }),
        }
    }

    /// A big integer without its tag.
    pub(super) fn big_int(&mut self) -> Result<Slot, Fault> {
        let bits = self.varint()?;
        let range = self.take((bits >> 1).into())?;
        Ok(Slot::BigInt {
            negative: bits & 1 != 0,
            len: bits >> 1,
            start: range.start,
        })
    }

    /// The name of a property; one that is an array index becomes [`Slot::Index`].
    pub(super) fn key(&mut self) -> Result<Slot, Fault> {
        let tag = self.tag()?;
        match tag {
            b'"' | b'c' | b'S' => {
                let name = self.string_of(tag)?;
                // Most names begin with a letter.
                if let Slot::Text {
                    form: Form::Latin1,
                    start,
                    ..
                } = name
                    && !self.bytes.get(start).is_some_and(u8::is_ascii_digit)
                {
                    return Ok(name);
                }
                Ok(string(self.bytes, name)
                    .and_then(|name| name.array_index())
                    .map_or(name, Slot::Index))
            }
            b'I' => u32::try_from(self.zigzag()?).map(Slot::Index).map_err(|_| Fault::Key),
            b'U' | b'N' => {
                let number = if tag == b'U' {
                    self.varint()?.into()
                } else {
                    self.double()?
                };
                let index = number as u32;
                (f64::from(index) == number && index < u32::MAX)
                    .then_some(Slot::Index(index))
                    .ok_or(Fault::Key)
            }
            _ => Err(Fault::Key),
        }
    }

    /// A whole number of 32 bits without its tag.
    pub(super) fn unsigned(&mut self) -> Result<Slot, Fault> {
        Ok(number(self.varint()?.into()))
    }

    /// Reads a count that the sender made, and compares.
    pub(super) fn count(&mut self, found: usize) -> Result<u32, Fault> {
        let said = self.varint()?;
        if said as usize == found {
            Ok(said)
        } else {
            Err(Fault::Count { said, found })
        }
    }

    /// An array buffer without its tag: where its contents are, and how long it may become if it is resizable.
    pub(super) fn array_buffer(&mut self, resizable: bool) -> Result<(Range<usize>, Option<u64>), Fault> {
        let len = self.size()?;
        let max = if resizable { Some(self.size()?) } else { None };
        match max {
            Some(max) if max < len => Err(Fault::BufferMax { len, max }),
            max => Ok((self.take(len)?, max)),
        }
    }

    /// A view as Node's channel writes it, without its tag and kind of host object.
    pub(super) fn host_view(&mut self) -> Result<(ViewKind, Range<usize>), Fault> {
        let index = self.varint()?;
        let kind = *ViewKind::ALL.get(index as usize).ok_or(Fault::ViewType(index))?;
        let len = self.varint()?;
        let mut range = self.take(len.into())?;
        // Node takes what makes whole elements.
        range.end -= range.len() % kind.element_size();
        Ok((kind, range))
    }

    /// A view as V8 itself writes it, behind an array buffer of that length: which part of the buffer it shows. `None` if
    /// something else follows.
    pub(super) fn view_on(&mut self, buffer: usize) -> Result<Option<(ViewKind, Range<usize>)>, Fault> {
        if self.at >= self.bytes.len() || !self.ends(b'V')? {
            return Ok(None);
        }
        let tag = self.varint()?;
        let kind = match u8::try_from(tag).map_err(|_| Fault::ViewType(tag))? {
            b'b' => ViewKind::Int8Array,
            b'B' => ViewKind::Uint8Array,
            b'C' => ViewKind::Uint8ClampedArray,
            b'w' => ViewKind::Int16Array,
            b'W' => ViewKind::Uint16Array,
            b'd' => ViewKind::Int32Array,
            b'D' => ViewKind::Uint32Array,
            b'h' => ViewKind::Float16Array,
            b'f' => ViewKind::Float32Array,
            b'F' => ViewKind::Float64Array,
            b'q' => ViewKind::BigInt64Array,
            b'Q' => ViewKind::BigUint64Array,
            b'?' => ViewKind::DataView,
            _ => return Err(Fault::ViewType(tag)),
        };
        let (offset, len) = (self.size()?, self.size()?);
        let tracks_length = self.version >= 14 && self.varint()? & 1 != 0;
        let size = kind.element_size();
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| *start <= buffer)
            .ok_or(Fault::ViewRange)?;
        let len = if tracks_length {
            (buffer - start) / size * size
        } else {
            usize::try_from(len)
                .ok()
                .filter(|len| *len <= buffer - start)
                .ok_or(Fault::ViewRange)?
        };
        if start % size != 0 || len % size != 0 {
            return Err(Fault::ViewRange);
        }
        Ok(Some((kind, start..start + len)))
    }
}

//! The scalars of V8's format.

use std::{ops::Range, str};

use super::{error::ReadErrorKind as Fault, text::Form, value::Slot};

/// A payload, and how far it is read.
pub(super) struct Input<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) version: u32,
    pub(super) at: usize,
    /// Where the value began that is being read.
    pub(super) mark: usize,
}

impl Input<'_> {
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
}

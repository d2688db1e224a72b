//! The scalars of V8's format, written.

use bytes::{BufMut, BytesMut};

use super::{kind::ViewKind, text::BigInt, write::WriteError};

/// A payload that is being appended to a buffer.
pub(super) struct Output<'a> {
    pub(super) out: &'a mut BytesMut,
    /// Where the payload begins in `out`.
    pub(super) start: usize,
}

impl<'a> Output<'a> {
    /// Begins a payload of version 15.
    pub(super) fn begin(out: &'a mut BytesMut) -> Output<'a> {
        let start = out.len();
        out.put_slice(b"\xff\x0f");
        Output { out, start }
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.out.put_u8(byte);
    }

    pub(super) fn int(&mut self, int: i32) {
        self.tagged(b'I', (int << 1 ^ int >> 31) as u32);
    }

    pub(super) fn tagged_double(&mut self, tag: u8, double: f64) {
        self.out.put_u8(tag);
        self.out.put_f64_le(double);
    }

    /// A property name that is an array index, or such a number.
    pub(super) fn index(&mut self, index: u32) {
        match i32::try_from(index) {
            Ok(int) => self.int(int),
            Err(_) => self.tagged_double(b'N', index.into()),
        }
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), WriteError> {
        let bytes = text.as_bytes();
        if bytes.is_ascii() {
            return self.one_byte(bytes);
        }
        // Up to U+00FF, UTF-8 has no other lead byte than these.
        if bytes.iter().all(|byte| *byte < 0xc4) {
            let len = text.chars().count();
            self.room(len)?;
            self.tagged(b'"', len as u32);
            self.out.extend(text.chars().map(|char| char as u8));
            return Ok(());
        }
        self.two_byte(2 * text.encode_utf16().count())?;
        text.encode_utf16().for_each(|unit| self.out.put_u16_le(unit));
        Ok(())
    }

    pub(super) fn one_byte(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.room(bytes.len())?;
        self.tagged(b'"', bytes.len() as u32);
        self.out.put_slice(bytes);
        Ok(())
    }

    /// The head of a two-byte string, so that its units stand at an even place.
    pub(super) fn two_byte(&mut self, len: usize) -> Result<(), WriteError> {
        self.room(len)?;
        let head = 1 + varint_len(len as u32);
        if !(self.out.len() - self.start + head).is_multiple_of(2) {
            self.out.put_u8(0);
        }
        self.tagged(b'c', len as u32);
        Ok(())
    }

    /// A big integer without its tag: whole digits of 64 bits.
    pub(super) fn big_int(&mut self, int: BigInt<'_>) -> Result<(), WriteError> {
        let magnitude = int.magnitude_le();
        let len = magnitude.len().next_multiple_of(8);
        self.room(len)?;
        // The length has 30 bits.
        let len = u32::try_from(len)
            .ok()
            .filter(|len| len >> 30 == 0)
            .ok_or(WriteError::TooLarge)?;
        self.varint(len << 1 | u32::from(int.is_negative()));
        self.out.put_slice(magnitude);
        self.out.put_bytes(0, len as usize - magnitude.len());
        Ok(())
    }

    /// The contents of a buffer, behind its tag; `max` is how long it may become.
    pub(super) fn blob(&mut self, bytes: &[u8], max: Option<u32>) -> Result<(), WriteError> {
        self.room(bytes.len())?;
        self.varint(bytes.len() as u32);
        if let Some(max) = max {
            self.varint(max);
        }
        self.out.put_slice(bytes);
        Ok(())
    }

    /// What precedes the contents of a view.
    pub(super) fn view(&mut self, kind: ViewKind) {
        self.out.put_slice(&[b'\\', 0, kind as u8]);
    }

    /// Whether the payload may grow so much.
    pub(super) fn room(&self, len: usize) -> Result<(), WriteError> {
        let len = (self.out.len() - self.start).saturating_add(len);
        u32::try_from(len).map(drop).map_err(|_| WriteError::TooLarge)
    }

    pub(super) fn tagged(&mut self, tag: u8, number: u32) {
        // Most numbers are one byte.
        if number < 0x80 {
            return self.out.put_slice(&[tag, number as u8]);
        }
        self.out.put_u8(tag);
        self.varint(number);
    }

    pub(super) fn varint(&mut self, mut number: u32) {
        while number >= 0x80 {
            self.out.put_u8(number as u8 | 0x80);
            number >>= 7;
        }
        self.out.put_u8(number as u8);
    }
}

fn varint_len(number: u32) -> usize {
    (number.max(1).ilog2() / 7 + 1) as usize
}

//! Documents to bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    Limits,
    kind::ErrorKind,
    text::Repr,
    value::{Document, Node, Slot},
    walk::Step,
};

/// Writes the payload of a frame: version 15, as Node 22 and later would. The depth is limited as by default.
///
/// # Errors
///
/// See [`write_into`].
pub fn write(document: &Document) -> Result<Bytes, WriteError> {
    // What was read is about as long again; what was built has its strings and a few bytes for each value.
    let mut out = BytesMut::with_capacity(document.text.len() + 4 * document.slots.len() + 16);
    write_into(document, &Limits::default(), &mut out)?;
    Ok(out.freeze())
}

/// Appends the payload of a frame to a buffer, for instance behind the four bytes that its length is to be written to.
///
/// Two-byte strings are aligned as in Node, where the position counts from the start of the payload, or of the frame,
/// which makes no difference.
///
/// # Errors
///
/// If the document is nested deeper than `limits` allow, or needs more than the 4 GiB that a frame can hold. The buffer
/// is then as before.
pub fn write_into(document: &Document, limits: &Limits, out: &mut BytesMut) -> Result<(), WriteError> {
    let start = out.len();
    let mut writer = Writer { document, out, start };
    let written = writer.document(limits.depth);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Why a document cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A peer may refuse what is nested so deep, or run out of stack.
    #[error("objects are nested deeper than {limit}")]
    TooDeep {
        /// What [`Limits::depth`] allows.
        limit: usize,
    },
    /// The length of a frame has 32 bits.
    #[error("more than the 4 GiB that a frame can hold")]
    TooLarge,
}

struct Writer<'a> {
    document: &'a Document,
    out: &'a mut BytesMut,
    /// Where the payload begins in `out`.
    start: usize,
}

impl Writer<'_> {
    fn document(&mut self, depth: usize) -> Result<(), WriteError> {
        self.out.put_slice(b"\xff\x0f");
        let mut walk = self.document.walk();
        while let Some(step) = walk.next() {
            match step {
                Step::Leaf(slot) => self.primitive(slot)?,
                Step::Again(id) => {
                    self.out.put_u8(b'^');
                    self.varint(id);
                }
                Step::Enter(node) => {
                    if walk.depth() > depth && has_children(node) {
                        return Err(WriteError::TooDeep { limit: depth });
                    }
                    self.enter(node)?;
                }
                Step::Leave(node) => self.leave(node),
            }
        }
        self.room(0)
    }

    fn enter(&mut self, node: Node) -> Result<(), WriteError> {
        match node {
            Node::Object { .. } => self.out.put_u8(b'o'),
            Node::Array { elements, .. } => self.tagged(b'A', elements),
            Node::SparseArray { length, .. } => self.tagged(b'a', length),
            Node::Map { .. } => self.out.put_u8(b';'),
            Node::Set { .. } => self.out.put_u8(b'\''),
            Node::Error { start, kind } => {
                self.out.put_u8(b'r');
                match kind {
                    ErrorKind::Error => {}
                    ErrorKind::EvalError => self.out.put_u8(b'E'),
                    ErrorKind::RangeError => self.out.put_u8(b'R'),
                    ErrorKind::ReferenceError => self.out.put_u8(b'F'),
                    ErrorKind::SyntaxError => self.out.put_u8(b'S'),
                    ErrorKind::TypeError => self.out.put_u8(b'T'),
                    ErrorKind::UriError => self.out.put_u8(b'U'),
                }
                for (at, tag) in (start..).zip(*b"msc") {
                    let field = self.document.slots[at];
                    if !matches!(field, Slot::Hole) {
                        self.out.put_u8(tag);
                        // The cause is the next step of the walk.
                        if tag != b'c' {
                            self.primitive(field)?;
                        }
                    }
                }
            }
            Node::Host { .. } => self.out.put_slice(b"\\\x01"),
            Node::Date(ms) => {
                self.out.put_u8(b'D');
                self.out.put_f64_le(ms);
            }
            Node::Boxed(slot) => match slot {
                Slot::Bool(true) => self.out.put_u8(b'y'),
                Slot::Bool(false) => self.out.put_u8(b'x'),
                Slot::Double(double) => {
                    self.out.put_u8(b'n');
                    self.out.put_f64_le(double);
                }
                Slot::BigInt { .. } => {
                    self.out.put_u8(b'z');
                    self.big_int(slot)?;
                }
                text => {
                    self.out.put_u8(b's');
                    self.primitive(text)?;
                }
            },
            Node::RegExp { pattern, flags } => {
                self.out.put_u8(b'R');
                self.primitive(pattern)?;
                self.varint(flags.bits().into());
            }
            Node::ArrayBuffer { blob } => {
                self.out.put_u8(b'B');
                self.blob(blob, None)?;
            }
            Node::ResizableBuffer { blob, max } => {
                self.out.put_u8(b'~');
                let max = u32::try_from(max).map_err(|_| WriteError::TooLarge)?;
                self.blob(blob, Some(max))?;
            }
            Node::View { kind, blob } => {
                self.out.put_slice(&[b'\\', 0, kind as u8]);
                self.blob(blob, None)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self, node: Node) {
        match node {
            Node::Object { properties, .. } => self.tagged(b'{', properties),
            Node::Array {
                elements, properties, ..
            } => {
                self.tagged(b'$', properties);
                self.varint(elements);
            }
            Node::SparseArray { length, properties, .. } => {
                self.tagged(b'@', properties);
                self.varint(length);
            }
            Node::Map { entries, .. } => self.tagged(b':', 2 * entries),
            Node::Set { values, .. } => self.tagged(b',', values),
            Node::Error { .. } => self.out.put_u8(b'.'),
            _ => {}
        }
    }

    fn primitive(&mut self, slot: Slot) -> Result<(), WriteError> {
        match slot {
            Slot::Undefined | Slot::Hole => self.out.put_u8(b'_'),
            Slot::Null => self.out.put_u8(b'0'),
            Slot::Bool(true) => self.out.put_u8(b'T'),
            Slot::Bool(false) => self.out.put_u8(b'F'),
            Slot::Int(int) => self.int(int),
            Slot::Double(double) => self.double(double),
            Slot::Index(index) => match i32::try_from(index) {
                Ok(int) => self.int(int),
                Err(_) => self.double(index.into()),
            },
            Slot::BigInt { .. } => {
                self.out.put_u8(b'Z');
                self.big_int(slot)?;
            }
            Slot::Text { .. } => self.text(slot)?,
            // The walk takes nodes apart before they come here.
            Slot::Node(_) => {}
        }
        Ok(())
    }

    fn int(&mut self, int: i32) {
        self.tagged(b'I', (int << 1 ^ int >> 31) as u32);
    }

    fn double(&mut self, double: f64) {
        self.out.put_u8(b'N');
        self.out.put_f64_le(double);
    }

    fn text(&mut self, slot: Slot) -> Result<(), WriteError> {
        let Some(text) = self.document.string(slot) else {
            return Ok(());
        };
        match text.0 {
            Repr::Latin1(bytes) => self.one_byte(bytes),
            Repr::Utf16(bytes) => {
                self.two_byte(bytes.len())?;
                self.out.put_slice(bytes);
                Ok(())
            }
            Repr::Utf8(utf8) => {
                let latin1: Option<Vec<u8>> = utf8.chars().map(|char| u8::try_from(char).ok()).collect();
                if let Some(latin1) = latin1 {
                    return self.one_byte(&latin1);
                }
                self.two_byte(2 * text.units().count())?;
                text.units().for_each(|unit| self.out.put_u16_le(unit));
                Ok(())
            }
        }
    }

    fn one_byte(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.room(bytes.len())?;
        self.tagged(b'"', bytes.len() as u32);
        self.out.put_slice(bytes);
        Ok(())
    }

    /// The head of a two-byte string, so that its units stand at an even place.
    fn two_byte(&mut self, len: usize) -> Result<(), WriteError> {
        self.room(len)?;
        let head = 1 + varint_len(len as u32);
        if !(self.out.len() - self.start + head).is_multiple_of(2) {
            self.out.put_u8(0);
        }
        self.tagged(b'c', len as u32);
        Ok(())
    }

    /// A big integer without its tag: whole digits of 64 bits.
    fn big_int(&mut self, slot: Slot) -> Result<(), WriteError> {
        let Some(int) = self.document.big_int(slot) else {
            return Ok(());
        };
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

    fn blob(&mut self, blob: usize, max: Option<u32>) -> Result<(), WriteError> {
        let bytes = &self.document.blobs[blob];
        self.room(bytes.len())?;
        self.varint(bytes.len() as u32);
        if let Some(max) = max {
            self.varint(max);
        }
        self.out.put_slice(bytes);
        Ok(())
    }

    /// Whether the payload may grow so much.
    fn room(&self, len: usize) -> Result<(), WriteError> {
        let len = (self.out.len() - self.start).saturating_add(len);
        u32::try_from(len).map(drop).map_err(|_| WriteError::TooLarge)
    }

    fn tagged(&mut self, tag: u8, number: u32) {
        // Most numbers are one byte.
        if number < 0x80 {
            return self.out.put_slice(&[tag, number as u8]);
        }
        self.out.put_u8(tag);
        self.varint(number);
    }

    fn varint(&mut self, mut number: u32) {
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

/// Whether reading it nests: the reader counts these alone.
fn has_children(node: Node) -> bool {
    matches!(
        node,
        Node::Object { .. }
            | Node::Array { .. }
            | Node::SparseArray { .. }
            | Node::Map { .. }
            | Node::Set { .. }
            | Node::Error { .. }
            | Node::Host { .. }
    )
}

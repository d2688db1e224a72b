//! Documents to bytes.

use bytes::{Bytes, BytesMut};

use super::{
    Limits,
    output::Output,
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
    write_value(document, document.root, limits, out)
}

/// As [`write_into`], with another value of the document for the root.
pub(super) fn write_value(
    document: &Document,
    root: Slot,
    limits: &Limits,
    out: &mut BytesMut,
) -> Result<(), WriteError> {
    let start = out.len();
    let mut writer = Writer {
        document,
        out: Output::begin(out),
    };
    let written = writer.walk(root, limits.depth);
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
    out: Output<'a>,
}

impl Writer<'_> {
    fn walk(&mut self, root: Slot, depth: usize) -> Result<(), WriteError> {
        let mut walk = self.document.walk_from(root);
        while let Some(step) = walk.next() {
            match step {
                Step::Leaf(slot) => self.primitive(slot)?,
                Step::Again(id) => self.out.tagged(b'^', id),
                Step::Enter(node) => {
                    if walk.depth() > depth && has_children(node) {
                        return Err(WriteError::TooDeep { limit: depth });
                    }
                    self.enter(node)?;
                }
                Step::Leave(node) => self.leave(node),
            }
        }
        self.out.room(0)
    }

    fn enter(&mut self, node: Node) -> Result<(), WriteError> {
        match node {
            Node::Object { .. } => self.out.byte(b'o'),
            Node::Array { elements, .. } => self.out.tagged(b'A', elements),
            Node::SparseArray { length, .. } => self.out.tagged(b'a', length),
            Node::Map { .. } => self.out.byte(b';'),
            Node::Set { .. } => self.out.byte(b'\''),
            Node::Error { start, kind } => {
                self.out.byte(b'r');
                if let Some(tag) = kind.tag() {
                    self.out.byte(tag);
                }
                for (at, tag) in (start..).zip(*b"msc") {
                    let field = self.document.slots[at];
                    if !matches!(field, Slot::Hole) {
                        self.out.byte(tag);
                        // The cause is the next step of the walk.
                        if tag != b'c' {
                            self.primitive(field)?;
                        }
                    }
                }
            }
            Node::Host { .. } => self.out.tagged(b'\\', 1),
            Node::Date(ms) => self.out.tagged_double(b'D', ms),
            Node::Boxed(slot) => match slot {
                Slot::Bool(true) => self.out.byte(b'y'),
                Slot::Bool(false) => self.out.byte(b'x'),
                Slot::Double(double) => self.out.tagged_double(b'n', double),
                Slot::BigInt { .. } => {
                    self.out.byte(b'z');
                    self.big_int(slot)?;
                }
                text => {
                    self.out.byte(b's');
                    self.primitive(text)?;
                }
            },
            Node::RegExp { pattern, flags } => {
                self.out.byte(b'R');
                self.primitive(pattern)?;
                self.out.varint(flags.bits().into());
            }
            Node::ArrayBuffer { blob } => {
                self.out.byte(b'B');
                self.out.blob(&self.document.blobs[blob], None)?;
            }
            Node::ResizableBuffer { blob, max } => {
                self.out.byte(b'~');
                let max = u32::try_from(max).map_err(|_| WriteError::TooLarge)?;
                self.out.blob(&self.document.blobs[blob], Some(max))?;
            }
            Node::View { kind, blob } => {
                self.out.view(kind);
                self.out.blob(&self.document.blobs[blob], None)?;
            }
        }
        Ok(())
    }

    fn leave(&mut self, node: Node) {
        match node {
            Node::Object { properties, .. } => self.out.tagged(b'{', properties),
            Node::Array {
                elements, properties, ..
            } => {
                self.out.tagged(b'$', properties);
                self.out.varint(elements);
            }
            Node::SparseArray { length, properties, .. } => {
                self.out.tagged(b'@', properties);
                self.out.varint(length);
            }
            Node::Map { entries, .. } => self.out.tagged(b':', 2 * entries),
            Node::Set { values, .. } => self.out.tagged(b',', values),
            Node::Error { .. } => self.out.byte(b'.'),
            _ => {}
        }
    }

    fn primitive(&mut self, slot: Slot) -> Result<(), WriteError> {
        match slot {
            Slot::Undefined | Slot::Hole => self.out.byte(b'_'),
            Slot::Null => self.out.byte(b'0'),
            Slot::Bool(true) => self.out.byte(b'T'),
            Slot::Bool(false) => self.out.byte(b'F'),
            Slot::Int(int) => self.out.int(int),
            Slot::Double(double) => self.out.tagged_double(b'N', double),
            Slot::Index(index) => self.out.index(index),
            Slot::BigInt { .. } => {
                self.out.byte(b'Z');
                self.big_int(slot)?;
            }
            Slot::Text { .. } => self.text(slot)?,
            // The walk takes nodes apart before they come here.
            Slot::Node(_) => {}
        }
        Ok(())
    }

    fn text(&mut self, slot: Slot) -> Result<(), WriteError> {
        match self.document.string(slot).map(|text| text.0) {
            None => Ok(()),
            Some(Repr::Latin1(bytes)) => self.out.one_byte(bytes),
            Some(Repr::Utf16(bytes)) => {
                self.out.two_byte(bytes.len())?;
                self.out.out.extend_from_slice(bytes);
                Ok(())
            }
            Some(Repr::Utf8(text)) => self.out.text(text),
        }
    }

    fn big_int(&mut self, slot: Slot) -> Result<(), WriteError> {
        self.document.big_int(slot).map_or(Ok(()), |int| self.out.big_int(int))
    }
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

//! Bytes to documents.

use std::ops::Range;

use bytes::Bytes;

use super::{
    Limits,
    build::{array, order},
    error::{ReadError, ReadErrorKind as Fault},
    input::Input,
    kind::ErrorKind,
    text::RegExpFlags,
    value::{Document, Node, Slot, string},
};

/// Reads the payload of one frame, without its four length bytes.
///
/// What follows the value is ignored, as Node does. Strings and buffers are not copied: the document shares the
/// payload's memory.
///
/// Differs from Node, which is a little laxer about what no runtime writes: a property name that is a number but no array
/// index, an element behind the end of its array, and UTF-8 that is none are refused.
///
/// # Errors
///
/// If the payload is not one value in V8's format, versions 13 to 16, or nested deeper than `limits` allow.
pub fn read(payload: &Bytes, limits: &Limits) -> Result<Document, ReadError> {
    let mut reader = Reader {
        payload,
        input: Input::new(payload),
        limits,
        left: limits.values,
        open: Vec::with_capacity(8),
        stack: Vec::with_capacity(16),
        slots: Vec::with_capacity(16),
        nodes: Vec::with_capacity(4),
        blobs: Vec::new(),
    };
    match reader.document() {
        Ok(root) => Ok(Document {
            root,
            text: payload.clone(),
            slots: reader.slots,
            nodes: reader.nodes,
            blobs: reader.blobs,
        }),
        Err(kind) => Err(ReadError::new(kind, reader.input.mark, payload)),
    }
}

/// Whether bytes begin as Bun's do: a packet of its `advanced` channel, or what its `v8.serialize` gives. No payload of
/// V8's format and no frame that holds one begins so.
///
/// Who reads frames may ask before the first four bytes are taken for a length: of Bun's that would be 16 MiB.
pub fn is_javascript_core(bytes: &[u8]) -> bool {
    // The format's version, so far 14, leads each value; a packet has a type and the length of its body before it, and
    // the first packet is a version alone.
    let value = |bytes: &[u8]| matches!(bytes, [1..=63, 0, 0, 0, tag, ..] if *tag < 64);
    let packet = |bytes: &[u8]| matches!(bytes, [1..=15, _, _, _, ..=0xfe, body @ ..] if value(body));
    bytes.starts_with(&[1, 2, 0, 0, 0]) || value(bytes) || packet(bytes)
}

/// A host object that is still open; no reference may lead to it. It is no place a finished node can have.
const OPEN_HOST: Node = Node::Host { start: usize::MAX };

struct Reader<'a> {
    payload: &'a Bytes,
    input: Input<'a>,
    limits: &'a Limits,
    /// How many values may still come.
    left: usize,
    /// The objects whose end has not come, outermost first.
    open: Vec<Open>,
    /// The children of all open objects. They move to `slots` when theirs is closed, so that they stand side by side.
    stack: Vec<Slot>,
    slots: Vec<Slot>,
    /// By the id that the wire gives them.
    nodes: Vec<Node>,
    blobs: Vec<Bytes>,
}

/// An object whose children are being read; they are on the stack from `start` on.
struct Open {
    node: usize,
    start: usize,
    part: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Object,
    Elements { length: u32, left: u32 },
    ArrayProperties { length: u32 },
    Sparse { length: u32 },
    Map,
    Set,
    Error { kind: ErrorKind },
    Host,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Slot, Fault> {
        self.input.header()?;
        self.value()?;
        while let Some(&Open { start, part, .. }) = self.open.last() {
            match part {
                Part::Object if self.input.ends(b'{')? => {
                    let properties = self.close_properties(start, None)?;
                    let start = self.keep(start);
                    self.close(Node::Object { start, properties });
                }
                Part::Sparse { length } if self.input.ends(b'@')? => {
                    let properties = self.close_properties(start, Some(length))?;
                    self.close_array(start, length, properties)?;
                }
                Part::ArrayProperties { length } if self.input.ends(b'$')? => {
                    let elements = start + length as usize;
                    let properties = self.close_properties(elements, Some(length))?;
                    self.close_dense(start, length, properties)?;
                }
                Part::Map if (self.stack.len() - start).is_multiple_of(2) && self.input.ends(b':')? => {
                    let slots = self.input.count(self.stack.len() - start)?;
                    let start = self.keep(start);
                    self.close(Node::Map {
                        start,
                        entries: slots / 2,
                    });
                }
                Part::Set if self.input.ends(b',')? => {
                    let values = self.input.count(self.stack.len() - start)?;
                    let start = self.keep(start);
                    self.close(Node::Set { start, values });
                }
                Part::Object | Part::Sparse { .. } | Part::ArrayProperties { .. } => {
                    let key = self.key()?;
                    self.stack.push(key);
                    self.value()?;
                }
                Part::Map | Part::Set => self.value()?,
                Part::Elements { length, left: 0 } => self.part(Part::ArrayProperties { length }),
                Part::Elements { length, left } => {
                    self.part(Part::Elements { length, left: left - 1 });
                    if self.input.ends(b'-')? {
                        self.count_value()?;
                        self.stack.push(Slot::Hole)
                    } else {
                        self.value()?
                    }
                }
                Part::Error { kind } => self.error_field(start, kind)?,
                Part::Host if self.stack.len() > start => {
                    let start = self.keep(start);
                    self.close(Node::Host { start });
                }
                Part::Host => self.value()?,
            }
        }
        Ok(self.stack.pop().unwrap_or(Slot::Undefined))
    }

    /// Reads a value that ends here and puts it on the stack, or the beginning of an object, and opens that.
    fn value(&mut self) -> Result<(), Fault> {
        self.count_value()?;
        let tag = self.input.tag()?;
        let slot = match tag {
            b'_' => Slot::Undefined,
            b'0' => Slot::Null,
            b'T' => Slot::Bool(true),
            b'F' => Slot::Bool(false),
            b'I' => Slot::Int(self.input.zigzag()?),
            b'U' => self.input.unsigned()?,
            b'N' => Slot::Double(self.input.double()?),
            b'Z' => self.input.big_int()?,
            b'"' | b'c' | b'S' => self.input.string_of(tag)?,
            b'^' => {
                let id = self.input.varint()?;
                match self.nodes.get(id as usize) {
                    None | Some(Node::Host { start: usize::MAX }) => return Err(Fault::Reference(id)),
                    Some(_) => self.maybe_viewed(id as usize)?,
                }
            }
            b'o' => return self.open(Part::Object),
            b'A' => {
                let length = self.input.varint()?;
                self.input.available(length.into())?;
                return self.open(Part::Elements { length, left: length });
            }
            b'a' => {
                let length = self.input.varint()?;
                return self.open(Part::Sparse { length });
            }
            b';' => return self.open(Part::Map),
            b'\'' => return self.open(Part::Set),
            b'r' => return self.open(Part::Error { kind: ErrorKind::Error }),
            b'\\' => match self.input.varint()? {
                0 => {
                    let node = self.host_view()?;
                    self.node(node)
                }
                1 => return self.open(Part::Host),
                kind => return Err(Fault::HostKind(kind)),
            },
            b'D' => {
                let node = Node::Date(self.input.double()?);
                self.node(node)
            }
            b'y' => self.node(Node::Boxed(Slot::Bool(true))),
            b'x' => self.node(Node::Boxed(Slot::Bool(false))),
            b'n' => {
                let boxed = Slot::Double(self.input.double()?);
                self.node(Node::Boxed(boxed))
            }
            b'z' => {
                let boxed = self.input.big_int()?;
                self.node(Node::Boxed(boxed))
            }
            b's' => {
                let boxed = self.input.string()?;
                self.node(Node::Boxed(boxed))
            }
            b'R' => {
                let pattern = self.input.string()?;
                let bits = self.input.varint()?;
                let flags = RegExpFlags::from_bits(bits).ok_or(Fault::RegExpFlags(bits))?;
                self.node(Node::RegExp { pattern, flags })
            }
            b'B' | b'~' => {
                let node = self.array_buffer(tag == b'~')?;
                let id = self.nodes.len();
                self.nodes.push(node);
                self.maybe_viewed(id)?
            }
            b't' | b'u' | b'm' | b'w' | b'p' => return Err(Fault::NotInPayload(tag)),
            _ => return Err(Fault::Tag(tag)),
        };
        self.stack.push(slot);
        Ok(())
    }

    fn count_value(&mut self) -> Result<(), Fault> {
        let limit = self.limits.values;
        self.left = self.left.checked_sub(1).ok_or(Fault::TooMany { limit })?;
        Ok(())
    }

    fn open(&mut self, part: Part) -> Result<(), Fault> {
        let limit = self.limits.depth;
        if self.open.len() >= limit {
            return Err(Fault::TooDeep { limit });
        }
        self.open.push(Open {
            node: self.nodes.len(),
            start: self.stack.len(),
            part,
        });
        // A stand-in that references may already mean; it is replaced when the object is complete.
        let open = if let Part::Host = part {
            OPEN_HOST
        } else {
            Node::Object {
                start: 0,
                properties: 0,
            }
        };
        self.nodes.push(open);
        if let Part::Error { .. } = part {
            // Message, stack and cause.
            self.stack.extend([Slot::Hole; 3]);
        }
        Ok(())
    }

    fn part(&mut self, part: Part) {
        if let Some(open) = self.open.last_mut() {
            open.part = part;
        }
    }

    fn close(&mut self, node: Node) {
        if let Some(open) = self.open.pop() {
            self.nodes[open.node] = node;
            self.stack.push(Slot::Node(open.node));
        }
    }

    /// Moves the children of the innermost object where they stay.
    fn keep(&mut self, start: usize) -> usize {
        let kept = self.slots.len();
        self.slots.extend(self.stack.drain(start..));
        kept
    }

    fn node(&mut self, node: Node) -> Slot {
        self.nodes.push(node);
        Slot::Node(self.nodes.len() - 1)
    }

    /// Reads the count behind properties, and of an array its length, and puts them in order.
    fn close_properties(&mut self, start: usize, length: Option<u32>) -> Result<u32, Fault> {
        let pairs = self.stack[start..].as_chunks_mut().0;
        order(self.input.bytes, pairs).map_err(|key| self.twice(key))?;
        let properties = self.input.count((self.stack.len() - start) / 2)?;
        if let Some(length) = length {
            self.input.count(length as usize)?;
            // An array has this property already.
            let mut keys = self.stack[start..].iter().step_by(2);
            if let Some(key) = keys.find(|key| string(self.input.bytes, **key).is_some_and(|key| key == "length")) {
                return Err(self.twice(*key));
            }
        }
        Ok(properties)
    }

    fn close_array(&mut self, start: usize, length: u32, properties: u32) -> Result<(), Fault> {
        let keys = self.stack[start..].iter().step_by(2);
        let last = keys
            .map_while(|key| {
                if let Slot::Index(index) = key {
                    Some(*index)
                } else {
                    None
                }
            })
            .last();
        if let Some(index) = last.filter(|index| *index >= length) {
            return Err(Fault::Index { length, index });
        }
        let start = self.keep(start);
        let array = array(&mut self.slots, start, length, properties);
        self.close(array);
        Ok(())
    }

    fn close_dense(&mut self, start: usize, length: u32, properties: u32) -> Result<(), Fault> {
        let elements = start + length as usize;
        if let Some(Slot::Index(index)) = self.stack.get(elements) {
            return Err(match *index < length {
                true => Fault::KeyTwice(index.to_string()),
                false => Fault::Index { length, index: *index },
            });
        }
        if !self.stack[start..elements]
            .iter()
            .any(|slot| matches!(slot, Slot::Hole))
        {
            let start = self.keep(start);
            self.close(Node::Array {
                start,
                elements: length,
                properties,
            });
            return Ok(());
        }
        let kept = self.slots.len();
        for (index, element) in (0..).zip(self.stack.drain(start..elements)) {
            if !matches!(element, Slot::Hole) {
                self.slots.extend([Slot::Index(index), element]);
            }
        }
        self.keep(start);
        let properties = ((self.slots.len() - kept) / 2) as u32;
        self.close(Node::SparseArray {
            start: kept,
            length,
            properties,
        });
        Ok(())
    }

    /// Reads one field of an error. The order of fields depends on the version of Node.
    fn error_field(&mut self, start: usize, kind: ErrorKind) -> Result<(), Fault> {
        // The cause came last: it stands behind the three fields.
        if let Some(cause) = self.stack[start + 3..].first().copied() {
            self.stack.truncate(start + 3);
            self.stack[start + 2] = cause;
        }
        self.input.mark = self.input.at;
        let kind = match self.input.byte()? {
            field @ (b'm' | b's') => {
                self.stack[start + usize::from(field == b's')] = self.input.string()?;
                kind
            }
            b'c' => return self.value(),
            b'.' => {
                let start = self.keep(start);
                self.close(Node::Error { start, kind });
                return Ok(());
            }
            other => ErrorKind::from_tag(other).ok_or(Fault::ErrorField(other))?,
        };
        self.part(Part::Error { kind });
        Ok(())
    }

    fn key(&mut self) -> Result<Slot, Fault> {
        self.count_value()?;
        self.input.key()
    }

    fn twice(&self, key: Slot) -> Fault {
        Fault::KeyTwice(match key {
            Slot::Index(index) => index.to_string(),
            key => string(self.input.bytes, key)
                .map(|name| name.to_string_lossy().chars().take(64).collect())
                .unwrap_or_default(),
        })
    }

    fn array_buffer(&mut self, resizable: bool) -> Result<Node, Fault> {
        let (range, max) = self.input.array_buffer(resizable)?;
        let blob = self.blob(range);
        Ok(match max {
            Some(max) => Node::ResizableBuffer { blob, max },
            None => Node::ArrayBuffer { blob },
        })
    }

    /// A view as Node's channel writes it.
    fn host_view(&mut self) -> Result<Node, Fault> {
        let (kind, range) = self.input.host_view()?;
        let blob = self.blob(range);
        Ok(Node::View { kind, blob })
    }

    /// A view as V8 itself writes it, on the array buffer before it, if there is one; else that buffer.
    fn maybe_viewed(&mut self, id: usize) -> Result<Slot, Fault> {
        let (Node::ArrayBuffer { blob } | Node::ResizableBuffer { blob, .. }) = self.nodes[id] else {
            return Ok(Slot::Node(id));
        };
        let buffer = self.blobs[blob].clone();
        let Some((kind, range)) = self.input.view_on(buffer.len())? else {
            return Ok(Slot::Node(id));
        };
        self.blobs.push(buffer.slice(range));
        let blob = self.blobs.len() - 1;
        Ok(self.node(Node::View { kind, blob }))
    }

    fn blob(&mut self, range: Range<usize>) -> usize {
        self.blobs.push(self.payload.slice(range));
        self.blobs.len() - 1
    }
}

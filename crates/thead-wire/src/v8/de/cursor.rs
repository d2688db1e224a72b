//! Walks over the values of a payload, in their order, without keeping them.

use super::super::{
    Limits,
    error::{ReadError, ReadErrorKind as Fault},
    input::Input,
    kind::{ErrorKind, ViewKind},
    text::{BigInt, JsStr, RegExpFlags, Repr},
    value::{Slot, string},
};
use super::{DecodeError, DecodeErrorKind};

/// What reading may cost beyond the payload's own size, in bytes: objects that are read again because they are shared,
/// holes. A million values or so, as for JSON.
const EXTRA: usize = 64 << 20;
/// What one value costs, about.
const VALUE: usize = 64;

/// Where reading is, and what was read of objects so far.
pub(super) struct Cursor<'de> {
    input: Input<'de>,
    /// How many objects may be open in one another, for types and for what is skipped.
    typed_depth: usize,
    skipped_depth: usize,
    values: usize,
    left: usize,
    extra: usize,
    /// By the id that the wire gives them.
    objects: Vec<Object>,
    /// The id of the next object.
    next: usize,
    /// The ids of the objects that are being read, outermost first.
    open: Vec<usize>,
    /// Whether what is being read was read before.
    again: bool,
}

/// What a reference to an object may lead to.
#[derive(Clone, Copy)]
enum Object {
    /// Its tag is there.
    At(usize),
    /// A view, or an array buffer on which there may be views; where its contents are.
    Blob {
        kind: Option<ViewKind>,
        start: usize,
        end: usize,
    },
}

/// A value that ends here, or the beginning of one with parts.
pub(super) enum Head<'de> {
    Undefined,
    Null,
    Bool(bool),
    Int(i32),
    Double(f64),
    BigInt(BigInt<'de>),
    Text(JsStr<'de>),
    Date(f64),
    RegExp {
        pattern: JsStr<'de>,
        flags: RegExpFlags,
    },
    /// A view, or an array buffer.
    Blob(Option<ViewKind>, &'de [u8]),
    Part(Part),
}

impl Head<'_> {
    /// For errors, with its article.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Head::Undefined => "undefined",
            Head::Null => "null",
            Head::Bool(_) => "a boolean",
            Head::Int(_) | Head::Double(_) => "a number",
            Head::BigInt(_) => "a BigInt",
            Head::Text(_) => "a string",
            Head::Date(_) => "a Date",
            Head::RegExp { .. } => "a RegExp",
            Head::Blob(Some(kind), _) => kind.name(),
            Head::Blob(None, _) => "an ArrayBuffer",
            Head::Part(Part::Object) => "an object",
            Head::Part(Part::Map) => "a Map",
            Head::Part(Part::Set) => "a Set",
            Head::Part(Part::Error(_)) => "an error object",
            Head::Part(_) => "an array",
        }
    }
}

/// Something with parts that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Object,
    /// The elements of an array without end markers; the properties behind them follow as `Extra`.
    Dense {
        length: u32,
    },
    Extra {
        length: u32,
    },
    Sparse {
        length: u32,
    },
    Map,
    Set,
    /// Of the class that was found so far.
    Error(ErrorKind),
}

/// What comes next of something with parts.
pub(super) enum Next<'de> {
    /// A value.
    Value,
    /// Nothing where a value could be.
    Hole,
    /// The value of a property.
    Property(Name<'de>),
    End,
}

/// The name of a property.
#[derive(Clone, Copy)]
pub(super) enum Name<'de> {
    Index(u32),
    Text(JsStr<'de>),
    /// A part of an error object.
    Field(&'static str),
}

/// What to do when a value is read.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    open: usize,
    /// Where to go back to behind a reference: place, id, and whether that was read before too.
    back: Option<(usize, usize, bool)>,
}

impl<'de> Cursor<'de> {
    pub(super) fn new(payload: &'de [u8], limits: &Limits) -> Result<Cursor<'de>, DecodeError> {
        let mut cursor = Cursor {
            input: Input::new(payload),
            typed_depth: limits.depth.min(super::super::TYPED_DEPTH),
            skipped_depth: limits.depth,
            values: limits.values,
            left: limits.values,
            extra: EXTRA,
            objects: Vec::new(),
            next: 0,
            open: Vec::new(),
            again: false,
        };
        let header = cursor.input.header();
        cursor.checked(header)?;
        Ok(cursor)
    }

    #[inline]
    fn checked<T>(&self, result: Result<T, Fault>) -> Result<T, DecodeError> {
        result.map_err(|fault| self.fault(fault))
    }

    #[cold]
    fn fault(&self, fault: Fault) -> DecodeError {
        DecodeErrorKind::Format(ReadError::new(fault, self.input.mark, self.input.bytes)).into()
    }

    /// The tag of the next value, which stays where it is.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let rest = self.input.bytes.get(self.input.at..)?;
        match rest.first() {
            Some(0) => rest.iter().copied().find(|byte| *byte != 0),
            first => first.copied(),
        }
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return Err(self.fault(Fault::TooMany { limit: self.values })),
        }
        if self.again { self.charge(0) } else { Ok(()) }
    }

    /// Pays for a value that is not in the payload, and so many bytes.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.extra = self
            .extra
            .checked_sub(VALUE.saturating_add(bytes))
            .ok_or(DecodeErrorKind::TooLarge)?;
        Ok(())
    }

    /// Reads a value that ends here, or the beginning of one with parts. Then comes [`finish`](Self::finish).
    pub(super) fn head(&mut self) -> Result<(Head<'de>, Mark), DecodeError> {
        let mut mark = Mark {
            open: self.open.len(),
            back: None,
        };
        loop {
            self.count()?;
            let tag = self.input.tag();
            let tag = self.checked(tag)?;
            if tag != b'^' {
                match self.plain_head(tag, self.typed_depth)? {
                    Some(head) => return Ok((head, mark)),
                    None => continue,
                }
            }
            match self.reference()? {
                (_, Object::Blob { kind, start, end }) => {
                    let (kind, start, end) = self.maybe_viewed(kind, start, end)?;
                    return Ok((Head::Blob(kind, &self.input.bytes[start..end]), mark));
                }
                (id, Object::At(_)) if self.open.contains(&id) => return Err(DecodeErrorKind::Cycle.into()),
                (id, Object::At(at)) => {
                    mark.back.get_or_insert((self.input.at, self.next, self.again));
                    (self.input.at, self.next, self.again) = (at, id, true);
                }
            }
        }
    }

    /// Goes on behind a value whose parts have all been read.
    pub(super) fn finish(&mut self, mark: Mark) {
        self.open.truncate(mark.open);
        if let Some(back) = mark.back {
            (self.input.at, self.next, self.again) = back;
        }
    }

    /// Goes over a value without following its references. Does not recurse.
    pub(super) fn skip(&mut self) -> Result<(), DecodeError> {
        let mut frames: Vec<(Frame, usize)> = Vec::new();
        loop {
            let floor = self.open.len();
            match self.skipped_head()? {
                Some(Head::Part(part)) => frames.push((Frame::new(part), floor)),
                _ => self.open.truncate(floor),
            }
            loop {
                let Some((frame, floor)) = frames.last_mut() else {
                    return Ok(());
                };
                match frame.next(self)? {
                    Next::Hole => {}
                    Next::Value | Next::Property(_) => break,
                    Next::End => {
                        self.open.truncate(*floor);
                        frames.pop();
                    }
                }
            }
        }
    }

    fn skipped_head(&mut self) -> Result<Option<Head<'de>>, DecodeError> {
        loop {
            self.count()?;
            let tag = self.input.tag();
            let tag = self.checked(tag)?;
            if tag == b'^' {
                if let (_, Object::Blob { kind, start, end }) = self.reference()? {
                    self.maybe_viewed(kind, start, end)?;
                }
                return Ok(None);
            }
            if let Some(head) = self.plain_head(tag, self.skipped_depth)? {
                return Ok(Some(head));
            }
        }
    }

    fn reference(&mut self) -> Result<(usize, Object), DecodeError> {
        let id = self.input.varint();
        let id = self.checked(id)?;
        match self.objects.get(id as usize) {
            Some(object) => Ok((id as usize, *object)),
            None => Err(self.fault(Fault::Reference(id))),
        }
    }

    /// What begins with that tag, which is no reference. Nothing for a host object: what it copies follows.
    fn plain_head(&mut self, tag: u8, depth: usize) -> Result<Option<Head<'de>>, DecodeError> {
        let part = |part| Ok(Some(Head::Part(part)));
        let at = self.input.mark;
        match tag {
            b'o' => {
                self.open(at, depth)?;
                part(Part::Object)
            }
            b'A' => {
                let length = self.input.varint().and_then(|length| {
                    self.input.available(length.into())?;
                    Ok(length)
                });
                let length = self.checked(length)?;
                self.open(at, depth)?;
                part(Part::Dense { length })
            }
            b'a' => {
                let length = self.input.varint();
                let length = self.checked(length)?;
                self.open(at, depth)?;
                part(Part::Sparse { length })
            }
            b';' => {
                self.open(at, depth)?;
                part(Part::Map)
            }
            b'\'' => {
                self.open(at, depth)?;
                part(Part::Set)
            }
            b'r' => {
                self.open(at, depth)?;
                part(Part::Error(ErrorKind::Error))
            }
            b'\\' => {
                let kind = self.input.varint();
                match self.checked(kind)? {
                    0 => {
                        let view = self.input.host_view();
                        let (kind, range) = self.checked(view)?;
                        self.blob(Some(kind), range.start, range.end).map(Some)
                    }
                    1 => {
                        self.open(at, depth)?;
                        Ok(None)
                    }
                    kind => Err(self.fault(Fault::HostKind(kind))),
                }
            }
            b'B' | b'~' => {
                let buffer = self.input.array_buffer(tag == b'~');
                let (range, _) = self.checked(buffer)?;
                self.register(Object::Blob {
                    kind: None,
                    start: range.start,
                    end: range.end,
                });
                let (kind, start, end) = self.maybe_viewed(None, range.start, range.end)?;
                if self.again {
                    self.charge(end - start)?;
                }
                Ok(Some(Head::Blob(kind, &self.input.bytes[start..end])))
            }
            b'D' | b'y' | b'x' | b'n' | b'z' | b's' | b'R' => {
                self.register(Object::At(at));
                self.leaf(tag).map(Some)
            }
            _ => self.leaf(tag).map(Some),
        }
    }

    /// A value that has no parts and is no buffer.
    fn leaf(&mut self, tag: u8) -> Result<Head<'de>, DecodeError> {
        let leaf = self.try_leaf(tag);
        let head = self.checked(leaf)?;
        if self.again
            && let Head::Text(JsStr(Repr::Latin1(bytes) | Repr::Utf16(bytes))) = head
        {
            self.charge(bytes.len())?;
        }
        Ok(head)
    }

    fn try_leaf(&mut self, tag: u8) -> Result<Head<'de>, Fault> {
        let input = &mut self.input;
        Ok(match tag {
            b'_' => Head::Undefined,
            b'0' => Head::Null,
            b'T' | b'y' => Head::Bool(true),
            b'F' | b'x' => Head::Bool(false),
            b'I' => Head::Int(input.zigzag()?),
            b'U' => Head::Double(input.varint()?.into()),
            b'N' | b'n' => Head::Double(input.double()?),
            b'D' => Head::Date(input.double()?),
            b'Z' | b'z' => match input.big_int()? {
                Slot::BigInt { negative, len, start } => {
                    Head::BigInt(BigInt::new(negative, &input.bytes[start..start + len as usize]))
                }
                _ => Head::Undefined,
            },
            b'"' | b'c' | b'S' => {
                let text = input.string_of(tag)?;
                Head::Text(text_of(input.bytes, text))
            }
            b's' => {
                let text = input.string()?;
                Head::Text(text_of(input.bytes, text))
            }
            b'R' => {
                let pattern = input.string()?;
                let bits = input.varint()?;
                Head::RegExp {
                    pattern: text_of(input.bytes, pattern),
                    flags: RegExpFlags::from_bits(bits).ok_or(Fault::RegExpFlags(bits))?,
                }
            }
            b't' | b'u' | b'm' | b'w' | b'p' => return Err(Fault::NotInPayload(tag)),
            _ => return Err(Fault::Tag(tag)),
        })
    }

    fn blob(&mut self, kind: Option<ViewKind>, start: usize, end: usize) -> Result<Head<'de>, DecodeError> {
        self.register(Object::Blob { kind, start, end });
        if self.again {
            self.charge(end - start)?;
        }
        Ok(Head::Blob(kind, &self.input.bytes[start..end]))
    }

    /// The view on an array buffer, if one follows.
    fn maybe_viewed(
        &mut self,
        kind: Option<ViewKind>,
        start: usize,
        end: usize,
    ) -> Result<(Option<ViewKind>, usize, usize), DecodeError> {
        if kind.is_some() {
            return Ok((kind, start, end));
        }
        let view = self.input.view_on(end - start);
        Ok(match self.checked(view)? {
            None => (None, start, end),
            Some((kind, range)) => {
                let (start, end) = (start + range.start, start + range.end);
                self.register(Object::Blob {
                    kind: Some(kind),
                    start,
                    end,
                });
                (Some(kind), start, end)
            }
        })
    }

    fn register(&mut self, object: Object) -> usize {
        let id = self.next;
        self.next += 1;
        if id == self.objects.len() {
            self.objects.push(object);
        }
        id
    }

    fn open(&mut self, at: usize, limit: usize) -> Result<(), DecodeError> {
        if self.open.len() >= limit {
            return Err(DecodeErrorKind::TooDeep { limit }.into());
        }
        let id = self.register(Object::At(at));
        self.open.push(id);
        Ok(())
    }

    fn ends(&mut self, tag: u8) -> Result<bool, DecodeError> {
        let ends = self.input.ends(tag);
        self.checked(ends)
    }

    fn counted(&mut self, found: u32) -> Result<(), DecodeError> {
        let count = self.input.count(found as usize);
        self.checked(count).map(drop)
    }

    fn property<'a>(&mut self) -> Result<Next<'a>, DecodeError>
    where
        'de: 'a,
    {
        self.count()?;
        let key = self.input.key();
        Ok(Next::Property(match self.checked(key)? {
            Slot::Index(index) => Name::Index(index),
            text => Name::Text(text_of(self.input.bytes, text)),
        }))
    }
}

fn text_of(bytes: &[u8], slot: Slot) -> JsStr<'_> {
    string(bytes, slot).unwrap_or(JsStr(Repr::Latin1(b"")))
}

/// Something with parts, and how many of them have come.
pub(super) struct Frame {
    part: Part,
    seen: u32,
}

impl Frame {
    pub(super) fn new(part: Part) -> Frame {
        Frame { part, seen: 0 }
    }

    pub(super) fn part(&self) -> Part {
        self.part
    }

    /// Goes to the next value, which is then to be read or skipped. After `End` nothing may be asked for.
    pub(super) fn next<'de>(&mut self, cursor: &mut Cursor<'de>) -> Result<Next<'de>, DecodeError> {
        loop {
            match self.part {
                Part::Object if cursor.ends(b'{')? => cursor.counted(self.seen)?,
                Part::Extra { length } if cursor.ends(b'$')? => {
                    cursor.counted(self.seen)?;
                    cursor.counted(length)?;
                }
                Part::Sparse { length } if cursor.ends(b'@')? => {
                    cursor.counted(self.seen)?;
                    cursor.counted(length)?;
                }
                Part::Map if self.seen.is_multiple_of(2) && cursor.ends(b':')? => cursor.counted(self.seen)?,
                Part::Set if cursor.ends(b',')? => cursor.counted(self.seen)?,
                Part::Object | Part::Extra { .. } | Part::Sparse { .. } => {
                    self.seen = self.seen.saturating_add(1);
                    return cursor.property();
                }
                Part::Map | Part::Set => {
                    self.seen = self.seen.saturating_add(1);
                    return Ok(Next::Value);
                }
                Part::Dense { length } if self.seen == length => {
                    *self = Frame::new(Part::Extra { length });
                    continue;
                }
                Part::Dense { .. } => {
                    self.seen += 1;
                    if !cursor.ends(b'-')? {
                        return Ok(Next::Value);
                    }
                    cursor.count()?;
                    return Ok(Next::Hole);
                }
                Part::Error(_) => {
                    cursor.input.mark = cursor.input.at;
                    let field = cursor.input.byte();
                    return Ok(match cursor.checked(field)? {
                        b'm' => Next::Property(Name::Field("message")),
                        b's' => Next::Property(Name::Field("stack")),
                        b'c' => Next::Property(Name::Field("cause")),
                        b'.' => Next::End,
                        other => {
                            let kind = ErrorKind::from_tag(other);
                            self.part = Part::Error(kind.ok_or_else(|| cursor.fault(Fault::ErrorField(other)))?);
                            continue;
                        }
                    });
                }
            }
            return Ok(Next::End);
        }
    }
}

//! One pass over a graph, and what follows from it: equality.

use std::ops::Range;

use super::value::{Document, Node, Slot};

/// Visits what can be reached from the root, depth first, each object once.
///
/// Two graphs are alike if and only if their walks are: an object is known by its place in the order of visits, which is
/// also how the wire knows it.
pub(super) struct Walk<'a> {
    doc: &'a Document,
    root: Option<Slot>,
    /// When each node was met first; `UNSEEN` before.
    ordinals: Vec<u32>,
    met: u32,
    open: Vec<(Node, Range<usize>)>,
}

const UNSEEN: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// A primitive, or the key of a property.
    Leaf(Slot),
    /// An object met for the first time. Its children follow, then `Leave`.
    Enter(Node),
    Leave(Node),
    /// An object met before, by its place in the order of visits.
    Again(u32),
}

impl Document {
    pub(super) fn walk(&self) -> Walk<'_> {
        self.walk_from(self.root)
    }

    pub(super) fn walk_from(&self, root: Slot) -> Walk<'_> {
        Walk {
            doc: self,
            root: Some(root),
            ordinals: vec![UNSEEN; self.nodes.len()],
            met: 0,
            open: Vec::with_capacity(8),
        }
    }
}

impl Walk<'_> {
    /// How many objects are entered and not left.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let slot = match self.open.last_mut() {
            None => self.root.take()?,
            Some((node, children)) => match children.next() {
                Some(child) => self.doc.slots[child],
                None => {
                    let node = *node;
                    self.open.pop();
                    return Some(Step::Leave(node));
                }
            },
        };
        let Slot::Node(id) = slot else {
            return Some(Step::Leaf(slot));
        };
        if self.ordinals[id] != UNSEEN {
            return Some(Step::Again(self.ordinals[id]));
        }
        self.ordinals[id] = self.met;
        self.met += 1;
        let node = self.doc.nodes[id];
        self.open.push((node, node.children(&self.doc.slots)));
        Some(Step::Enter(node))
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        let (mut one, mut two) = (self.walk(), other.walk());
        loop {
            let alike = match (one.next(), two.next()) {
                (None, None) => return true,
                (Some(Step::Leaf(left)), Some(Step::Leaf(right))) => alike((self, left), (other, right)),
                (Some(Step::Enter(left)), Some(Step::Enter(right))) => same_header((self, left), (other, right)),
                (Some(Step::Again(left)), Some(Step::Again(right))) => left == right,
                (Some(Step::Leave(_)), Some(Step::Leave(_))) => true,
                _ => false,
            };
            if !alike {
                return false;
            }
        }
    }
}

/// JavaScript's `Object.is`, for primitives.
fn alike((one, left): (&Document, Slot), (two, right): (&Document, Slot)) -> bool {
    match (left, right) {
        (Slot::Undefined, Slot::Undefined) | (Slot::Null, Slot::Null) | (Slot::Hole, Slot::Hole) => true,
        (Slot::Bool(left), Slot::Bool(right)) => left == right,
        (Slot::Int(left), Slot::Int(right)) => left == right,
        (Slot::Index(left), Slot::Index(right)) => left == right,
        (Slot::Int(int), Slot::Double(double)) | (Slot::Double(double), Slot::Int(int)) => {
            same_double(int.into(), double)
        }
        (Slot::Double(left), Slot::Double(right)) => same_double(left, right),
        (Slot::BigInt { .. }, Slot::BigInt { .. }) => one.big_int(left) == two.big_int(right),
        (Slot::Text { .. }, Slot::Text { .. }) => one.string(left) == two.string(right),
        _ => false,
    }
}

fn same_double(left: f64, right: f64) -> bool {
    left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
}

/// Whether two objects are alike but for their children.
fn same_header((one, left): (&Document, Node), (two, right): (&Document, Node)) -> bool {
    match (left, right) {
        (Node::Object { properties: left, .. }, Node::Object { properties: right, .. })
        | (Node::Map { entries: left, .. }, Node::Map { entries: right, .. })
        | (Node::Set { values: left, .. }, Node::Set { values: right, .. }) => left == right,
        (
            Node::Array {
                elements, properties, ..
            },
            Node::Array {
                elements: elements_right,
                properties: properties_right,
                ..
            },
        )
        | (
            Node::SparseArray {
                length: elements,
                properties,
                ..
            },
            Node::SparseArray {
                length: elements_right,
                properties: properties_right,
                ..
            },
        ) => (elements, properties) == (elements_right, properties_right),
        (
            Node::Error { start: left, kind },
            Node::Error {
                start: right,
                kind: kind_right,
            },
        ) => {
            let mut fields = one.slots[left..left + 2].iter().zip(&two.slots[right..right + 2]);
            // With a cause on one side only, the walks differ at the next step.
            kind == kind_right && fields.all(|(left, right)| alike((one, *left), (two, *right)))
        }
        (Node::Host { .. }, Node::Host { .. }) => true,
        (Node::Date(left), Node::Date(right)) => same_double(left, right),
        (Node::Boxed(left), Node::Boxed(right)) => alike((one, left), (two, right)),
        (
            Node::RegExp { pattern: left, flags },
            Node::RegExp {
                pattern: right,
                flags: flags_right,
            },
        ) => flags == flags_right && alike((one, left), (two, right)),
        (Node::ArrayBuffer { blob: left }, Node::ArrayBuffer { blob: right }) => one.blobs[left] == two.blobs[right],
        (
            Node::ResizableBuffer { blob: left, max },
            Node::ResizableBuffer {
                blob: right,
                max: max_right,
            },
        ) => max == max_right && one.blobs[left] == two.blobs[right],
        (
            Node::View { kind, blob: left },
            Node::View {
                kind: kind_right,
                blob: right,
            },
        ) => kind == kind_right && one.blobs[left] == two.blobs[right],
        _ => false,
    }
}

//! Numbers by chance, and bytes changed by it.

/// A repeatable source of numbers.
#[derive(Debug)]
pub struct Chance(u64);

/// What stands in messages of all kinds, and numbers at the edge of what fits.
const WORDS: [&[u8]; 16] = [
    b"\n",
    b"{\"cmd\":\"NODE_",
    b"NODE_HANDLE",
    b"\"\\ud800\"",
    b"\xff\x0f",
    b"\xff\xff\xff\xff\x0f",
    b"\0\0\0\x04",
    b"^\0",
    b"o\"\x03cmd",
    b"A\x03",
    b"B\x02\x01\x02VB\0\x02\0",
    b"\\\0\x0a\x02ab",
    b";",
    b"18446744073709551616",
    b"-1",
    b"null",
];

impl Chance {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    fn next(&mut self) -> u64 {
        // SplitMix64: every seed is a good one.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below that, which is above 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Changes an input a little.
    pub(crate) fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(12)).min(input.len());
        match self.below(8) {
            0 => drop(input.drain(at..end)),
            1 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            2 => {
                let word = *self.pick(&WORDS);
                input.splice(at..at, word.iter().copied());
            }
            3 => {
                let other = self.pick(seeds);
                let from = self.below(other.len() + 1);
                let to = (from + self.below(40)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            4 => input.insert(at, self.next() as u8),
            5 => input.truncate(at.max(1)),
            kind => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = match kind {
                        6 => *byte ^ 1 << self.below(8),
                        _ => self.next() as u8,
                    };
                }
            }
        }
    }
}

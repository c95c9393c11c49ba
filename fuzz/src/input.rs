//! What the targets make of their bytes: choices, pieces and messages.

use std::ops::Range;

use bytes::Bytes;
use message_engin::message::{Delivery, Envelope, Properties, Route};

/// The front of an input chooses, the rest is what is read. A byte that is not there is 0.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn choose<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[usize::from(self.byte()) % N]
    }

    /// Up to `count` bytes.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A text behind its length; what is not UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        let length = self.byte();
        String::from_utf8_lossy(self.take(length.into())).into_owned()
    }
}

/// Numbers that depend on `seed` alone (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Where the pieces of `length` bytes are cut. Seed 0 leaves them whole, 1 takes them one by one.
pub fn cuts(length: usize, seed: u8) -> Vec<Range<usize>> {
    let mut dice = Dice(seed.into());
    let most = [3, 17, 300, 5000][dice.below(4)];
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < length {
        let size = match seed {
            0 => length,
            // Enough to see every state of a reader; all of a long input one by one is only slow.
            1 if start < 2000 => 1,
            _ => 1 + dice.below(most),
        };
        let end = (start + size).min(length);
        pieces.push(start..end);
        start = end;
    }
    pieces
}

/// A delivery of what we publish with these properties.
pub fn delivered(properties: Properties, body: impl Into<Bytes>) -> Delivery {
    let envelope = Envelope::new("e", "k", |out| out.extend_from_slice(&properties.encoded()));
    delivery(envelope, body.into())
}

/// A delivery from the wire, with this envelope.
pub fn encoded(bytes: impl Into<Bytes>, properties: usize, body: impl Into<Bytes>) -> Delivery {
    let envelope = Envelope { bytes: bytes.into(), properties };
    delivery(envelope, body.into())
}

fn delivery(envelope: Envelope, body: Bytes) -> Delivery {
    Delivery { route: Route::Message, redelivered: false, repeated: false, tag: 1, session: 0, envelope, body }
}

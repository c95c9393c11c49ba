//! Frames as they go out, unmasked (RFC 6455, section 5.2).

use std::sync::Arc;

use bytes::Bytes;

use super::close_reason::CloseReason;
use crate::gateway::delivery_guard::DeliveryGuard;
use crate::message::Content;
use crate::queue::byte_queue::Weight;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
/// The bit of the last, or only, fragment.
pub(crate) const FIN: u8 = 0x80;
/// What a control frame may carry (RFC 6455, section 5.5).
pub(crate) const MAX_CONTROL: usize = 125;

/// Fragments that go out together. Whatever must not wait for a long message goes in between.
const TOGETHER: usize = 64 * 1024;

/// A message as it goes out, encoded once for one connection or for many.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Bytes,
    payload: usize,
    /// Bytes on the wire of each fragment but the last.
    fragment: usize,
    /// Let go of with the frame.
    _receipt: Option<Arc<DeliveryGuard>>,
}

impl Frame {
    /// A payload of more than `threshold` bytes goes as fragments of that size. Text that is not UTF-8 goes as binary: a
    /// text frame must not carry it (RFC 6455, section 5.6).
    pub fn new(content: &Content, threshold: usize) -> Frame {
        let (mut opcode, payload) = match content {
            Content::Text(text) if std::str::from_utf8(text).is_ok() => (TEXT, text),
            Content::Text(bytes) | Content::Binary(bytes) => (BINARY, bytes),
        };
        let threshold = threshold.max(1);
        let full = payload.len().saturating_sub(1) / threshold;
        let mut bytes = Vec::with_capacity(payload.len() + (full + 1) * head_length(payload.len().min(threshold)));
        let mut rest = &payload[..];
        while rest.len() > threshold {
            let (part, more) = rest.split_at(threshold);
            write_head(&mut bytes, opcode, part.len());
            bytes.extend_from_slice(part);
            opcode = CONTINUATION;
            rest = more;
        }
        write_head(&mut bytes, FIN | opcode, rest.len());
        bytes.extend_from_slice(rest);
        let fragment = if full > 0 { head_length(threshold) + threshold } else { bytes.len() };
        Frame { bytes: bytes.into(), payload: payload.len(), fragment, _receipt: None }
    }

    pub fn with_receipt(self, receipt: Option<Arc<DeliveryGuard>>) -> Frame {
        Frame { _receipt: receipt, ..self }
    }

    pub fn payload_bytes(&self) -> usize {
        self.payload
    }

    /// Whether it goes out as one piece, beside others.
    pub(crate) fn is_short(&self) -> bool {
        self.bytes.len() < TOGETHER / 2
    }

    /// The next whole fragments, not many at a time; None when all have been taken.
    pub(crate) fn next_piece(&mut self) -> Option<Bytes> {
        if self.bytes.is_empty() {
            return None;
        }
        let length = self.fragment.saturating_mul((TOGETHER / self.fragment).max(1));
        Some(self.bytes.split_to(length.min(self.bytes.len())))
    }
}

impl Weight for Frame {
    fn weight(&self) -> usize {
        self.bytes.len() + 64
    }
}

fn head_length(payload: usize) -> usize {
    match payload {
        ..126 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

fn write_head(out: &mut Vec<u8>, first: u8, payload: usize) {
    out.push(first);
    match u16::try_from(payload) {
        Ok(length @ ..126) => out.push(length as u8),
        Ok(length) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(payload as u64).to_be_bytes());
        }
    }
}

/// `payload` has at most 125 bytes.
pub(crate) fn write_control(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    write_head(out, FIN | opcode, payload.len());
    out.extend_from_slice(payload);
}

/// A close frame with as much of the reason as it has room for.
pub(crate) fn write_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let mut end = reason.len().min(MAX_CONTROL - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    write_head(out, FIN | CLOSE, 2 + end);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&reason.as_bytes()[..end]);
}

pub(crate) fn write_order(out: &mut Vec<u8>, order: CloseReason) {
    write_close(out, order.code, order.reason);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(mut frame: Frame) -> Vec<Bytes> {
        std::iter::from_fn(|| frame.next_piece()).collect()
    }

    /// First byte and payload length of each frame.
    fn heads(mut bytes: &[u8]) -> Vec<(u8, usize)> {
        let mut heads = Vec::new();
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match length {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
                length => (usize::from(*length), rest),
            };
            heads.push((*first, length));
            bytes = &rest[length..];
        }
        heads
    }

    #[test]
    fn a_payload_beyond_the_threshold_goes_as_fragments_of_that_size() {
        let text = |length| Content::Text("x".repeat(length).into());
        for (content, threshold, expected) in [
            (text(0), 10, vec![(0x81, 0)]),
            (text(10), 10, vec![(0x81, 10)]),
            (text(11), 10, vec![(0x01, 10), (0x80, 1)]),
            (text(20), 10, vec![(0x01, 10), (0x80, 10)]),
            (text(25), 10, vec![(0x01, 10), (0x00, 10), (0x80, 5)]),
            (text(300), 126, vec![(0x01, 126), (0x00, 126), (0x80, 48)]),
            (text(70_000), usize::MAX, vec![(0x81, 70_000)]),
            (text(140_000), 70_000, vec![(0x01, 70_000), (0x80, 70_000)]),
            (Content::Binary(vec![0; 3].into()), 2, vec![(0x02, 2), (0x80, 1)]),
        ] {
            let frame = Frame::new(&content, threshold);
            assert_eq!(heads(&frame.bytes), expected);
            assert_eq!(frame.bytes.len(), Vec::from(frame.bytes.clone()).capacity());
        }
    }

    #[test]
    fn pieces_are_whole_fragments() {
        let content = Content::Binary((0..200_000_u32).map(|number| number as u8).collect::<Vec<_>>().into());
        for (threshold, count) in [(usize::MAX, 1), (16_384, 5), (100_000, 2), (1000, 4)] {
            let frame = Frame::new(&content, threshold);
            let whole = frame.bytes.clone();
            let pieces = pieces(frame);
            assert_eq!(pieces.len(), count, "{threshold}");
            let all: usize = pieces.iter().flat_map(|piece| heads(piece)).map(|(_, length)| length).sum();
            assert_eq!(all, 200_000);
            assert!(pieces.concat() == whole);
        }
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        write_close(&mut out, 1000, &"ü".repeat(100));
        assert_eq!(out.len(), 2 + 2 + 122);
        assert_eq!(std::str::from_utf8(&out[4..]).unwrap(), "ü".repeat(61));
    }
}

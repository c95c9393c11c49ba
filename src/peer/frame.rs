//! Data frames, encoded once for one connection or for many.

use bytes::Bytes;

use crate::buffer::Weight;
use crate::message::Content;

/// A data frame as it goes out, unmasked (RFC 6455, section 5.2), for one connection or for many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(super) bytes: Bytes,
    payload: usize,
}

impl Frame {
    /// Text that is not UTF-8 goes as a binary frame: a text frame must not carry it (RFC 6455, section 5.6).
    pub fn new(content: &Content) -> Frame {
        let (opcode, payload) = match content {
            Content::Text(text) if std::str::from_utf8(text).is_ok() => (1, text),
            Content::Text(bytes) | Content::Binary(bytes) => (2, bytes),
        };
        let mut bytes = Vec::with_capacity(payload.len() + 10);
        bytes.push(0x80 | opcode);
        match payload.len() {
            length @ ..126 => bytes.push(length as u8),
            length => match u16::try_from(length) {
                Ok(length) => {
                    bytes.push(126);
                    bytes.extend_from_slice(&length.to_be_bytes());
                }
                Err(_) => {
                    bytes.push(127);
                    bytes.extend_from_slice(&(length as u64).to_be_bytes());
                }
            },
        }
        bytes.extend_from_slice(payload);
        Frame { bytes: bytes.into(), payload: payload.len() }
    }

    pub fn payload_bytes(&self) -> usize {
        self.payload
    }
}

impl Weight for Frame {
    fn weight(&self) -> usize {
        self.bytes.len() + 64
    }
}

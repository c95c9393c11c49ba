//! What a client's bytes mean (RFC 6455, section 5): bytes in, events out, no I/O.
//!
//! Bytes are unmasked where they lie. A message that is there as a whole is copied once, out of the read buffer; one that
//! is not is gathered in a buffer that grows with what has come, never with what a head promises. Text is checked as it
//! comes, so that the first byte that cannot be right ends the connection.

use bytes::Bytes;

use super::close_reason::CloseReason;
use super::frame_encoder::{BINARY, CLOSE, CONTINUATION, FIN, MAX_CONTROL, PING, PONG, TEXT};
use crate::message::Content;

/// The longest head: two bytes, a length of eight and a mask of four.
const MAX_HEAD: usize = 14;
/// The least that a buffer of a message begins with, unless the message is shorter.
const LEAST: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Message(Content),
    Ping(Bytes),
    Pong,
    /// Code and reason, where the client gave a code.
    Close(Option<(u16, String)>),
}

const fn breach(reason: &'static str) -> CloseReason {
    CloseReason { code: 1002, reason }
}
const RESERVED_BIT: CloseReason = breach("A reserved bit is set");
const UNKNOWN_OPCODE: CloseReason = breach("The opcode is not known");
const NO_MASK: CloseReason = breach("A frame of a client must be masked");
const FRAGMENTED_CONTROL: CloseReason = breach("A control frame must not be fragmented");
const LONG_CONTROL: CloseReason = breach("A control frame must not be longer than 125 bytes");
const NOTHING_TO_CONTINUE: CloseReason = breach("A fragment of no message");
const WITHIN_MESSAGE: CloseReason = breach("A message within another one");
const LONG_LENGTH: CloseReason = breach("The length is not in its shortest form");
const HUGE_LENGTH: CloseReason = breach("The length has its highest bit set");
const CLOSE_OF_ONE_BYTE: CloseReason = breach("A close frame of one byte");
const CLOSE_CODE: CloseReason = breach("A close code that must not be sent");
const NOT_UTF8: CloseReason = CloseReason { code: 1007, reason: "Text that is not UTF-8" };
const REASON_NOT_UTF8: CloseReason = CloseReason { code: 1007, reason: "A close reason that is not UTF-8" };
const FRAME_TOO_BIG: CloseReason = CloseReason { code: 1009, reason: "The frame is larger than maxReceivedFrameSize" };
const MESSAGE_TOO_BIG: CloseReason =
    CloseReason { code: 1009, reason: "The message is larger than maxReceivedMessageSize" };

pub struct FrameDecoder {
    max_frame: usize,
    max_message: usize,
    /// The beginning of a head that is not complete.
    head: [u8; MAX_HEAD],
    head_length: u8,
    /// The frame whose payload comes.
    frame: Option<Incoming>,
    /// The message whose fragments come.
    message: Option<Assembly>,
    /// The payload so far of a control frame that is not complete.
    control: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Incoming {
    opcode: u8,
    last: bool,
    /// For the next byte first.
    mask: [u8; 4],
    /// Payload that has not come.
    left: usize,
}

struct Assembly {
    text: bool,
    bytes: Vec<u8>,
    /// So many bytes are whole characters; at most three more wait for the rest of theirs.
    valid: usize,
}

impl FrameDecoder {
    /// Limits in bytes of payload.
    pub fn new(max_frame: usize, max_message: usize) -> FrameDecoder {
        FrameDecoder {
            max_frame,
            max_message,
            head: [0; MAX_HEAD],
            head_length: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// Takes bytes off the front of `input` up to the end of the next event; None when all are taken and it is not
    /// complete. After an error nothing more can be read.
    pub fn next(&mut self, input: &mut &mut [u8]) -> Result<Option<Event>, CloseReason> {
        loop {
            let Some(mut frame) = self.frame.take().map_or_else(|| self.begin(input), |frame| Ok(Some(frame)))? else {
                return Ok(None);
            };
            let payload = take(input, frame.left);
            unmask(payload, frame.mask);
            frame.mask.rotate_left(payload.len() & 3);
            frame.left -= payload.len();
            let event = if frame.opcode & 8 == 0 { self.data(frame, payload)? } else { self.control(frame, payload)? };
            if frame.left > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Reads a head; None when it is not complete.
    fn begin(&mut self, input: &mut &mut [u8]) -> Result<Option<Incoming>, CloseReason> {
        let before = usize::from(self.head_length);
        let found = if before == 0 {
            self.read_head(input)?
        } else {
            let count = input.len().min(MAX_HEAD - before);
            self.head[before..before + count].copy_from_slice(&input[..count]);
            self.read_head(&self.head[..before + count])?
        };
        if let Some((frame, length)) = found {
            self.head_length = 0;
            take(input, length - before);
            return Ok(Some(frame));
        }
        // Shorter than a head, so all of it has room.
        let rest = take(input, usize::MAX);
        self.head[before..before + rest.len()].copy_from_slice(rest);
        self.head_length += rest.len() as u8;
        Ok(None)
    }

    /// A frame's head and its length. What is wrong is found as soon as it is there, in a head that is not complete too.
    fn read_head(&self, bytes: &[u8]) -> Result<Option<(Incoming, usize)>, CloseReason> {
        let Some((&first, after)) = bytes.split_first() else { return Ok(None) };
        let (opcode, last) = (first & 15, first & FIN != 0);
        if first & 0x70 != 0 {
            return Err(RESERVED_BIT);
        }
        match opcode {
            CONTINUATION if self.message.is_none() => return Err(NOTHING_TO_CONTINUE),
            TEXT | BINARY if self.message.is_some() => return Err(WITHIN_MESSAGE),
            CONTINUATION | TEXT | BINARY => (),
            CLOSE | PING | PONG if !last => return Err(FRAGMENTED_CONTROL),
            CLOSE | PING | PONG => (),
            _ => return Err(UNKNOWN_OPCODE),
        }
        let Some((&second, after)) = after.split_first() else { return Ok(None) };
        if second & 0x80 == 0 {
            return Err(NO_MASK);
        }
        let short = second & 0x7f;
        if opcode & 8 != 0 && usize::from(short) > MAX_CONTROL {
            return Err(LONG_CONTROL);
        }
        let (length, after) = match short {
            126 => {
                let Some((length, after)) = after.split_first_chunk() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*length)), after)
            }
            127 => {
                let Some((length, after)) = after.split_first_chunk() else { return Ok(None) };
                (u64::from_be_bytes(*length), after)
            }
            short => (u64::from(short), after),
        };
        match (short, length) {
            (126, ..126) | (127, ..=0xffff) => return Err(LONG_LENGTH),
            (_, length) if length >> 63 != 0 => return Err(HUGE_LENGTH),
            _ => (),
        }
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        if opcode & 8 == 0 {
            let before = self.message.as_ref().map_or(0, |message| message.bytes.len());
            if left > self.max_frame {
                return Err(FRAME_TOO_BIG);
            }
            if before.saturating_add(left) > self.max_message {
                return Err(MESSAGE_TOO_BIG);
            }
        }
        let Some((mask, after)) = after.split_first_chunk() else { return Ok(None) };
        Ok(Some((Incoming { opcode, last, mask: *mask, left }, bytes.len() - after.len())))
    }

    /// More of a data frame, whose rest has still to come.
    fn data(&mut self, frame: Incoming, payload: &[u8]) -> Result<Option<Event>, CloseReason> {
        let complete = frame.last && frame.left == 0;
        let message = match &mut self.message {
            Some(message) => message,
            None if complete => return whole(frame.opcode == TEXT, payload).map(Some),
            none => none.insert(Assembly { text: frame.opcode == TEXT, bytes: Vec::new(), valid: 0 }),
        };
        message.add(payload, frame.last.then_some(frame.left))?;
        if !complete {
            return Ok(None);
        }
        self.message.take().map(Assembly::finish).transpose()
    }

    fn control(&mut self, frame: Incoming, payload: &[u8]) -> Result<Option<Event>, CloseReason> {
        if frame.left > 0 {
            self.control.extend_from_slice(payload);
            return Ok(None);
        }
        let before = std::mem::take(&mut self.control);
        let joined;
        let payload = if before.is_empty() {
            payload
        } else {
            joined = [&before, payload].concat();
            &joined
        };
        match frame.opcode {
            PING => Ok(Some(Event::Ping(Bytes::copy_from_slice(payload)))),
            PONG => Ok(Some(Event::Pong)),
            _ => read_close(payload).map(Event::Close).map(Some),
        }
    }
}

impl Assembly {
    /// `left` is what the message has still to come, where that is known.
    fn add(&mut self, payload: &[u8], left: Option<usize>) -> Result<(), CloseReason> {
        let length = self.bytes.len() + payload.len();
        if length > self.bytes.capacity() {
            // Twice what has come, so that many small parts do not copy the whole of it each; and no more than will come.
            let most = left.map_or(usize::MAX, |left| length.saturating_add(left));
            let wanted = length.saturating_mul(2).max(LEAST).min(most);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(payload);
        if self.text {
            match std::str::from_utf8(&self.bytes[self.valid..]) {
                Ok(text) => self.valid += text.len(),
                // It ends within a character that can still be right.
                Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
                Err(_) => return Err(NOT_UTF8),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Event, CloseReason> {
        self.bytes.shrink_to_fit();
        match self.text {
            true if self.valid < self.bytes.len() => Err(NOT_UTF8),
            true => Ok(Event::Message(Content::Text(self.bytes.into()))),
            false => Ok(Event::Message(Content::Binary(self.bytes.into()))),
        }
    }
}

/// A message that is one frame and has come as a whole.
fn whole(text: bool, payload: &[u8]) -> Result<Event, CloseReason> {
    if !text {
        return Ok(Event::Message(Content::Binary(Bytes::copy_from_slice(payload))));
    }
    match std::str::from_utf8(payload) {
        Ok(_) => Ok(Event::Message(Content::Text(Bytes::copy_from_slice(payload)))),
        Err(_) => Err(NOT_UTF8),
    }
}

/// RFC 6455, section 5.5.1; the codes that may be sent are in section 7.4 and IANA's list.
fn read_close(payload: &[u8]) -> Result<Option<(u16, String)>, CloseReason> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(CLOSE_OF_ONE_BYTE) };
    };
    match u16::from_be_bytes(*code) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => match std::str::from_utf8(reason) {
            Ok(reason) => Ok(Some((code, reason.to_owned()))),
            Err(_) => Err(REASON_NOT_UTF8),
        },
        _ => Err(CLOSE_CODE),
    }
}

/// The first bytes of `input`, as many as there are up to `count`.
fn take<'a>(input: &mut &'a mut [u8], count: usize) -> &'a mut [u8] {
    let count = count.min(input.len());
    let (now, later) = std::mem::take(input).split_at_mut(count);
    *input = later;
    now
}

/// Eight bytes at a time, which compilers make vectors of.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x5a, 0, 0xff, 0x31];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            length @ ..126 => bytes.push(0x80 | length as u8),
            length @ ..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                bytes.push(0xff);
                bytes.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&MASK);
        bytes.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ MASK[index & 3]));
        bytes
    }

    fn inbound() -> FrameDecoder {
        FrameDecoder::new(70_000, 150_000)
    }

    /// All events of `bytes` that come in parts of so many, and the error at their end.
    fn events(inbound: &mut FrameDecoder, bytes: &[u8], part: usize) -> (Vec<Event>, Option<CloseReason>) {
        let mut events = Vec::new();
        for part in bytes.chunks(part) {
            let mut part = part.to_vec();
            let mut input = &mut part[..];
            loop {
                match inbound.next(&mut input) {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(order) => return (events, Some(order)),
                }
            }
            assert!(input.is_empty());
        }
        (events, None)
    }

    fn text(text: &str) -> Event {
        Event::Message(Content::Text(text.to_owned().into()))
    }

    #[test]
    fn the_events_are_the_same_however_the_bytes_come() {
        let long = "grüße ".repeat(8000);
        let bytes = [
            frame(0x81, b"one"),
            frame(0x89, b"ping"),
            frame(0x81, b""),
            frame(0x01, "tw\u{1F600}".as_bytes()[..4].as_ref()),
            frame(0x8a, b""),
            frame(0x00, b""),
            frame(0x89, &[7; 125]),
            frame(0x80, &"tw\u{1F600}".as_bytes()[4..]),
            frame(0x82, &[0xff; 126]),
            frame(0x81, long.as_bytes()),
            frame(0x02, &[1; 66_000]),
            frame(0x80, &[2; 66_000]),
            frame(0x88, b"\x03\xe8bye"),
        ]
        .concat();
        let expected = vec![
            text("one"),
            Event::Ping("ping".into()),
            text(""),
            Event::Pong,
            Event::Ping(vec![7; 125].into()),
            text("tw\u{1F600}"),
            Event::Message(Content::Binary(vec![0xff; 126].into())),
            text(&long),
            Event::Message(Content::Binary([vec![1; 66_000], vec![2; 66_000]].concat().into())),
            Event::Close(Some((1000, "bye".to_owned()))),
        ];
        for part in [1, 2, 3, 5, 7, 13, 100, 1000, 4096, 65_536, bytes.len()] {
            let mut inbound = inbound();
            assert!(events(&mut inbound, &bytes, part) == (expected.clone(), None), "{part}");
            assert!(inbound.control.capacity() == 0 && inbound.message.is_none() && inbound.head_length == 0);
        }
    }

    #[test]
    fn each_breach_is_found_with_its_code_and_as_soon_as_it_is_there() {
        let cut = |bytes: Vec<u8>, length| bytes[..length].to_vec();
        let fragment = frame(0x01, b"x");
        for (what, code, before, breach) in [
            ("reserved bit 1", 1002, vec![], vec![0xc1]),
            ("reserved bit 2", 1002, vec![], vec![0xa1]),
            ("reserved bit 3", 1002, vec![], vec![0x99]),
            ("data opcode", 1002, vec![], vec![0x83]),
            ("control opcode", 1002, vec![], vec![0x8b]),
            ("no mask", 1002, vec![], vec![0x81, 0x01]),
            ("fragmented ping", 1002, vec![], vec![0x09]),
            ("fragmented close", 1002, vec![], vec![0x08]),
            ("long ping", 1002, vec![], vec![0x89, 0xfe]),
            ("long close", 1002, vec![], vec![0x88, 0xff]),
            ("continues nothing", 1002, vec![], vec![0x00]),
            ("ends nothing", 1002, frame(0x81, b"x"), vec![0x80]),
            ("text within", 1002, fragment.clone(), vec![0x81]),
            ("binary within", 1002, fragment.clone(), vec![0x02]),
            ("long form of 125", 1002, vec![], vec![0x81, 0xfe, 0, 125]),
            ("longest form of 65535", 1002, vec![], vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ("highest bit", 1002, vec![], vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            ("close of one byte", 1002, vec![], frame(0x88, b"x")),
            ("reason", 1007, vec![], frame(0x88, b"\x03\xe8\xff")),
            ("frame", 1009, vec![], cut(frame(0x82, &[0; 70_001]), 10)),
            ("huge frame", 1009, vec![], vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            (
                "message",
                1009,
                [frame(0x02, &[0; 70_000]), frame(0x00, &[0; 70_000])].concat(),
                vec![0x80, 0xfe, 0x27, 0x11],
            ),
        ] {
            for part in [1, usize::MAX] {
                let mut inbound = inbound();
                assert_eq!(events(&mut inbound, &before, part).1, None, "{what}");
                let last = breach.len() - 1;
                if part == 1 {
                    assert_eq!(events(&mut inbound, &breach[..last], part), (vec![], None), "{what}");
                    assert_eq!(events(&mut inbound, &breach[last..], part).1.unwrap().code, code, "{what}");
                } else {
                    assert_eq!(events(&mut inbound, &breach, part).1.unwrap().code, code, "{what}");
                }
            }
        }
    }

    #[test]
    fn close_codes_that_must_not_be_sent_are_refused() {
        let close = |code: u16| events(&mut inbound(), &frame(0x88, &code.to_be_bytes()), 100);
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert_eq!(close(code), (vec![], Some(CLOSE_CODE)), "{code}");
        }
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999] {
            assert_eq!(close(code), (vec![Event::Close(Some((code, String::new())))], None));
        }
        assert_eq!(events(&mut inbound(), &frame(0x88, b""), 1), (vec![Event::Close(None)], None));
    }

    #[test]
    fn text_fails_at_the_first_byte_that_cannot_be_right() {
        for (right, wrong) in [
            (&b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5"[..], &b"\xff"[..]),
            (b"\xce\xba\xf4", b"\x90"),
            (b"a\xed", b"\xa0"),
            (b"\xe0", b"\x9f"),
            (b"\xf0", b"\x8f"),
            (b"", b"\xc0"),
            (b"", b"\xf5"),
            (b"", b"\x80"),
            (b"\xf0\x9f\x98", b"a"),
        ] {
            let payload = [right, wrong, b"the rest"].concat();
            let bytes = frame(0x81, &payload);
            let upto = bytes.len() - b"the rest".len();
            let mut inbound = inbound();
            assert_eq!(events(&mut inbound, &bytes[..upto - 1], 1), (vec![], None));
            assert_eq!(events(&mut inbound, &bytes[upto - 1..upto], 1), (vec![], Some(NOT_UTF8)));
            // And the same with a fragment for each byte.
            let mut fragments = vec![frame(0x01, b"")];
            fragments.extend(payload.iter().map(|byte| frame(0x00, &[*byte])));
            let mut inbound = self::inbound();
            let upto = right.len() + 1;
            assert_eq!(events(&mut inbound, &fragments[..upto].concat(), usize::MAX), (vec![], None));
            assert_eq!(events(&mut inbound, &fragments[upto], usize::MAX), (vec![], Some(NOT_UTF8)));
        }
        for unfinished in [&b"\xc3"[..], b"a\xe2\x82", b"\xf0\x9f\x98"] {
            for part in [1, usize::MAX] {
                assert_eq!(events(&mut inbound(), &frame(0x81, unfinished), part), (vec![], Some(NOT_UTF8)));
            }
        }
    }

    #[test]
    fn a_buffer_grows_with_what_has_come_and_not_with_what_is_promised() {
        let mut inbound = FrameDecoder::new(1 << 40, 1 << 40);
        let mut head = vec![0x82, 0xff];
        head.extend_from_slice(&(1_u64 << 39).to_be_bytes());
        head.extend_from_slice(&MASK);
        assert_eq!(events(&mut inbound, &head, 14), (vec![], None));
        for came in 1..=2000 {
            assert_eq!(events(&mut inbound, &[0; 10], 10), (vec![], None));
            let capacity = inbound.message.as_ref().unwrap().bytes.capacity();
            assert!(capacity <= (20 * came).max(LEAST), "{capacity} for {came}");
        }
    }

    #[test]
    fn a_message_takes_no_more_than_its_length_in_the_end() {
        for bytes in [
            frame(0x82, &[1; 50_000]),
            [frame(0x02, &[1; 40_000]), frame(0x80, &[1; 10_000])].concat(),
            std::iter::once(frame(0x02, b"")).chain((0..50_000).map(|_| frame(0x00, b"\x01"))).flatten().collect(),
        ] {
            let bytes = [bytes, frame(0x80, b"")].concat();
            for part in [1000, usize::MAX] {
                let Some(Event::Message(Content::Binary(message))) = events(&mut inbound(), &bytes, part).0.pop()
                else {
                    panic!("no message")
                };
                assert_eq!((message.len(), Vec::from(message).capacity()), (50_000, 50_000));
            }
        }
    }

    #[test]
    fn unmasking_is_the_same_at_every_length_and_offset() {
        for length in 0..50 {
            let plain: Vec<u8> = (0..length).collect();
            let mut bytes = plain.clone();
            unmask(&mut bytes, MASK);
            assert!(bytes.iter().enumerate().all(|(index, byte)| byte ^ MASK[index & 3] == plain[index]));
        }
    }
}

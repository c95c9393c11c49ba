//! The reading side of RFC 6455 over all the bytes at once: what a server has to make of them, and how it may end.

use bytes::Bytes;
use message_engin::message::Content;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub frame: usize,
    pub message: usize,
}

/// What has to come of a client's bytes.
#[derive(Debug, Default)]
pub struct Expected {
    pub messages: Vec<Content>,
    /// The close codes that are right: a frame may break several rules.
    pub codes: Vec<u16>,
    /// Earlier ends that are right too, after this many messages: text may be looked at before all of it is there, and a
    /// length in more bytes than it needs is refused by some and read by others.
    pub early: Vec<(usize, u16)>,
    pub pings: Vec<Vec<u8>>,
}

impl Expected {
    pub fn allows(&self, messages: &[Content], code: u16) -> bool {
        let early = |(count, early): &(usize, u16)| *early == code && self.messages[..*count] == *messages;
        (self.codes.contains(&code) && self.messages == messages) || self.early.iter().any(early)
    }
}

struct Frame<'a> {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
    violations: Vec<u16>,
    /// The length takes no more bytes than it needs.
    minimal: bool,
    complete: bool,
    rest: &'a [u8],
}

/// None while there is no length yet.
fn frame<'a>(bytes: &'a [u8], limits: Limits, started: Option<usize>) -> Option<Frame<'a>> {
    let (&first, rest) = bytes.split_first()?;
    let (fin, opcode, control) = (first & 0x80 != 0, first & 15, first & 8 != 0);
    let mut violations = Vec::new();
    if first & 0x70 != 0 || opcode & 7 > 2 || (control && !fin) || (!control && (opcode == 0) != started.is_some()) {
        violations.push(1002);
    }
    let failed = |violations, minimal| {
        Some(Frame { fin, opcode, payload: Vec::new(), violations, minimal, complete: false, rest: &[] })
    };
    let Some((&second, mut rest)) = rest.split_first() else {
        return if violations.is_empty() { None } else { failed(violations, true) };
    };
    if second & 0x80 == 0 {
        violations.push(1002);
    }
    let form = usize::from(second & 0x7f);
    let wide = match form {
        126 => rest.split_first_chunk::<2>().map(|(wide, rest)| (u16::from_be_bytes(*wide).into(), rest)),
        127 => rest.split_first_chunk::<8>().map(|(wide, rest)| (u64::from_be_bytes(*wide), rest)),
        _ => Some((form as u64, rest)),
    };
    let Some((wide, behind)) = wide else {
        // Whatever its length is, no control frame needs this form.
        return if violations.is_empty() && !control { None } else { failed(violations, !control) };
    };
    rest = behind;
    if wide >> 63 != 0 || (control && wide > 125) {
        violations.push(1002);
    }
    let minimal = form < 126 || wide > if form == 126 { 125 } else { 65_535 };
    let length = usize::try_from(wide).unwrap_or(usize::MAX);
    let message = started.unwrap_or(0).saturating_add(length);
    if length > limits.frame || (!control && message > limits.message) {
        violations.push(1009);
    }
    let mask = if second & 0x80 == 0 {
        [0; 4]
    } else {
        let Some((mask, behind)) = rest.split_first_chunk::<4>() else {
            return if violations.is_empty() && minimal { None } else { failed(violations, minimal) };
        };
        rest = behind;
        *mask
    };
    let (payload, behind) = rest.split_at(length.min(rest.len()));
    let payload: Vec<u8> = payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
    let complete = payload.len() == length;
    Some(Frame { fin, opcode, payload, violations, minimal, complete, rest: behind })
}

/// Whether more bytes could make this UTF-8.
fn may_become_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
}

pub fn read(mut bytes: &[u8], limits: Limits) -> Expected {
    let mut expected = Expected::default();
    let mut started: Option<(bool, Vec<u8>)> = None;
    loop {
        let length = started.as_ref().map(|(_, content)| content.len());
        let Some(frame) = frame(bytes, limits, length) else {
            expected.codes.push(1006);
            return expected;
        };
        bytes = frame.rest;
        if !frame.minimal {
            expected.early.push((expected.messages.len(), 1002));
        }
        let mut ends = frame.violations;
        if !frame.complete {
            ends.push(1006);
        }
        let control = frame.opcode & 8 != 0;
        if !control && ends.iter().all(|code| *code == 1006) {
            let (text, content) = started.get_or_insert((frame.opcode == 1, Vec::new()));
            content.extend_from_slice(&frame.payload);
            if *text && !may_become_text(content) {
                expected.early.push((expected.messages.len(), 1007));
            }
        }
        if !ends.is_empty() {
            expected.codes.append(&mut ends);
            return expected;
        }
        match frame.opcode {
            8 => {
                expected.codes.extend(close_codes(&frame.payload));
                return expected;
            }
            9 => expected.pings.push(frame.payload),
            10 => (),
            _ if frame.fin => {
                let Some((text, content)) = started.take() else { continue };
                if text && std::str::from_utf8(&content).is_err() {
                    expected.codes.push(1007);
                    return expected;
                }
                let content = Bytes::from(content);
                expected.messages.push(if text { Content::Text(content) } else { Content::Binary(content) });
            }
            _ => (),
        }
    }
}

/// What a close frame may be taken for.
fn close_codes(payload: &[u8]) -> Vec<u16> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return vec![if payload.is_empty() { 1005 } else { 1002 }];
    };
    let code = u16::from_be_bytes(*code);
    let mut codes = match code {
        1000..=1003 | 1007..=1011 | 3000..=4999 => vec![code],
        // Registered since, or reserved: there are servers for both readings.
        1004 | 1012..=1014 => vec![code, 1002],
        _ => vec![1002],
    };
    if std::str::from_utf8(reason).is_err() {
        codes = vec![1007, 1002];
    }
    codes
}

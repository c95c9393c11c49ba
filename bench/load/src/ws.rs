//! As much of WebSocket as browsers and a gateway need.

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The answer to a Sec-WebSocket-Key.
pub fn accept_key(key: &[u8]) -> String {
    let mut sha = sha1_smol::Sha1::new();
    sha.update(key);
    sha.update(GUID);
    base64(&sha.digest().bytes())
}

pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for at in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]);
            text.push(if at <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// The start line and the header lines of a request or a response, and the length of it all; None until it is complete.
pub fn head(bytes: &[u8]) -> Option<(Vec<&[u8]>, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let lines = bytes[..end].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    Some((lines.collect(), end + 4))
}

/// The name and the value of a header line.
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// What stands before the payload of a frame.
pub struct FrameHead {
    pub last: bool,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    /// Of the head itself.
    pub size: usize,
    /// Of the payload.
    pub length: usize,
}

/// None until it is complete.
pub fn frame_head(bytes: &[u8]) -> Option<FrameHead> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (mut size, length) = match second & 127 {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).unwrap_or(usize::MAX)),
        short => (2, usize::from(short)),
    };
    let mut mask = None;
    if second & 128 != 0 {
        mask = Some(*bytes.get(size..)?.first_chunk()?);
        size += 4;
    }
    Some(FrameHead { last: first & 128 != 0, opcode: first & 15, mask, size, length })
}

pub fn push_frame_head(out: &mut Vec<u8>, opcode: u8, mask: Option<[u8; 4]>, length: usize) {
    let masked = if mask.is_some() { 128 } else { 0 };
    out.push(128 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(masked | short),
        (_, Ok(medium)) => {
            out.push(masked | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask));
}

pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_of_rfc_6455() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frame_heads_are_read_as_written() {
        for length in [0, 125, 126, 65_535, 65_536] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let mut bytes = Vec::new();
                push_frame_head(&mut bytes, TEXT, mask, length);
                let head = frame_head(&bytes).expect("complete");
                assert_eq!((head.size, head.length, head.mask), (bytes.len(), length, mask));
                assert!(head.last && head.opcode == TEXT);
                assert!(frame_head(&bytes[..bytes.len() - 1]).is_none());
            }
        }
    }
}

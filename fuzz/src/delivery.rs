//! A broker's bytes, read as the consuming connection reads them.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use message_engin::broker::rabbitmq::fuzzing::{Broken, FrameReader, METHOD, parse_method};
use message_engin::message::Route;
use tokio::io::{AsyncRead, ReadBuf};

use crate::{Input, cuts};

/// One read gives one piece.
struct Pieces(VecDeque<Bytes>);

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(piece) = self.0.front_mut() {
            let now = piece.split_to(piece.len().min(into.remaining()));
            into.put_slice(&now);
            if piece.is_empty() {
                self.0.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// What was read, in the words of a test failure.
#[derive(Debug, PartialEq)]
struct Read {
    items: Vec<String>,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    Eof,
    Broken(String),
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let frame_max = input.choose([131_072, 8, 32, 4096]);
    let split = input.byte();
    let bytes = match input.byte() & 1 {
        0 => input.0.to_vec(),
        _ => frames(input),
    };
    let whole = read(&bytes, frame_max, 0);
    let pieces = read(&bytes, frame_max, split);
    assert_eq!(whole.items, pieces.items);
    // A large body is looked at again when all of it can be there. Until then a fault in it is not seen, and if the
    // stream ends first, that is what is told; the session ends either way.
    if (&whole.end, &pieces.end) != (&End::Broken("the broker sent a delivery that cannot be read".into()), &End::Eof) {
        let frames = "the broker sent a frame";
        let both_late = matches!((&whole.end, &pieces.end), (End::Broken(why), End::Eof) if why.starts_with(frames));
        assert!(both_late || whole.end == pieces.end, "{:?} and in pieces {:?}", whole.end, pieces.end);
    }
}

/// Kind, channel, length and payload, as often as there are some, as well-formed frames: what is in them is reached at once.
fn frames(mut input: Input<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !input.0.is_empty() {
        let kind = input.choose([1, 2, 3, 3, 8]);
        let channel = input.byte() & 7;
        let length = input.byte();
        let payload = input.take(length.into());
        bytes.extend_from_slice(&[kind, 0, channel]);
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes.push(0xce);
    }
    bytes
}

fn read(bytes: &[u8], frame_max: usize, split: u8) -> Read {
    let pieces = cuts(bytes.len(), split).into_iter().map(|piece| Bytes::copy_from_slice(&bytes[piece]));
    let mut reader = FrameReader::new(Pieces(pieces.collect()), frame_max);
    let mut items = Vec::new();
    let end = loop {
        match next(&mut reader) {
            Ok(Some(item)) => items.push(item),
            Ok(None) => {
                // Nothing here ever waits.
                let filled = pin!(reader.fill()).poll(&mut Context::from_waker(Waker::noop()));
                match filled {
                    Poll::Ready(Ok(())) => (),
                    Poll::Ready(Err(_)) => break End::Eof,
                    Poll::Pending => panic!("a read that waits"),
                }
            }
            Err(broken) => break End::Broken(broken.to_string()),
        }
    };
    let read: usize = items.iter().map(String::len).sum();
    assert!(read <= 4096 + bytes.len() * 200, "{read} bytes of text from {} bytes", bytes.len());
    Read { items, end }
}

fn next(reader: &mut FrameReader<Pieces>) -> Result<Option<String>, Broken> {
    let route = |channel| [None, Some(Route::Receive), Some(Route::Message)].get(usize::from(channel)).copied()?;
    match reader.is_delivery()? {
        None => Ok(None),
        Some(true) => Ok(reader.take_delivery(1, route)?.map(|delivery| {
            let place = (delivery.route, delivery.tag, delivery.redelivered);
            let names = (delivery.exchange(), delivery.routing_key(), delivery.content_type());
            format!("{place:?} {names:?} {:?} {:?} {:?}", delivery.message_id(), delivery.headers_json(), delivery.body)
        })),
        Some(false) => {
            let Some((kind, channel, payload)) = reader.take_frame()? else { return Ok(None) };
            let class = if kind == METHOD { Some(parse_method(&payload)?) } else { None };
            Ok(Some(format!("{kind} {channel} {} {}", payload.len(), class.is_some())))
        }
    }
}

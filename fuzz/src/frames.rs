//! What a WebSocket client sends, through a whole connection.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use message_engin::config::SocketSettings;
use message_engin::connection::{CloseStatus, Connection, Frame, Handle, Sink};
use message_engin::message::Content;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::time::{sleep, timeout};

use crate::rfc6455::{self, Expected, Limits};
use crate::settings::socket;
use crate::{Dice, Input, cuts};

const RESPONSE: &[u8] = b"HTTP/1.1 101\r\n\r\n";

/// How the same bytes come, and what happens beside them.
#[derive(Clone, Copy)]
struct Way {
    /// See `cuts`.
    split: u8,
    /// How many of the bytes come with the upgrade request.
    early: usize,
    /// Bytes between both ends.
    pipe: usize,
    /// The sink has no room every so often.
    reluctant: bool,
    /// Long enough for a ping, before the piece with this index.
    silence: Option<usize>,
    /// Frames for the browser.
    outgoing: usize,
}

const AT_ONCE: Way = Way { split: 0, early: 0, pipe: 1 << 20, reluctant: false, silence: None, outgoing: 0 };

struct Inbox {
    messages: Vec<Content>,
    ready: bool,
    dice: Option<Dice>,
}

impl Sink for Inbox {
    fn take(&mut self, content: Content) {
        assert!(self.ready, "a message without room for it");
        self.ready = false;
        self.messages.push(content);
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready = self.dice.as_mut().is_none_or(|dice| dice.below(3) > 0);
        if self.ready {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let limits =
        Limits { frame: input.choose([65_536, 125, 126, 300]), message: input.choose([1 << 20, 16, 125, 400]) };
    let split = input.byte();
    let flags = input.byte();
    let early = usize::from(input.byte()) * 4;
    let bytes = input.0;
    let other = Way {
        split,
        early: early.min(bytes.len()),
        pipe: [1 << 16, 1, 7, 300][usize::from(flags & 3)],
        reluctant: flags & 4 != 0,
        silence: (flags & 8 != 0).then_some(usize::from(split) % 5),
        // The long ones would take long through a narrow pipe.
        outgoing: usize::from(flags >> 5).min(if flags & 3 == 0 { 7 } else { 5 }),
    };
    let expected = rfc6455::read(bytes, limits);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let [at_once, otherwise] = [AT_ONCE, other].map(|way| {
        let (messages, ended, written) = runtime.block_on(connection(bytes, limits, way));
        assert!(expected.allows(&messages, ended.code), "{ended:?} after {messages:?} is not of {expected:?}");
        check_written(&written, &ended, &expected, way.outgoing);
        (messages, ended.code)
    });
    assert_eq!(at_once, otherwise, "the same bytes in other pieces");
}

fn settings(limits: Limits) -> SocketSettings {
    let mut settings = socket();
    settings["maxReceivedFrameSize"] = limits.frame.into();
    settings["maxReceivedMessageSize"] = limits.message.into();
    serde_json::from_value(settings).expect("settings")
}

fn outgoing(index: usize) -> Content {
    let size = [0, 5, 125, 126, 1000, 70_000][index % 6];
    if index.is_multiple_of(2) {
        Content::Text(vec![b'a'; size].into())
    } else {
        Content::Binary(vec![0xff; size].into())
    }
}

async fn connection(bytes: &[u8], limits: Limits, way: Way) -> (Vec<Content>, CloseStatus, Vec<u8>) {
    let settings = Arc::new(settings(limits));
    let handle = Handle::new(&settings);
    let (browser, stream) = duplex(way.pipe);
    let (mut from, mut into) = split(browser);
    let (early, later) = bytes.split_at(way.early);
    let mut inbox = Inbox { messages: Vec::new(), ready: false, dice: way.reluctant.then_some(Dice(way.split.into())) };

    for index in 0..way.outgoing {
        handle.send(Frame::new(&outgoing(index), settings.fragment())).expect("the connection has not begun");
    }
    let server = async {
        let opened =
            Connection::open(stream, RESPONSE.to_vec(), early.to_vec(), handle.clone(), settings.clone()).await;
        let mut peer = opened.expect("somebody reads the response");
        let (ended, _) = peer.run(&mut inbox).await;
        peer.linger().await;
        ended
    };
    let sending = async {
        for (index, piece) in cuts(later.len(), way.split).into_iter().enumerate() {
            if way.silence == Some(index) {
                sleep(Duration::from_secs(25)).await;
            }
            // The server has ended the connection.
            if into.write_all(&later[piece]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = into.shutdown().await;
    };
    let reading = async {
        let mut written = Vec::new();
        let _ = from.read_to_end(&mut written).await;
        written
    };
    let all = async { tokio::join!(server, sending, reading) };
    let (ended, (), written) = timeout(Duration::from_secs(600), all).await.expect("the connection hangs");
    for message in &inbox.messages {
        let (Content::Text(content) | Content::Binary(content)) = message;
        assert!(content.len() <= limits.message, "a message of {} bytes", content.len());
        assert!(matches!(message, Content::Binary(_)) || std::str::from_utf8(content).is_ok(), "not UTF-8");
    }
    (inbox.messages, ended, written)
}

/// What a server writes: unmasked frames, in order, with nothing behind a close frame.
fn check_written(written: &[u8], ended: &CloseStatus, expected: &Expected, sent: usize) {
    let mut rest = written.strip_prefix(RESPONSE).expect("the response comes first");
    let mut data = 0;
    let mut fragments: Option<(u8, Vec<u8>)> = None;
    let mut closed = None;
    while !rest.is_empty() {
        assert!(closed.is_none(), "something behind a close frame");
        // Whoever is gone misses the end of a frame; everybody else gets whole ones.
        let Some((first, payload, behind)) = written_frame(rest) else {
            assert_eq!(ended.code, 1006, "half a frame");
            return;
        };
        match first {
            0x00 | 0x01 | 0x02 | 0x80 | 0x81 | 0x82 => {
                assert_eq!(first & 15 == 0, fragments.is_some(), "fragments in disorder");
                let (opcode, content) = fragments.get_or_insert((first & 15, Vec::new()));
                content.extend_from_slice(payload);
                if first & 0x80 != 0 {
                    assert!(data < sent, "a message that nobody sent");
                    let (expected, bytes) = match outgoing(data) {
                        Content::Text(bytes) => (1, bytes),
                        Content::Binary(bytes) => (2, bytes),
                    };
                    assert!(*opcode == expected && *content == bytes, "message {data} is not what was sent");
                    fragments = None;
                    data += 1;
                }
            }
            0x88 => closed = Some(payload.to_vec()),
            0x89 => assert!(payload.is_empty()),
            0x8a => assert!(expected.pings.iter().any(|ping| ping == payload), "a pong that answers no ping"),
            other => panic!("a frame that begins with {other:#x}"),
        }
        rest = behind;
    }
    if ended.code == 1006 {
        return;
    }
    let closed = closed.expect("a close frame");
    match closed.split_first_chunk::<2>() {
        None => assert_eq!((ended.code, closed.len()), (1005, 0)),
        Some((code, reason)) => {
            assert_eq!(u16::from_be_bytes(*code), ended.code);
            assert!(std::str::from_utf8(reason).is_ok(), "a reason that is not UTF-8");
        }
    }
}

/// First byte, payload and what lies behind; None while it is not complete.
fn written_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    assert!(second & 0x80 == 0, "a server does not mask");
    let (length, rest) = match second {
        126 => {
            let (wide, rest) = rest.split_first_chunk()?;
            assert!(u16::from_be_bytes(*wide) > 125, "a length in too many bytes");
            (usize::from(u16::from_be_bytes(*wide)), rest)
        }
        127 => {
            let (wide, rest) = rest.split_first_chunk()?;
            assert!(u64::from_be_bytes(*wide) > 65_535, "a length in too many bytes");
            (usize::try_from(u64::from_be_bytes(*wide)).ok()?, rest)
        }
        length => (length.into(), rest),
    };
    assert!(first & 8 == 0 || length <= 125, "a control frame of {length} bytes");
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((first, payload, rest))
}

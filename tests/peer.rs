//! One WebSocket connection keeps to its limits, its timers and its manners, over an in-memory stream.

mod common;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use common::{Browser, socket, within};
use futures_util::{SinkExt, StreamExt};
use message_engin::config::SocketSettings;
use message_engin::connection::{CloseStatus, Connection, Frame, GOING_AWAY, Handle, Sink, Stream, Tcp};
use message_engin::message::Content;
use message_engin::queue::byte_queue::Refused;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Takes everything, or nothing.
struct Inbox {
    messages: mpsc::UnboundedSender<Content>,
    open: bool,
}

impl Sink for Inbox {
    fn take(&mut self, content: Content) {
        let _ = self.messages.send(content);
    }
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        if self.open { Poll::Ready(()) } else { Poll::Pending }
    }
}

struct Setting {
    browser: Option<DuplexStream>,
    handle: Arc<Handle>,
    messages: mpsc::UnboundedReceiver<Content>,
    peer: JoinHandle<CloseStatus>,
}

fn start(settings: SocketSettings, head: &[u8], open: bool) -> Setting {
    let (browser, stream) = duplex(4096);
    let (sender, messages) = mpsc::unbounded_channel();
    let (handle, peer) = serve(stream, settings, head, Inbox { messages: sender, open });
    Setting { browser: Some(browser), handle, messages, peer }
}

fn serve<S: Stream + 'static>(
    stream: S,
    settings: SocketSettings,
    head: &[u8],
    mut inbox: Inbox,
) -> (Arc<Handle>, JoinHandle<CloseStatus>) {
    let settings = Arc::new(settings);
    let handle = Handle::new(&settings);
    let (head, of) = (head.to_vec(), handle.clone());
    let peer = tokio::spawn(async move {
        let mut peer = Connection::open(stream, b"hello".to_vec(), head, of, settings).await.unwrap();
        let (ended, _) = peer.run(&mut inbox).await;
        peer.linger().await;
        ended
    });
    (handle, peer)
}

/// A masked frame of a client; the mask is zero, which RFC 6455 allows and leaves the payload readable.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

fn text_frame(text: &str) -> Frame {
    Frame::new(&Content::Text(text.to_owned().into()), usize::MAX)
}

async fn ended(setting: Setting) -> (u16, String) {
    let ended = within(setting.peer).await.unwrap();
    (ended.code, ended.description)
}

#[tokio::test]
async fn bytes_that_came_with_the_request_are_the_first_messages() {
    let mut head = frame(0x81, b"one");
    head.extend(frame(0x81, b"two"));
    head.extend(&frame(0x81, b"three")[..5]);
    let mut setting = start(socket(), &head, true);
    let browser = setting.browser.as_mut().unwrap();
    browser.write_all(&frame(0x81, b"three")[5..]).await.unwrap();
    for expected in ["one", "two", "three"] {
        assert_eq!(within(setting.messages.recv()).await, Some(Content::Text(expected.as_bytes().into())));
    }
}

#[tokio::test]
async fn each_violation_is_answered_with_its_code() {
    let small = || SocketSettings { max_received_frame_size: 100, max_received_message_size: 150, ..socket() };
    let mut unmasked = frame(0x81, b"");
    unmasked[1] = 0;
    let mut too_long = frame(0x01, &[b'x'; 100]);
    too_long.extend(frame(0x80, &[b'x'; 100]));
    let cases: [(&str, Vec<u8>, u16); 10] = [
        ("unmasked", unmasked[..2].to_vec(), 1002),
        ("reserved bit", frame(0xc1, b"x"), 1002),
        ("unknown opcode", frame(0x83, b"x"), 1002),
        ("continuation of nothing", frame(0x80, b"x"), 1002),
        ("fragmented ping", frame(0x09, b"x"), 1002),
        ("text within text", [frame(0x01, b"x"), frame(0x81, b"x")].concat(), 1002),
        ("one byte of close", frame(0x88, b"x"), 1002),
        ("not UTF-8", frame(0x81, &[0xff]), 1007),
        ("frame too big", frame(0x81, &[b'x'; 101]), 1009),
        ("message too big", too_long, 1009),
    ];
    for (what, bytes, code) in cases {
        let mut setting = start(small(), &bytes, true);
        let mut browser = Browser::over(setting.browser.take().unwrap()).await;
        assert_eq!(browser.close_code().await, Some(code), "{what}");
        drop(browser);
        assert_eq!(ended(setting).await.0, code, "{what}");
    }
}

#[tokio::test]
async fn a_close_is_answered_and_told() {
    let cases: [(&[u8], (u16, &str)); 4] = [
        (b"\x03\xe8", (1000, "Normal connection closure")),
        (b"\x0f\xa0bye", (4000, "bye")),
        (b"", (1005, "Reason not provided")),
        (b"\x03\xe9", (1001, "Remote peer is going away")),
    ];
    for (payload, (code, description)) in cases {
        let mut setting = start(socket(), &frame(0x88, payload), true);
        let mut answer = Vec::new();
        within(setting.browser.take().unwrap().read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer[5..7], [0x88, u8::try_from(payload.len()).unwrap()]);
        assert_eq!(&answer[7..], payload);
        assert_eq!(ended(setting).await, (code, description.to_owned()));
    }
}

#[tokio::test]
async fn what_waits_goes_out_before_our_close() {
    let mut setting = start(socket(), b"", true);
    for number in 0..100 {
        setting.handle.send(text_frame(&format!("{number}"))).unwrap();
    }
    setting.handle.close(GOING_AWAY);
    assert!(setting.handle.send(text_frame("too late")).is_err());
    let mut browser = Browser::over(setting.browser.take().unwrap()).await;
    for number in 0..100 {
        assert_eq!(browser.next().await, Message::Text(format!("{number}").into()));
    }
    assert_eq!(browser.close_code().await, Some(1001));
    assert_eq!(ended(setting).await.0, 1001);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_full_when_we_close_gets_what_waits_as_well() {
    let mut setting = start(socket(), b"", true);
    let texts: Vec<String> = (0..10).map(|number: u8| number.to_string().repeat(5000)).collect();
    for text in &texts {
        setting.handle.send(text_frame(text)).unwrap();
    }
    // The first of them fills the pipe.
    tokio::time::sleep(Duration::from_millis(1)).await;
    setting.handle.close(GOING_AWAY);
    tokio::time::sleep(Duration::from_millis(250)).await;
    let mut browser = Browser::over(setting.browser.take().unwrap()).await;
    for text in texts {
        assert_eq!(browser.next().await, Message::Text(text.into()));
    }
    assert_eq!(browser.close_code().await, Some(1001));
    assert_eq!(ended(setting).await.0, 1001);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_more_holds_our_close_up_for_its_timeout() {
    let mut setting = start(socket(), b"", true);
    for _ in 0..10 {
        setting.handle.send(text_frame(&"x".repeat(5000))).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    setting.handle.close(GOING_AWAY);
    let _silent = setting.browser.take();
    assert_eq!(setting.peer.await.unwrap().code, 1001);
    // For what waits, and then for the answer to our close.
    assert_eq!(began.elapsed(), Duration::from_millis(600));
}

#[tokio::test(start_paused = true)]
async fn answers_to_earlier_messages_go_out_before_the_close_frame_for_a_violation() {
    let violation = frame(0x83, b"x");
    let mut setting =
        start(socket(), &[frame(0x81, b"one"), violation.clone(), frame(0x81, b"not read")].concat(), true);
    let began = Instant::now();
    assert_eq!(setting.messages.recv().await, Some(Content::Text("one".into())));
    setting.handle.send(text_frame("answer")).unwrap();
    let mut browser = Browser::over(setting.browser.take().unwrap()).await;
    assert_eq!(browser.next().await, Message::Text("answer".into()));
    assert_eq!(browser.close_code().await, Some(1002));
    assert!(began.elapsed() < Duration::from_millis(300));
    assert_eq!(setting.messages.recv().await, None);
    // Where nothing was asked, nothing is waited for.
    let mut setting = start(socket(), &violation, true);
    let began = Instant::now();
    let mut browser = Browser::over(setting.browser.take().unwrap()).await;
    assert_eq!(browser.close_code().await, Some(1002));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_a_browser_does_is_answered_at_once_though_it_has_just_sent_a_message() {
    let rate =
        serde_json::from_value(serde_json::json!({ "messages": 1.0, "bytes": null, "burst": 1.0, "policy": "close" }));
    let settings = || SocketSettings {
        message_rate: None,
        max_received_frame_size: 50,
        max_received_message_size: 50,
        ..socket()
    };
    for (settings, last, code) in [
        (settings(), frame(0x88, b"\x03\xe8"), 1000),
        (settings(), frame(0x88, b"\x03\xea"), 1002),
        (settings(), frame(0x81, &[b'x'; 60]), 1009),
        (SocketSettings { message_rate: rate.unwrap(), ..settings() }, frame(0x81, b"two"), 1008),
    ] {
        let mut setting = start(settings, &[frame(0x81, b"one"), last].concat(), true);
        let began = Instant::now();
        let mut browser = Browser::over(setting.browser.take().unwrap()).await;
        assert_eq!(browser.close_code().await, Some(code));
        assert_eq!(setting.messages.recv().await, Some(Content::Text("one".into())));
        drop(browser);
        assert_eq!(ended(setting).await.0, code);
        assert_eq!(began.elapsed(), Duration::ZERO, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_told_at_once_though_the_socket_is_full() {
    let (mut browser, stream) = duplex(4096);
    let (settings, mut inbox) = (Arc::new(socket()), Inbox { messages: mpsc::unbounded_channel().0, open: true });
    let handle = Handle::new(&settings);
    let mut peer = Connection::open(stream, b"hello".to_vec(), Vec::new(), handle.clone(), settings).await.unwrap();
    handle.send(text_frame(&"x".repeat(10_000))).unwrap();
    let began = Instant::now();
    let close = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        browser.write_all(&frame(0x88, b"\x03\xe8")).await.unwrap();
    };
    let ((ended, _), ()) = tokio::join!(peer.run(&mut inbox), close);
    assert_eq!(ended.code, 1000);
    assert!(began.elapsed() <= Duration::from_millis(2));
    // The frame that was begun, and our close frame behind it.
    let mut bytes = Vec::new();
    tokio::join!(peer.linger(), async { browser.read_to_end(&mut bytes).await.unwrap() });
    assert_eq!(bytes.len(), 5 + 4 + 10_000 + 4);
    assert!(bytes.ends_with(b"xx\x88\x02\x03\xe8"));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_closes_does_not_wait_for_answers_to_earlier_messages() {
    let mut setting = start(socket(), &[frame(0x81, b"one"), frame(0x83, b"x")].concat(), true);
    let mut browser = Browser::over(setting.browser.take().unwrap()).await;
    assert_eq!(setting.messages.recv().await, Some(Content::Text("one".into())));
    let began = Instant::now();
    setting.handle.close(GOING_AWAY);
    assert_eq!(browser.close_code().await, Some(1002));
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(browser);
    assert_eq!(ended(setting).await.0, 1002);
}

#[tokio::test(start_paused = true)]
async fn our_close_lets_nobody_send_faster_than_its_rate_for_long() {
    let rate =
        serde_json::from_value(serde_json::json!({ "messages": 1.0, "bytes": null, "burst": 1.0, "policy": "slow" }));
    let mut setting = start(SocketSettings { message_rate: rate.unwrap(), ..socket() }, b"", true);
    let (mut from, mut into) = tokio::io::split(setting.browser.take().unwrap());
    let flood = tokio::spawn(async move { while into.write_all(&frame(0x81, &[b'x'; 100])).await.is_ok() {} });
    assert!(setting.messages.recv().await.is_some());
    setting.handle.close(GOING_AWAY);
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes).await;
    assert!(bytes.windows(4).any(|four| four[2..] == [0x03, 0xe9]), "a close frame with 1001");
    assert_eq!(within(setting.peer).await.unwrap().code, 1001);
    setting.messages.close();
    let mut count = 0;
    while setting.messages.recv().await.is_some() {
        count += 1;
    }
    // A mebibyte, and the messages of a moment.
    assert!(count < (1 << 20) / 100 + 2000, "{count}");
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pongs_that_nobody_reads_take_no_room() {
    let mut setting = start(socket(), b"", true);
    let mut browser = setting.browser.take().unwrap();
    for _ in 0..10_000 {
        browser.write_all(&frame(0x89, &[b'x'; 125])).await.unwrap();
    }
    browser.write_all(&frame(0x89, b"last")).await.unwrap();
    browser.write_all(&frame(0x88, b"")).await.unwrap();
    let mut bytes = Vec::new();
    browser.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.ends_with(b"\x8a\x04last\x88\x00"));
    // The pipe, what was being written, and what waited.
    assert!(bytes.len() < 3 * 4096 + 200, "{}", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn silence_is_answered_with_a_ping_and_then_with_the_end() {
    let mut setting = start(socket(), b"", true);
    let began = Instant::now();
    let mut browser = setting.browser.take().unwrap();
    let mut bytes = [0; 7];
    browser.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello\x89\x00");
    assert_eq!(began.elapsed().as_secs(), 20);
    browser.write_all(&frame(0x8a, b"")).await.unwrap();
    browser.read_exact(&mut bytes[..2]).await.unwrap();
    assert_eq!(&bytes[..2], b"\x89\x00");
    assert_eq!(began.elapsed().as_secs(), 40);
    assert_eq!(ended(setting).await, (1006, "Peer not responding.".to_owned()));
    assert_eq!(began.elapsed().as_secs(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_what_it_is_sent_is_alive_until_it_stops() {
    let mut setting = start(socket(), b"", true);
    setting.handle.send(text_frame(&"x".repeat(300_000))).unwrap();
    let mut browser = setting.browser.take().unwrap();
    // It reads for ten times as long as it may be silent, and answers no ping.
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        browser.read_exact(&mut [0; 1000]).await.unwrap();
    }
    assert!(!setting.peer.is_finished());
    let began = Instant::now();
    assert_eq!(setting.peer.await.unwrap().description, "Peer not responding.");
    // Interval and grace, and a quarter of the latter until it was noticed.
    let silent = began.elapsed().as_secs_f64();
    assert!((29.0..=33.0).contains(&silent), "{silent}");
}

#[tokio::test(start_paused = true)]
async fn what_a_socket_has_room_for_says_nothing_about_its_peer() {
    let setting = start(socket(), b"", true);
    let began = Instant::now();
    while !setting.peer.is_finished() {
        let _ = setting.handle.send(text_frame("still room"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(ended(setting).await, (1006, "Peer not responding.".to_owned()));
    assert!(began.elapsed().as_secs() <= 31, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_says_nothing_while_the_socket_is_not_read() {
    let setting = start(socket(), b"", false);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(!setting.peer.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_never_answered_ends_after_its_timeout() {
    let mut setting = start(socket(), b"", true);
    let began = Instant::now();
    setting.handle.close(GOING_AWAY);
    let _silent = setting.browser.take();
    let peer = setting.peer;
    assert_eq!(peer.await.unwrap().code, 1001);
    assert_eq!(began.elapsed(), Duration::from_millis(300));
}

#[tokio::test]
async fn a_browser_that_does_not_read_is_cut_off_and_costs_no_more_than_its_limit() {
    let settings = SocketSettings { max_backpressure: 64 * 1024, close_timeout: 200, ..socket() };
    let setting = start(settings, b"", true);
    let block = bytes::Bytes::from(vec![b'x'; 16 * 1024]);
    let mut sent = 0;
    while setting.handle.send(Frame::new(&Content::Text(block.clone()), usize::MAX)).is_ok() {
        sent += 1;
        assert!(sent < 100, "nothing held the sender back");
        tokio::task::yield_now().await;
    }
    assert!(setting.handle.cut_off() > 0);
    assert_eq!(within(setting.peer).await.unwrap().code, 1013);
}

/// A peer over TCP, and the browser's end of it.
async fn start_on_tcp(settings: SocketSettings) -> (Arc<Handle>, JoinHandle<CloseStatus>, WebSocketStream<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut browser = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let inbox = Inbox { messages: mpsc::unbounded_channel().0, open: true };
    let (handle, peer) = serve(Tcp::from(stream), settings, b"", inbox);
    within(browser.read_exact(&mut [0; 5])).await.unwrap();
    let browser = WebSocketStream::from_raw_socket(browser, Role::Client, None).await;
    (handle, peer, browser)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_another_thread_come_whole_and_in_order_among_what_the_peer_says_itself() {
    const COUNT: usize = 3000;
    let (handle, peer, browser) = start_on_tcp(SocketSettings { max_backpressure: 256 * 1024, ..socket() }).await;
    // Long ones fill the socket, and some are too long to go out beside others.
    let text = |number: usize| {
        let length = if number % 50 == 49 { 70_000 } else { number * number % 9000 };
        format!("{number}.{}", "x".repeat(length))
    };
    let of = handle.clone();
    let sending = std::thread::spawn(move || {
        for number in 0..COUNT {
            let mut frame = Frame::new(&Content::Text(text(number).into()), 16 * 1024);
            while let Err(Refused::Full(back)) = of.queue(frame) {
                of.flush();
                frame = back;
                std::thread::yield_now();
            }
            if number % 7 == 0 {
                of.flush();
            }
        }
        of.flush();
    });
    let (mut into, mut from) = browser.split();
    let pinging = tokio::spawn(async move {
        for number in 0..500_u32 {
            into.send(Message::Ping(number.to_be_bytes().to_vec().into())).await.unwrap();
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        into
    });
    let mut pongs = 0;
    let mut next = 0;
    while next < COUNT || pongs < 500 {
        match within(from.next()).await.unwrap().unwrap() {
            Message::Text(got) => {
                assert!(got == text(next), "{next}: {}", &got[..got.len().min(20)]);
                next += 1;
                if next % 100 == 0 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            Message::Pong(_) => pongs += 1,
            other => panic!("{other:?}"),
        }
    }
    sending.join().unwrap();
    let _into = pinging.await.unwrap();
    handle.close(GOING_AWAY);
    assert!(matches!(within(from.next()).await, Some(Ok(Message::Close(_)))));
    drop(from);
    assert_eq!(within(peer).await.unwrap().code, 1001);
}

#[tokio::test]
async fn a_frame_goes_out_at_once_where_nothing_else_does() {
    let (handle, _peer, mut browser) = start_on_tcp(socket()).await;
    // Once the peer has looked at its outbox.
    tokio::task::yield_now().await;
    for number in 0..10 {
        handle.send(text_frame(&format!("{number}"))).unwrap();
        // Nobody but this task has run since: one thread has them all.
        let mut bytes = [0; 3];
        assert_eq!(browser.get_ref().try_read(&mut bytes).unwrap_or(0), 3, "{number}");
        assert_eq!(&bytes[2..], format!("{number}").as_bytes());
    }
    handle.close(GOING_AWAY);
    assert!(matches!(within(browser.next()).await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn a_sink_without_room_holds_the_socket_back_while_frames_still_go_out() {
    let mut setting = start(socket(), b"", false);
    let (mut from, mut into) = tokio::io::split(setting.browser.take().unwrap());
    let pushing = tokio::spawn(async move {
        loop {
            into.write_all(&frame(0x81, &[b'x'; 100])).await.unwrap();
        }
    });
    setting.handle.send(text_frame("still here")).unwrap();
    let mut bytes = [0; 17];
    within(from.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes[7..], b"still here");
    assert!(!pushing.is_finished());
    assert!(setting.messages.try_recv().is_err());
    pushing.abort();
}

//! The load generator: plays the browsers and says how it went, a JSON object a line.
//!
//! `--mode echo` sends messages and waits for their echoes: with `--rate` so many a second at fixed times, and without
//! it as many as can be, `--in-flight` of them at a time. `--mode handshakes` connects and closes. `--mode idle`
//! connects, has one message each way, and holds the connections until a line comes on standard input.
//!
//! A message is `{"i":"CCCCTTTTTTTT"...}`: the number of its connection and the microsecond at which it was to be sent,
//! so that each echo says whether it came to the right one, and how long it took.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    rc::Rc,
    time::{Duration, Instant},
};

use message_engin_bench::{args::Args, control, histogram::Histogram, lane, ws};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::{
    net::{
        TcpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
        unix::pipe::Receiver,
    },
    sync::{Notify, Semaphore},
    task::spawn_local,
    time::{sleep, timeout},
};

const READ_BUFFER: usize = 256 << 10;
/// Node's http servers take 511 connections that wait to be accepted.
const CONNECTING: usize = 100;
const CONNECT_LIMIT: Duration = Duration::from_secs(60);
/// How long echoes may take after the last message.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Sources are 127.0.0.2 and up, each with its own ports.
const SOURCES: u32 = 100;
const START: &[u8] = br#"{"i":""#;
/// Of the connection and of the time.
const DIGITS: [usize; 2] = [4, 8];

struct Load {
    start: Instant,
    targets: Vec<SocketAddr>,
    size: usize,
    read_buffer: RefCell<Vec<u8>>,
    browsers: RefCell<Vec<Rc<Browser>>>,
    /// The connection that sends next, where messages are not tied to connections.
    turn: Cell<usize>,
    tied: Cell<bool>,
    closed_loop: Cell<bool>,
    measuring: Cell<bool>,
    /// When messages that count were sent, in microseconds.
    window: Cell<(u64, u64)>,
    sent: Cell<u64>,
    echoes: Cell<u64>,
    echoes_in_window: Cell<u64>,
    misrouted: Cell<u64>,
    broken: Cell<u64>,
    /// Connections that the gateway closed.
    closed: Cell<u64>,
    latencies: RefCell<Histogram>,
    echoed: Notify,
}

struct Browser {
    index: usize,
    writer: OwnedWriteHalf,
    mask: [u8; 4],
    /// The message as a frame, whose time is filled in for each.
    frame: RefCell<Vec<u8>>,
    frame_head: usize,
    out: RefCell<Vec<u8>>,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

fn main() {
    control::run(async {
        let args = Args::parse();
        let targets = args.text("targets").split(',').map(|target| target.parse::<SocketAddr>());
        let load = Rc::new(Load {
            start: Instant::now(),
            targets: targets.collect::<Result<_, _>>().map_err(io::Error::other)?,
            size: args.value_or("size", 200),
            read_buffer: RefCell::new(vec![0; READ_BUFFER]),
            browsers: RefCell::default(),
            turn: Cell::new(0),
            tied: Cell::new(true),
            closed_loop: Cell::new(false),
            measuring: Cell::new(false),
            window: Cell::new((u64::MAX, u64::MAX)),
            sent: Cell::new(0),
            echoes: Cell::new(0),
            echoes_in_window: Cell::new(0),
            misrouted: Cell::new(0),
            broken: Cell::new(0),
            closed: Cell::new(0),
            latencies: RefCell::default(),
            echoed: Notify::new(),
        });
        match args.text("mode") {
            "echo" => echo(&load, &args).await,
            "handshakes" => handshakes(&load, &args).await,
            "idle" => idle(&load, &args).await,
            other => Err(io::Error::other(format!("there is no mode {other}"))),
        }?;
        // Sockets close with the process: thousands of orderly ends would only take time.
        std::process::exit(0);
    });
}

// ------------------------------------------------------------------- modes

async fn echo(load: &Rc<Load>, args: &Args) -> io::Result<()> {
    let commands = control::commands();
    connect_all(load, args.value("connections")).await?;
    println!(r#"{{"event":"connected"}}"#);
    let warmup = Duration::from_secs_f64(args.value("warmup"));
    let seconds = Duration::from_secs_f64(args.value("seconds"));
    let rate: f64 = args.value_or("rate", 0.0);
    let pacer = if rate > 0.0 {
        Some(spawn_local(pace(Rc::clone(load), rate, Instant::now() + warmup + seconds)))
    } else {
        load.saturate(args.value("in-flight"));
        None
    };

    sleep(warmup).await;
    let begin = load.now();
    load.window.set((begin, begin + seconds.as_micros() as u64));
    load.measuring.set(true);
    println!(r#"{{"event":"begin"}}"#);
    sleep(seconds).await;
    load.measuring.set(false);
    load.closed_loop.set(false);
    let measured = load.now() - begin;
    println!(r#"{{"event":"end"}}"#);
    let lag = match pacer {
        Some(pacer) => pacer.await.map_err(io::Error::other)??,
        None => Duration::ZERO,
    };
    let drained = load.drain().await;
    let round_trips = load.echoes_in_window.get();
    println!(
        r#"{{"event":"result","seconds":{:.6},"roundTrips":{round_trips},"sent":{},"unanswered":{},"misrouted":{},"broken":{},"closed":{},"lag":{},"drained":{drained},"latency":{}}}"#,
        measured as f64 / 1e6,
        load.sent.get(),
        load.sent.get() - load.echoes.get(),
        load.misrouted.get(),
        load.broken.get(),
        load.closed.get(),
        lag.as_micros(),
        load.latencies.borrow().json(),
    );
    drop(commands);
    Ok(())
}

async fn handshakes(load: &Rc<Load>, args: &Args) -> io::Result<()> {
    let commands = control::commands();
    let next = Rc::new(Cell::new(0_usize));
    let failed = Rc::new(Cell::new(0_u64));
    for _ in 0..args.value("in-flight") {
        let (load, next, failed) = (Rc::clone(load), Rc::clone(&next), Rc::clone(&failed));
        spawn_local(async move {
            loop {
                let index = next.replace(next.get() + 1);
                let began = load.now();
                let outcome = timeout(CONNECT_LIMIT, visit(&load, index, began)).await;
                if !matches!(outcome, Ok(Ok(()))) {
                    add(&failed);
                    // What refuses at once would be asked without end.
                    sleep(Duration::from_millis(10)).await;
                } else if load.measuring.get() {
                    add(&load.echoes_in_window);
                }
            }
        });
    }
    sleep(Duration::from_secs_f64(args.value("warmup"))).await;
    let begin = load.now();
    load.measuring.set(true);
    println!(r#"{{"event":"begin"}}"#);
    sleep(Duration::from_secs_f64(args.value("seconds"))).await;
    load.measuring.set(false);
    println!(r#"{{"event":"end"}}"#);
    println!(
        r#"{{"event":"result","seconds":{:.6},"handshakes":{},"failed":{},"latency":{}}}"#,
        (load.now() - begin) as f64 / 1e6,
        load.echoes_in_window.get(),
        failed.get(),
        load.latencies.borrow().json(),
    );
    drop(commands);
    Ok(())
}

/// Connects, closes with 1000 and waits for the end.
async fn visit(load: &Load, index: usize, began: u64) -> io::Result<()> {
    let (mut reader, writer, _) = connect(load, index).await?;
    if load.measuring.get() {
        load.latencies.borrow_mut().record(load.now() - began);
    }
    let mask = mask_of(index);
    let mut frame = Vec::new();
    ws::push_frame_head(&mut frame, ws::CLOSE, Some(mask), 2);
    frame.extend([3 ^ mask[0], 232 ^ mask[1]]);
    writer.try_write(&frame)?;
    loop {
        match lane::read(&mut reader, &load.read_buffer, |_| {}).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn idle(load: &Rc<Load>, args: &Args) -> io::Result<()> {
    let mut commands = control::commands();
    let connections: usize = args.value("connections");
    connect_all(load, connections).await?;
    println!(r#"{{"event":"connected"}}"#);
    // One each way, a few at a time, so that no gateway needs buffers for a crowd.
    load.tied.set(false);
    let browsers = load.browsers.borrow().clone();
    for few in browsers.chunks(CONNECTING) {
        few.iter().for_each(|browser| load.send(browser, load.now()));
        if !load.drain().await {
            return Err(io::Error::other("an echo did not come"));
        }
    }
    println!(r#"{{"event":"held","connections":{connections},"echoes":{}}}"#, load.echoes.get());
    commands.recv().await;
    println!(
        r#"{{"event":"result","connections":{connections},"closed":{},"misrouted":{},"broken":{}}}"#,
        load.closed.get(),
        load.misrouted.get(),
        load.broken.get(),
    );
    Ok(())
}

// ----------------------------------------------------------------- messages

impl Load {
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// As many as can be, `in_flight` at a time: on its own connection each, or in turn where connections are more.
    fn saturate(&self, in_flight: usize) {
        self.closed_loop.set(true);
        let browsers = self.browsers.borrow();
        self.tied.set(in_flight >= browsers.len());
        for at in 0..in_flight {
            self.send(&browsers[at % browsers.len()], self.now());
        }
        self.turn.set(in_flight);
    }

    fn next(&self) -> Rc<Browser> {
        let turn = self.turn.replace(self.turn.get() + 1);
        let browsers = self.browsers.borrow();
        Rc::clone(&browsers[turn % browsers.len()])
    }

    fn send(&self, browser: &Rc<Browser>, time: u64) {
        browser.send(time as u32);
        add(&self.sent);
    }

    /// Whether all echoes came.
    async fn drain(&self) -> bool {
        let all = async {
            while self.echoes.get() < self.sent.get() {
                self.echoed.notified().await;
            }
        };
        timeout(DRAIN_LIMIT, all).await.is_ok()
    }

    fn echo(&self, browser: &Rc<Browser>, payload: &[u8]) {
        let number = |digits: &[u8]| u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok();
        let digits = payload.strip_prefix(START).filter(|_| payload.len() == self.size);
        let parts = digits.and_then(|digits| {
            let (index, rest) = digits.split_at_checked(DIGITS[0])?;
            Some((number(index)?, number(rest.get(..DIGITS[1])?)?))
        });
        let Some((index, time)) = parts else { return add(&self.broken) };
        if index as usize != browser.index {
            add(&self.misrouted);
        }
        add(&self.echoes);
        let now = self.now();
        let took = u64::from((now as u32).wrapping_sub(time));
        let (from, to) = self.window.get();
        if (from..to).contains(&(now - took)) {
            self.latencies.borrow_mut().record(took);
        }
        if self.measuring.get() {
            add(&self.echoes_in_window);
        }
        if self.closed_loop.get() {
            if self.tied.get() {
                self.send(browser, now);
            } else {
                self.send(&self.next(), now);
            }
        } else {
            self.echoed.notify_one();
        }
    }
}

/// Sends at fixed times, whatever the echoes do, and returns by how much it was late at worst.
async fn pace(load: Rc<Load>, rate: f64, end: Instant) -> io::Result<Duration> {
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    // Not a pipe, but it becomes readable and is read like one.
    let timer = Receiver::from_owned_fd_unchecked(timer)?;
    let first = Instant::now();
    let mut worst = Duration::ZERO;
    let mut count = 0_u64;
    loop {
        let due = first + Duration::from_secs_f64(count as f64 / rate);
        if due >= end {
            return Ok(worst);
        }
        let now = Instant::now();
        if let Some(late) = now.checked_duration_since(due) {
            worst = worst.max(late);
            load.send(&load.next(), due.duration_since(load.start).as_micros() as u64);
            count += 1;
            continue;
        }
        let wait = due - now;
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(timer.as_fd(), TimerfdTimerFlags::empty(), &once)?;
        while timer.try_read(&mut [0; 8]).is_err() {
            timer.readable().await?;
        }
    }
}

impl Browser {
    fn send(self: &Rc<Self>, time: u32) {
        let mut frame = self.frame.borrow_mut();
        for digit in 0..DIGITS[1] {
            let value = char::from_digit(time >> (28 - 4 * digit) & 15, 16).unwrap_or('0') as u8;
            let at = START.len() + DIGITS[0] + digit;
            frame[self.frame_head + at] = value ^ self.mask[at % 4];
        }
        let mut out = self.out.borrow_mut();
        if !out.is_empty() {
            out.extend_from_slice(&frame);
            return;
        }
        let written = self.writer.try_write(&frame).unwrap_or(0);
        if written < frame.len() {
            out.extend_from_slice(&frame[written..]);
            spawn_local(write_rest(Rc::clone(self)));
        }
    }
}

async fn write_rest(browser: Rc<Browser>) {
    while browser.writer.writable().await.is_ok() {
        let mut out = browser.out.borrow_mut();
        match browser.writer.try_write(&out) {
            Ok(count) => drop(out.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        if out.is_empty() {
            *out = Vec::new();
            return;
        }
    }
}

async fn read_echoes(load: Rc<Load>, browser: Rc<Browser>, mut reader: OwnedReadHalf, mut rest: Vec<u8>) {
    let mut fragments = Vec::new();
    loop {
        let read = lane::read(&mut reader, &load.read_buffer, |read| {
            if rest.is_empty() {
                let used = echoes(&load, &browser, &mut fragments, read);
                rest.extend_from_slice(&read[used..]);
                return;
            }
            rest.extend_from_slice(read);
            let used = echoes(&load, &browser, &mut fragments, &rest);
            rest.drain(..used);
            if rest.is_empty() {
                rest = Vec::new();
            }
        });
        if read.await.is_err() {
            return add(&load.closed);
        }
    }
}

/// How many bytes are handled.
fn echoes(load: &Load, browser: &Rc<Browser>, fragments: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(head) = ws::frame_head(&bytes[at..]) {
        let start = at + head.size;
        let Some(payload) = bytes.get(start..start + head.length) else { break };
        at = start + head.length;
        match head.opcode {
            ws::TEXT if head.last => load.echo(browser, payload),
            ws::TEXT | ws::CONTINUATION => {
                fragments.extend_from_slice(payload);
                if head.last {
                    load.echo(browser, &std::mem::take(fragments));
                }
            }
            ws::PING => {
                let mut pong = Vec::new();
                ws::push_frame_head(&mut pong, ws::PONG, Some([0; 4]), payload.len());
                pong.extend_from_slice(payload);
                let _ = browser.writer.try_write(&pong);
            }
            _ => {}
        }
    }
    at
}

// -------------------------------------------------------------- connections

async fn connect_all(load: &Rc<Load>, count: usize) -> io::Result<()> {
    let permits = Rc::new(Semaphore::new(CONNECTING));
    let mut tasks = Vec::new();
    for index in 0..count {
        let (load, permits) = (Rc::clone(load), Rc::clone(&permits));
        tasks.push(spawn_local(async move {
            let _permit = permits.acquire().await.map_err(io::Error::other)?;
            timeout(CONNECT_LIMIT, connect(&load, index)).await?
        }));
    }
    for (index, task) in tasks.into_iter().enumerate() {
        let (reader, writer, rest) = task.await.map_err(io::Error::other)??;
        let (frame, frame_head) = message(load.size, index);
        let mask = mask_of(index);
        let browser = Browser { index, writer, mask, frame: frame.into(), frame_head, out: RefCell::default() };
        let browser = Rc::new(browser);
        load.browsers.borrow_mut().push(Rc::clone(&browser));
        spawn_local(read_echoes(Rc::clone(load), browser, reader, rest));
    }
    Ok(())
}

type Connection = (OwnedReadHalf, OwnedWriteHalf, Vec<u8>);

/// Connects and upgrades with eight headers; the rest is what came behind the response.
async fn connect(load: &Load, index: usize) -> io::Result<Connection> {
    let target = load.targets[index % load.targets.len()];
    let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + index as u32 % SOURCES);
    let socket = TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    socket.set_nodelay(true)?;
    let (mut reader, writer) = socket.connect(target).await?.into_split();
    let nonce = ws::base64(&(index as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835).to_be_bytes());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\nOrigin: http://{target}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nk: c{index}\r\n\r\n"
    );
    writer.try_write(request.as_bytes())?;
    let mut response = Vec::new();
    loop {
        lane::read(&mut reader, &load.read_buffer, |read| response.extend_from_slice(read)).await?;
        if let Some((lines, size)) = ws::head(&response) {
            if !lines[0].starts_with(b"HTTP/1.1 101") {
                return Err(io::Error::other(format!("the gateway answered {}", String::from_utf8_lossy(lines[0]))));
            }
            let rest = response.split_off(size);
            return Ok((reader, writer, rest));
        }
    }
}

/// Any mask does; this spares making one for each message.
fn mask_of(index: usize) -> [u8; 4] {
    (index as u32 + 1).wrapping_mul(0x9E37_79B9).to_be_bytes()
}

/// A masked text frame, and the length of its head.
fn message(size: usize, index: usize) -> (Vec<u8>, usize) {
    let mut text = format!(r#"{{"i":"{index:04x}00000000"#);
    let more = format!(r#"","to":"c{index}","text":""#);
    let end = r#""}"#;
    if size >= text.len() + more.len() + end.len() {
        text += &more;
    }
    let room = size.saturating_sub(text.len() + end.len());
    text.extend("sphinx of black quartz, judge my vow; ".chars().cycle().take(room));
    text += end;
    let mut payload = text.into_bytes();
    let mask = mask_of(index);
    ws::apply_mask(&mut payload, mask);
    let mut frame = Vec::new();
    ws::push_frame_head(&mut frame, ws::TEXT, Some(mask), payload.len());
    let head = frame.len();
    frame.append(&mut payload);
    (frame, head)
}

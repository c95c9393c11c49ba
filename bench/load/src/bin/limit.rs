//! The bare limit: a gateway with nothing in it but what the job costs. One thread, no JavaScript, AMQP encoded by
//! hand, one write for all that is ready, and no buffer for a connection that is idle.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    process,
    rc::Rc,
};

use message_engin_bench::{
    amqp,
    args::Args,
    control,
    lane::{self, PREFETCH, Publisher},
    line::{Line, Place},
    ws,
};
use tokio::{
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::spawn_local,
};

const READ_BUFFER: usize = 64 << 10;
/// Connections wait here while thousands come at once.
const BACKLOG: i32 = 4096;
/// What may wait for a browser that reads slowly.
const BACKPRESSURE: usize = 1 << 20;
/// Buffers that the connections lend from each other.
const POOL: usize = 256;
const POOLED: usize = 64 << 10;
const MAX_HEAD: usize = 16 << 10;
const KEY: &[u8] = b"k";

struct Gateway {
    publisher: Rc<Publisher>,
    message: Vec<u8>,
    status: Vec<u8>,
    peers: RefCell<HashMap<Box<[u8]>, Rc<Peer>>>,
    read_buffer: RefCell<Vec<u8>>,
    pool: RefCell<Vec<Vec<u8>>>,
}

struct Peer {
    writer: OwnedWriteHalf,
    key: Box<[u8]>,
    properties: Box<[u8]>,
    out: RefCell<Vec<u8>>,
    /// Somebody will write what is in `out`.
    writing: Cell<bool>,
}

fn main() {
    control::run(async {
        let args = Args::parse();
        let place = Place::of(&args);
        drop(control::commands());

        let mut publishing = Line::open(&place)?;
        publishing.declare_exchanges(&place)?;
        let mut consuming = Line::open(&place)?;
        let queue = format!("{}-{}", place.message_queue, process::id());
        consuming.declare_queue(&queue, &place.message_exchange, &place.message_queue)?;
        consuming.consume(&queue, "gateway", PREFETCH)?;

        let gateway = Rc::new(Gateway {
            publisher: Publisher::start(publishing.into_parts()?),
            message: amqp::publish_to(&place.receive_exchange, &place.receive_queue),
            status: amqp::publish_to(&place.status_exchange, &place.status_queue),
            peers: RefCell::default(),
            read_buffer: RefCell::new(vec![0; READ_BUFFER]),
            pool: RefCell::default(),
        });
        let listener = listen()?;
        let port = listener.local_addr()?.port();
        println!(r#"{{"event":"ready","port":{port},"pid":{}}}"#, process::id());

        let accepting = Rc::clone(&gateway);
        spawn_local(async move {
            loop {
                // A connection that is gone before it was accepted is no reason to end.
                if let Ok((stream, _)) = listener.accept().await {
                    spawn_local(serve(Rc::clone(&accepting), stream));
                }
            }
        });
        deliver(gateway, consuming.into_parts()?).await
    });
}

fn listen() -> io::Result<TcpListener> {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Worker to browser: frames are collected per connection and written once a batch.
async fn deliver(gateway: Rc<Gateway>, connection: (TcpStream, Vec<u8>)) -> io::Result<()> {
    let touched = RefCell::new(Vec::<Rc<Peer>>::new());
    let mut scratch = Vec::new();
    let handle = |delivery: amqp::Delivery<'_>| {
        let Some(key) = amqp::find_header(delivery.properties, KEY) else { return };
        let peers = gateway.peers.borrow();
        let Some(peer) = peers.get(key) else { return };
        let body = delivery.body(&mut scratch);
        let mut out = peer.out.borrow_mut();
        if out.len() > BACKPRESSURE {
            return;
        }
        if out.capacity() == 0 {
            *out = gateway.pool.borrow_mut().pop().unwrap_or_default();
        }
        ws::push_frame_head(&mut out, ws::TEXT, None, body.len());
        out.extend_from_slice(body);
        if !peer.writing.replace(true) {
            touched.borrow_mut().push(Rc::clone(peer));
        }
    };
    let done = || touched.borrow_mut().drain(..).for_each(|peer| gateway.write(peer));
    match lane::consume(connection, handle, done).await? {}
}

impl Gateway {
    /// Writes what waits for a connection, at once if its socket takes it, and else when it does.
    fn write(self: &Rc<Self>, peer: Rc<Peer>) {
        if self.try_write(&peer) {
            peer.writing.set(false);
            return;
        }
        let gateway = Rc::clone(self);
        spawn_local(async move {
            while peer.writer.writable().await.is_ok() && !gateway.try_write(&peer) {}
            peer.writing.set(false);
        });
    }

    /// Whether nothing waits any more.
    fn try_write(&self, peer: &Peer) -> bool {
        let mut out = peer.out.borrow_mut();
        match peer.writer.try_write(&out) {
            Ok(count) if count < out.len() => {
                out.drain(..count);
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Who reads sees that a connection has failed.
            Ok(_) | Err(_) => {}
        }
        let mut empty = std::mem::take(&mut *out);
        empty.clear();
        let mut pool = self.pool.borrow_mut();
        if pool.len() < POOL && empty.capacity() <= POOLED {
            pool.push(empty);
        }
        true
    }

    fn publish_status(&self, peer: &Peer, status: &str) {
        self.publisher.put(&self.status, &peer.properties, status.as_bytes());
    }
}

async fn serve(gateway: Rc<Gateway>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut reader, writer) = stream.into_split();
    let Ok((request, rest)) = read_request(&mut reader, &gateway).await else { return };
    // What comes and goes is told to the broker, so it waits for that as well.
    gateway.publisher.until_room().await;
    let Some((response, key, properties)) = answer(&request) else {
        let _ = writer.try_write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    drop(request);
    if writer.try_write(response.as_bytes()).ok() != Some(response.len()) {
        return;
    }
    drop(response);
    let peer = Rc::new(Peer { writer, key, properties, out: RefCell::default(), writing: Cell::new(false) });
    let before = gateway.peers.borrow_mut().insert(peer.key.clone(), Rc::clone(&peer));
    drop(before);
    let key = String::from_utf8_lossy(&peer.key).into_owned();
    gateway.publish_status(&peer, &format!(r#"{{"status":1,"key":"{key}"}}"#));
    drop(key);

    let code = converse(&gateway, &peer, &mut reader, rest).await;

    let is_current = gateway.peers.borrow().get(&peer.key).is_some_and(|current| Rc::ptr_eq(current, &peer));
    if is_current {
        gateway.peers.borrow_mut().remove(&peer.key);
        let key = String::from_utf8_lossy(&peer.key);
        let status = format!(r#"{{"status":0,"key":"{key}","reasonCode":{code},"description":""}}"#);
        gateway.publish_status(&peer, &status);
    }
}

/// The bytes of the request, and what came behind them.
async fn read_request(reader: &mut OwnedReadHalf, gateway: &Gateway) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        lane::read(reader, &gateway.read_buffer, |read| bytes.extend_from_slice(read)).await?;
        if let Some((_, size)) = ws::head(&bytes) {
            let rest = bytes.split_off(size);
            return Ok((bytes, rest));
        }
        if bytes.len() > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

type Answer = (String, Box<[u8]>, Box<[u8]>);

/// The response, the key of the connection, and the properties of all its messages.
fn answer(request: &[u8]) -> Option<Answer> {
    let (lines, _) = ws::head(request)?;
    let headers: Vec<(Vec<u8>, &[u8])> = lines
        .iter()
        .skip(1)
        .filter_map(|line| ws::field(line))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let find = |wanted: &[u8]| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    let accept = ws::accept_key(find(b"sec-websocket-key")?);
    let key = find(KEY)?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    let properties = amqp::json_properties(headers.iter().map(|(name, value)| (name.as_slice(), *value)));
    Some((response, key.into(), properties.into()))
}

/// Browser to worker, until the close code.
async fn converse(gateway: &Rc<Gateway>, peer: &Rc<Peer>, reader: &mut OwnedReadHalf, mut rest: Vec<u8>) -> u16 {
    const GONE: u16 = 1006;
    if let Some(code) = frames(gateway, peer, &mut rest).1 {
        return code;
    }
    rest.shrink_to_fit();
    loop {
        gateway.publisher.until_room().await;
        let handled = lane::read(reader, &gateway.read_buffer, |read| {
            if rest.is_empty() {
                let (used, code) = frames(gateway, peer, read);
                rest.extend_from_slice(&read[used..]);
                return code;
            }
            rest.extend_from_slice(read);
            let (used, code) = frames(gateway, peer, &mut rest);
            rest.drain(..used);
            if rest.is_empty() {
                rest = Vec::new();
            }
            code
        });
        match handled.await {
            Ok(None) => {}
            Ok(Some(code)) => return code,
            Err(_) => return GONE,
        }
    }
}

/// How many bytes are handled, and the close code if there is one.
fn frames(gateway: &Rc<Gateway>, peer: &Rc<Peer>, bytes: &mut [u8]) -> (usize, Option<u16>) {
    const PROTOCOL_ERROR: u16 = 1002;
    const NO_CODE: u16 = 1005;
    let mut at = 0;
    while let Some(head) = ws::frame_head(&bytes[at..]) {
        let start = at + head.size;
        let Some(payload) = start.checked_add(head.length).and_then(|end| bytes.get_mut(start..end)) else { break };
        let Some(mask) = head.mask.filter(|_| head.last) else { return (at, Some(PROTOCOL_ERROR)) };
        ws::apply_mask(payload, mask);
        at = start + head.length;
        match head.opcode {
            ws::TEXT => gateway.publisher.put(&gateway.message, &peer.properties, payload),
            ws::PING => control_frame(gateway, peer, ws::PONG, payload),
            ws::CLOSE => {
                control_frame(gateway, peer, ws::CLOSE, payload);
                return (at, Some(payload.first_chunk().map_or(NO_CODE, |code| u16::from_be_bytes(*code))));
            }
            _ => {}
        }
    }
    (at, None)
}

fn control_frame(gateway: &Rc<Gateway>, peer: &Rc<Peer>, opcode: u8, payload: &[u8]) {
    let mut out = peer.out.borrow_mut();
    ws::push_frame_head(&mut out, opcode, None, payload.len());
    out.extend_from_slice(payload);
    drop(out);
    if !peer.writing.replace(true) {
        gateway.write(Rc::clone(peer));
    }
}

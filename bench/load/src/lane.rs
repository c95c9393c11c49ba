//! What is per message: publishes in one write for all that is ready, deliveries from one buffer, acks in multiples.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::spawn_local,
};

use crate::{amqp, control::fail};

/// What may wait for the broker before producers must.
const ROOM: usize = 4 << 20;
/// What a buffer may keep when it is empty.
const KEPT: usize = 1 << 20;

/// Unacknowledged messages that the broker may send; all gateways and workers here have the same.
pub const PREFETCH: u16 = 256;
/// Acknowledged at once.
const ACK_COUNT: u64 = 128;
/// Or after this time.
const ACK_DELAY: Duration = Duration::from_millis(10);

fn gone() -> io::Error {
    io::Error::other("the broker closed the connection")
}

pub struct Publisher {
    writer: OwnedWriteHalf,
    waiting: RefCell<Vec<u8>>,
    wake: Notify,
    room: Notify,
}

impl Publisher {
    /// Starts to write what is put here, and ends the process when the broker refuses it.
    pub fn start((stream, early): (TcpStream, Vec<u8>)) -> Rc<Self> {
        let (reader, writer) = stream.into_split();
        let publisher = Rc::new(Self { writer, waiting: RefCell::default(), wake: Notify::new(), room: Notify::new() });
        let writing = Rc::clone(&publisher);
        spawn_local(async move {
            let Err(error) = writing.write().await;
            fail(&error);
        });
        spawn_local(async move {
            let Err(error) = Inbox::new(reader, early).each(|_| {}, || {}).await;
            fail(&error);
        });
        publisher
    }

    pub fn put(&self, publish: &[u8], properties: &[u8], body: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            self.wake.notify_one();
        }
        amqp::push_message(&mut waiting, publish, properties, body);
    }

    fn has_room(&self) -> bool {
        self.waiting.borrow().len() < ROOM
    }

    pub async fn until_room(&self) {
        while !self.has_room() {
            self.room.notified().await;
        }
    }

    async fn write(&self) -> io::Result<std::convert::Infallible> {
        let mut bytes = Vec::new();
        loop {
            self.wake.notified().await;
            std::mem::swap(&mut bytes, &mut *self.waiting.borrow_mut());
            self.room.notify_waiters();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match self.writer.try_write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writer.writable().await?,
                    Err(error) => return Err(error),
                }
            }
            bytes.clear();
            bytes.shrink_to(KEPT);
        }
    }
}

/// What comes from the broker, in one buffer.
pub struct Inbox {
    reader: OwnedReadHalf,
    bytes: Vec<u8>,
    /// What has been read and not been handled.
    filled: std::ops::Range<usize>,
}

impl Inbox {
    fn new(reader: OwnedReadHalf, mut early: Vec<u8>) -> Self {
        let filled = 0..early.len();
        early.resize(early.len().max(2 * amqp::FRAME_MAX), 0);
        Self { reader, bytes: early, filled }
    }

    /// Calls `handle` for each delivery and `done` when all that has come is handled.
    async fn each(
        mut self,
        mut handle: impl FnMut(amqp::Delivery<'_>),
        mut done: impl FnMut(),
    ) -> io::Result<std::convert::Infallible> {
        loop {
            loop {
                match amqp::step(&self.bytes[self.filled.clone()])? {
                    amqp::Step::Delivery(delivery, size) => {
                        handle(delivery);
                        self.filled.start += size;
                    }
                    amqp::Step::Skip(size) => self.filled.start += size,
                    amqp::Step::Incomplete => break,
                }
            }
            done();
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.bytes.len() - self.filled.end < amqp::FRAME_MAX {
            self.bytes.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
            if self.bytes.len() - self.filled.end < amqp::FRAME_MAX {
                self.bytes.resize(2 * self.bytes.len(), 0);
            }
        }
        let mut space = ReadBuf::new(&mut self.bytes[self.filled.end..]);
        poll_fn(|context| Pin::new(&mut self.reader).poll_read(context, &mut space)).await?;
        let count = space.filled().len();
        self.filled.end += count;
        if count == 0 { Err(gone()) } else { Ok(()) }
    }
}

/// Calls `handle` for each delivery, `done` after each batch of them, and acknowledges them.
pub async fn consume(
    (stream, early): (TcpStream, Vec<u8>),
    mut handle: impl FnMut(amqp::Delivery<'_>),
    done: impl FnMut(),
) -> io::Result<std::convert::Infallible> {
    let (reader, writer) = stream.into_split();
    let acks = Rc::new(Acks { writer, last: Cell::new(0), acknowledged: Cell::new(0), timer: Cell::new(false) });
    let handle = |delivery: amqp::Delivery<'_>| {
        acks.last.set(delivery.tag);
        handle(delivery);
        acks.note();
    };
    Inbox::new(reader, early).each(handle, done).await
}

struct Acks {
    writer: OwnedWriteHalf,
    last: Cell<u64>,
    acknowledged: Cell<u64>,
    timer: Cell<bool>,
}

impl Acks {
    fn note(self: &Rc<Self>) {
        if self.last.get() - self.acknowledged.get() >= ACK_COUNT {
            self.send();
        } else if !self.timer.replace(true) {
            let acks = Rc::clone(self);
            spawn_local(async move {
                tokio::time::sleep(ACK_DELAY).await;
                acks.timer.set(false);
                acks.send();
            });
        }
    }

    fn send(&self) {
        let last = self.last.get();
        if self.acknowledged.get() == last {
            return;
        }
        let frame = amqp::ack(last);
        match self.writer.try_write(&frame) {
            Ok(count) if count == frame.len() => self.acknowledged.set(last),
            // The next one tries again.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) => fail(&gone()),
            Err(error) => fail(&error),
        }
    }
}

/// Waits for bytes and hands them to `handle`, out of a buffer that all connections share: one that is idle has none.
pub async fn read<T>(
    reader: &mut OwnedReadHalf,
    shared: &RefCell<Vec<u8>>,
    mut handle: impl FnMut(&mut [u8]) -> T,
) -> io::Result<T> {
    poll_fn(|context| {
        let mut bytes = shared.borrow_mut();
        let mut space = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *reader).poll_read(context, &mut space) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let read = space.filled_mut();
        if read.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(handle(read)))
    })
    .await
}

//! The writing end of a connection: frames gather in one buffer and go out in one write.

use futures_util::FutureExt;
use lapin::protocol::{AMQPClass, connection};
use tokio::io::AsyncWriteExt;
use tokio::time::{Duration, Instant};

use super::frame_reader::{Broken, HEARTBEAT_FRAME, method_frame};
use super::stream::WriteEnd;

/// The buffer is given back when a large batch has made it grow beyond this.
const KEEP: usize = 512 * 1024;

/// Every write may be dropped half-way: the rest of what has begun goes out before anything else does.
pub struct FrameWriter {
    stream: WriteEnd,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are out.
    written: usize,
    /// Where in `buffer` each message begins that its owner wants back unless it goes out.
    starts: Vec<usize>,
    wrote: Instant,
}

impl FrameWriter {
    pub fn new(stream: WriteEnd) -> Self {
        FrameWriter { stream, buffer: Vec::new(), written: 0, starts: Vec::new(), wrote: Instant::now() }
    }

    /// Nothing may wait in it.
    pub fn into_stream(self) -> WriteEnd {
        debug_assert_eq!(self.written, self.buffer.len());
        self.stream
    }

    /// Whether the broker has sent something that nobody has read yet, where only this end can tell.
    pub fn has_unread(&self) -> bool {
        self.stream.has_unread()
    }

    /// Begins a batch: what a write that was dropped had not begun is its owner's again and is forgotten here.
    pub fn begin(&mut self) {
        let begun = self.starts.iter().find(|start| **start >= self.written);
        self.buffer.truncate(begun.copied().unwrap_or(self.buffer.len()));
        self.starts.clear();
        self.buffer.drain(..self.written);
        self.written = 0;
    }

    /// Where the next message of the batch is to be appended.
    pub fn next_message(&mut self) -> &mut Vec<u8> {
        self.starts.push(self.buffer.len());
        &mut self.buffer
    }

    /// Writes the batch; `begun` is called for each message as soon as a part of it is out.
    pub async fn flush(&mut self, mut begun: impl FnMut()) -> Result<(), Broken> {
        let mut next = 0;
        while self.written < self.buffer.len() {
            let count = self.stream.write(&self.buffer[self.written..]).await?;
            if count == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
            }
            self.written += count;
            while self.starts.get(next).is_some_and(|start| *start < self.written) {
                begun();
                next += 1;
            }
        }
        self.stream.flush().await?;
        self.wrote = Instant::now();
        if self.buffer.capacity() > KEEP {
            (self.buffer, self.written) = (Vec::new(), 0);
            self.starts.clear();
        }
        Ok(())
    }

    /// Writes whole frames. Once this has been polled they go out, now or before whatever is next.
    pub async fn write(&mut self, frames: &[u8]) -> Result<(), Broken> {
        self.begin();
        self.buffer.extend_from_slice(frames);
        self.flush(|| ()).await
    }

    pub async fn method(&mut self, channel: u16, class: &AMQPClass) -> Result<(), Broken> {
        self.write(&method_frame(channel, class)).await
    }

    /// connection.close.
    pub async fn send_close(&mut self) -> Result<(), Broken> {
        let close = connection::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
        self.method(0, &AMQPClass::Connection(connection::AMQPMethod::Close(close))).await
    }

    /// Sends a heartbeat if nothing has gone out for `quiet`, and does not wait: a socket that is full has bytes on their
    /// way, which say the same.
    pub fn send_heartbeat(&mut self, quiet: Duration) -> Result<(), Broken> {
        if self.wrote.elapsed() < quiet {
            return Ok(());
        }
        self.begin();
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&HEARTBEAT_FRAME);
        }
        self.flush(|| ()).now_or_never().unwrap_or(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::broker::rabbitmq::stream;

    /// More than a socket takes while nobody reads.
    const LARGE: usize = 32 << 20;

    async fn writer() -> (FrameWriter, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (FrameWriter::new(stream::plain(near).1), far)
    }

    async fn all(mut far: TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_half_way_is_finished_by_the_next() {
        let (mut writer, far) = writer().await;
        let first = vec![1; LARGE];
        assert!(writer.write(&first).now_or_never().is_none(), "the socket took all of it at once");
        let reading = tokio::spawn(all(far));
        writer.write(&[2, 2]).await.unwrap();
        drop(writer);
        let bytes = reading.await.unwrap();
        assert_eq!(bytes.len(), LARGE + 2);
        assert!(bytes.starts_with(&first) && bytes.ends_with(&[1, 2, 2]));
    }

    #[tokio::test]
    async fn of_a_batch_that_is_dropped_only_what_has_begun_goes_out() {
        let (mut writer, far) = writer().await;
        writer.begin();
        for (octet, size) in [(1, 10), (2, LARGE), (3, 10)] {
            writer.next_message().extend(std::iter::repeat_n(octet, size));
        }
        let mut begun = 0;
        assert!(writer.flush(|| begun += 1).now_or_never().is_none());
        assert_eq!(begun, 2);
        let reading = tokio::spawn(all(far));
        writer.write(&[4]).await.unwrap();
        drop(writer);
        let bytes = reading.await.unwrap();
        assert_eq!(bytes.len(), 10 + LARGE + 1);
        assert!(bytes.ends_with(&[2, 4]));
    }

    #[tokio::test]
    async fn a_full_socket_gets_no_heartbeat_and_a_quiet_one_does() {
        let (mut writer, far) = writer().await;
        writer.send_heartbeat(Duration::from_secs(60)).unwrap();
        writer.send_heartbeat(Duration::ZERO).unwrap();
        assert!(writer.write(&vec![1; LARGE]).now_or_never().is_none());
        writer.send_heartbeat(Duration::ZERO).unwrap();
        let reading = tokio::spawn(all(far));
        writer.write(&[]).await.unwrap();
        drop(writer);
        let bytes = reading.await.unwrap();
        assert_eq!(bytes.len(), HEARTBEAT_FRAME.len() + LARGE);
        assert!(bytes.starts_with(&HEARTBEAT_FRAME) && bytes.ends_with(&[1]));
    }
}

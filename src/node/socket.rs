//! A plain TCP socket taken over from Node: a duplicate of its descriptor, and the bytes that Node had read already.

use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::runtime;
use crate::connection::SendQueue;

/// How long a refused client has to take its answer and close.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// Holds a client's connection while keyFn runs. Dropped unanswered, it closes.
#[napi]
pub struct Socket {
    stream: Option<std::net::TcpStream>,
    head: Vec<u8>,
}

#[napi]
impl Socket {
    /// Duplicates the descriptor (F_DUPFD_CLOEXEC) and keeps `head`, which came behind the upgrade request. After this
    /// Node's own socket is destroyed.
    #[napi(factory, catch_unwind)]
    pub fn reserve(fd: i32, head: Buffer) -> Result<Self> {
        let stream =
            duplicate(fd).map_err(|error| Error::from_reason(format!("EBADF||cannot take over a socket: {error}")))?;
        Ok(Socket { stream: Some(stream), head: head.to_vec() })
    }

    /// Whether the client has gone in the meantime. Data that waits before its end counts as being here.
    #[napi(catch_unwind)]
    pub fn is_gone(&self) -> bool {
        let Some(stream) = &self.stream else { return true };
        match stream.peek(&mut [0]) {
            Ok(count) => count == 0 && self.head.is_empty(),
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Closes without a word.
    #[napi(catch_unwind)]
    pub fn destroy(&mut self) {
        self.stream = None;
    }

    /// Writes a whole HTTP response and closes, in good order, so that the answer is not lost to a reset.
    #[napi(catch_unwind)]
    pub fn reject(&mut self, response: Buffer) -> Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let response = response.to_vec();
        runtime()?.spawn(async move {
            let _ = tokio::time::timeout(REFUSAL_PATIENCE, refuse(stream, response)).await;
        });
        Ok(())
    }
}

async fn refuse(stream: std::net::TcpStream, response: Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    stream.write_all(&response).await?;
    stream.shutdown().await?;
    let mut scratch = [0; 1024];
    while stream.read(&mut scratch).await? > 0 {}
    Ok(())
}

impl Socket {
    pub(super) fn take(&mut self) -> Option<(std::net::TcpStream, Vec<u8>)> {
        Some((self.stream.take()?, std::mem::take(&mut self.head)))
    }
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "borrowing the descriptor that Node owns")]
fn duplicate(fd: i32) -> std::io::Result<std::net::TcpStream> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: Node calls this synchronously from its 'upgrade' event, with the descriptor of a socket that it has not
    // destroyed; it stays open until after the call, and only its duplicate is kept.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stream = std::net::TcpStream::from(borrowed.try_clone_to_owned()?);
    // Fails for what is no socket, and for a socket of another family.
    stream.local_addr()?;
    if socket_type(&stream)? != libc::SOCK_STREAM {
        return Err(std::io::Error::other("it is no stream socket"));
    }
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "getsockopt")]
fn socket_type(socket: &impl std::os::fd::AsRawFd) -> std::io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let (option, room) = (libc::SO_TYPE, (&raw mut value).cast());
    // SAFETY: `value` has room for as many bytes as `length` says.
    let status = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, room, &raw mut length) };
    if status == 0 { Ok(value) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> std::io::Result<std::net::TcpStream> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// What the kernel tells about the bytes that a socket was given.
pub(super) fn tcp_send_queue(stream: &TcpStream) -> Option<SendQueue> {
    #[cfg(target_os = "linux")]
    {
        linux::send_queue(std::os::fd::AsRawFd::as_raw_fd(stream))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = stream;
        None
    }
}

/// The same for a descriptor that Node owns and has not closed.
pub(super) fn send_queue(fd: i32) -> Option<SendQueue> {
    #[cfg(target_os = "linux")]
    {
        linux::send_queue(fd)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::RawFd;

    use super::SendQueue;

    /// Where `tcpi_bytes_acked` lies in struct tcp_info (linux/tcp.h, since Linux 4.1). The C libraries do not all know it.
    const BYTES_ACKED: std::ops::Range<usize> = 120..128;

    /// None of what is no TCP socket, or closed.
    #[allow(unsafe_code, reason = "system calls that only fill what they are given")]
    pub(super) fn send_queue(fd: RawFd) -> Option<SendQueue> {
        let mut info = [0_u8; BYTES_ACKED.end];
        let mut length = libc::socklen_t::try_from(info.len()).ok()?;
        // SAFETY: the kernel writes at most `length` bytes to `info`, and answers with an error for a descriptor that is not
        // a TCP socket.
        let told = unsafe {
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
        };
        if told != 0 || (length as usize) < BYTES_ACKED.end {
            return None;
        }
        let mut pending: libc::c_int = 0;
        // SAFETY: writes one int to `pending`.
        let told = unsafe { libc::ioctl(fd, libc::TIOCOUTQ as _, &raw mut pending) };
        if told != 0 {
            return None;
        }
        let acknowledged = u64::from_ne_bytes(info[BYTES_ACKED].try_into().ok()?);
        Some(SendQueue { acknowledged, pending: usize::try_from(pending).ok()? })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::duplicate;

    #[test]
    fn connected_tcp_sockets_alone_are_taken_over() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let taken = duplicate(stream.as_raw_fd()).unwrap();
        assert_eq!(taken.peer_addr().unwrap(), listener.local_addr().unwrap());

        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (pipe, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for fd in [datagrams.as_raw_fd(), pipe.as_raw_fd(), file.as_raw_fd(), -1, i32::MAX] {
            assert!(duplicate(fd).is_err());
        }
    }
}

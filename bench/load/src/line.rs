//! A connection to the broker while it is being set up: one request at a time, and blocking.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use crate::{
    amqp::{self, CHANNEL, CHANNEL_CLOSE, CONNECTION_CLOSE, Encoder, FRAME_MAX},
    args::Args,
};

/// Where the broker is and what things are called there.
pub struct Place {
    address: String,
    login: String,
    password: String,
    pub receive_exchange: String,
    pub receive_queue: String,
    pub status_exchange: String,
    pub status_queue: String,
    pub message_exchange: String,
    pub message_queue: String,
}

impl Place {
    pub fn of(args: &Args) -> Self {
        let name = |name: &str| format!("{}{name}", args.text("prefix"));
        Self {
            address: args.text("broker").to_owned(),
            login: args.value_or("login", "guest".to_owned()),
            password: args.value_or("password", "guest".to_owned()),
            receive_exchange: name("receiveExchange"),
            receive_queue: name("receiveQueue"),
            status_exchange: name("statusExchange"),
            status_queue: name("statusQueue"),
            message_exchange: name("messageExchange"),
            message_queue: name("messageQueue"),
        }
    }
}

pub struct Line {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// Deliveries that came between two answers.
    early: Vec<u8>,
}

impl Line {
    /// Logs in and opens the one channel.
    pub fn open(place: &Place) -> io::Result<Self> {
        let stream = TcpStream::connect(&place.address)?;
        stream.set_nodelay(true)?;
        let mut line = Self { stream, inbox: Vec::new(), early: Vec::new() };
        line.call(b"AMQP\0\0\x09\x01", (10, 10))?;
        let login = format!("\0{}\0{}", place.login, place.password);
        let arguments = Encoder::default().table([]).short_text(b"PLAIN").long_text(login.as_bytes());
        line.call(&amqp::method(0, (10, 11), arguments.short_text(b"en_US")), (10, 30))?;
        // No heartbeat: nothing here lives for long.
        let tune = Encoder::default().short(2047).long(FRAME_MAX as u32).short(0);
        line.stream.write_all(&amqp::method(0, (10, 31), tune))?;
        let vhost = Encoder::default().short_text(b"/").octet(0).octet(0);
        line.call(&amqp::method(0, (10, 40), vhost), (10, 41))?;
        line.call(&amqp::method(CHANNEL, (20, 10), Encoder::default().octet(0)), (20, 11))?;
        Ok(line)
    }

    pub fn declare_exchanges(&mut self, place: &Place) -> io::Result<()> {
        let exchanges = [
            (&place.receive_exchange, "direct"),
            (&place.status_exchange, "direct"),
            (&place.message_exchange, "fanout"),
        ];
        for (name, kind) in exchanges {
            const AUTO_DELETE: u8 = 1 << 2;
            let arguments = Encoder::default().short(0).short_text(name.as_bytes()).short_text(kind.as_bytes());
            self.call(&amqp::method(CHANNEL, (40, 10), arguments.octet(AUTO_DELETE).table([])), (40, 11))?;
        }
        Ok(())
    }

    /// Declares and binds a transient queue that goes with its last consumer.
    pub fn declare_queue(&mut self, queue: &str, exchange: &str, key: &str) -> io::Result<()> {
        const AUTO_DELETE: u8 = 1 << 3;
        let queue = queue.as_bytes();
        let arguments = Encoder::default().short(0).short_text(queue).octet(AUTO_DELETE).table([]);
        self.call(&amqp::method(CHANNEL, (50, 10), arguments), (50, 11))?;
        let arguments = Encoder::default().short(0).short_text(queue).short_text(exchange.as_bytes());
        let arguments = arguments.short_text(key.as_bytes()).octet(0).table([]);
        self.call(&amqp::method(CHANNEL, (50, 20), arguments), (50, 21))
    }

    pub fn consume(&mut self, queue: &str, consumer: &str, prefetch: u16) -> io::Result<()> {
        let arguments = Encoder::default().long(0).short(prefetch).octet(0);
        self.call(&amqp::method(CHANNEL, (60, 10), arguments), (60, 11))?;
        let arguments = Encoder::default().short(0).short_text(queue.as_bytes()).short_text(consumer.as_bytes());
        self.call(&amqp::method(CHANNEL, (60, 20), arguments.octet(0).table([])), (60, 21))
    }

    fn call(&mut self, request: &[u8], answer: (u16, u16)) -> io::Result<()> {
        self.stream.write_all(request)?;
        loop {
            while let Some(frame) = amqp::frame(&self.inbox) {
                let size = frame.size;
                match frame.method() {
                    Some(method) if method == answer => {
                        self.inbox.drain(..size);
                        return Ok(());
                    }
                    Some(CONNECTION_CLOSE | CHANNEL_CLOSE) => return Err(amqp::closing(&frame)),
                    _ => self.early.extend(self.inbox.drain(..size)),
                }
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes)?;
            if count == 0 {
                return Err(io::Error::other("the broker closed the connection"));
            }
            self.inbox.extend_from_slice(&bytes[..count]);
        }
    }

    /// The connection for what is per message, and what it has brought already.
    pub fn into_parts(mut self) -> io::Result<(tokio::net::TcpStream, Vec<u8>)> {
        self.stream.set_nonblocking(true)?;
        self.early.append(&mut self.inbox);
        Ok((tokio::net::TcpStream::from_std(self.stream)?, self.early))
    }
}

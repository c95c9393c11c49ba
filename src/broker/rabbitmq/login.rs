//! One AMQP connection and one or more channels on it: login, tune, open (AMQP 0-9-1, section 2.2.4).

use std::net::SocketAddr;
use std::time::Duration;

use lapin::protocol::{AMQPClass, basic, channel, connection};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::net::TcpStream;

use super::frame_reader::{BASIC_DELIVER, Broken, FrameReader, METHOD, close_channel, method_frame, parse_method};
use super::frame_writer::FrameWriter;
use super::stream::{self, ReadEnd};
use super::tls::{self, Tls};
use crate::broker::FRAME_MAX;
use crate::config::{AuthMechanism, BrokerSettings};
use crate::error::{Error, Result};
use crate::host::DeliveryExecutor;

const CHANNEL_MAX: u16 = 2047;

/// One address of a host.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The name in the server's certificate, unless the settings have another.
    pub host: String,
    pub address: SocketAddr,
}

pub struct AmqpConnection {
    pub reader: FrameReader<ReadEnd>,
    pub writer: FrameWriter,
    pub frame_max: usize,
    /// None: no heartbeats.
    pub heartbeat: Option<Duration>,
    address: String,
}

impl AmqpConnection {
    /// Connects to one address and logs in.
    pub async fn open(settings: &BrokerSettings, tls: Option<&Tls>, endpoint: &Endpoint) -> Result<AmqpConnection> {
        let address = settings.address.clone();
        let connect = async {
            let tcp = dial(endpoint.address, settings.no_delay).await?;
            match tls {
                None => Ok(stream::plain(tcp)),
                Some(tls) => tls.connect(&endpoint.host, tcp).await.map(stream::secure),
            }
        };
        let (reader, writer) = connect.await.map_err(|error| unreachable(&error, address.clone()))?;
        let reader = FrameReader::new(reader, FRAME_MAX);
        let writer = FrameWriter::new(writer);
        let mut opened = AmqpConnection { reader, writer, frame_max: 0, heartbeat: None, address };
        opened.log_in(settings).await?;
        Ok(opened)
    }

    /// The same, with what comes read at `executor` where that can be; and whether it can.
    pub fn read_at(self, executor: &dyn DeliveryExecutor) -> Result<(AmqpConnection, bool)> {
        let (reader, rest) = self.reader.into_parts();
        let ends = stream::read_at(executor, (reader, self.writer.into_stream()));
        let (reader, writer) = ends.map_err(|error| unreachable(&error, self.address.clone()))?;
        let moved = matches!(reader, ReadEnd::Moved(_));
        let (reader, writer) = (rest.with_stream(reader), FrameWriter::new(writer));
        Ok((AmqpConnection { reader, writer, ..self }, moved))
    }

    async fn log_in(&mut self, settings: &BrokerSettings) -> Result<()> {
        self.write(b"AMQP\x00\x00\x09\x01").await?;
        let greeting = self.method(0).await.map_err(|error| self.foreign(error))?;
        let AMQPClass::Connection(connection::AMQPMethod::Start(start)) = greeting else {
            return Err(self.unexpected("something else than connection.start"));
        };
        let mechanism = mechanism(settings.auth_mechanism);
        let offered = start.mechanisms.to_string();
        if !offered.split(' ').any(|offer| offer == mechanism) {
            let detail = format!("it does not offer the login mechanism {mechanism}, only {offered}");
            return Err(Error::Refused { code: "ACCESS_REFUSED", address: self.address.clone(), detail });
        }
        self.send(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: client_properties(settings),
            mechanism: mechanism.into(),
            response: response(settings).into(),
            locale: "en_US".into(),
        }))
        .await?;
        let AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) = self.method(0).await? else {
            return Err(self.unexpected("something else than connection.tune"));
        };
        let largest = FRAME_MAX as u32;
        let frame_max = if tune.frame_max == 0 { largest } else { tune.frame_max.clamp(4096, largest) };
        let heartbeat = match (tune.heartbeat, settings.heartbeat) {
            (0, ours) | (_, ours @ 0) => ours,
            (theirs, ours) => ours.min(theirs),
        };
        self.send(connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: if tune.channel_max == 0 { CHANNEL_MAX } else { tune.channel_max.min(CHANNEL_MAX) },
            frame_max,
            heartbeat,
        }))
        .await?;
        self.frame_max = frame_max as usize;
        self.reader.set_frame_max(self.frame_max);
        self.heartbeat = (heartbeat > 0).then(|| Duration::from_secs(heartbeat.into()));
        let virtual_host = ShortString::try_new(settings.vhost.as_str()).unwrap_or_default();
        self.send(connection::AMQPMethod::Open(connection::Open { virtual_host })).await?;
        match self.method(0).await? {
            AMQPClass::Connection(connection::AMQPMethod::OpenOk(_)) => Ok(()),
            _ => Err(self.unexpected("something else than connection.open-ok")),
        }
    }

    pub async fn open_channel(&mut self, id: u16) -> Result<()> {
        let open = AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
        match self.call(id, &open).await? {
            AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Ok(()),
            _ => Err(self.unexpected("something else than channel.open-ok")),
        }
    }

    pub async fn close_channel(&mut self, id: u16) -> Result<()> {
        self.call(id, &close_channel()).await.map(|_| ())
    }

    /// connection.close and its answer; a connection that is gone already needs no goodbye.
    pub async fn close(mut self) {
        if self.writer.send_close().await.is_ok() {
            let _ = self.method(0).await;
        }
    }

    /// Sends a method and waits for its answer.
    pub async fn call(&mut self, id: u16, class: &AMQPClass) -> Result<AMQPClass> {
        self.write(&method_frame(id, class)).await?;
        self.method(id).await
    }

    async fn send(&mut self, method: connection::AMQPMethod) -> Result<()> {
        self.write(&method_frame(0, &AMQPClass::Connection(method))).await
    }

    pub async fn write(&mut self, frames: &[u8]) -> Result<()> {
        if self.writer.write(frames).await.is_ok() {
            return Ok(());
        }
        // Whoever hangs up may have said why: a certificate that is missing is a matter of the first bytes after it.
        loop {
            if let Err(broken) = self.reader.fill().await {
                return Err(self.broken(&broken));
            }
        }
    }

    /// Resolves when the broker has answered so many basic.consume. Deliveries that come meanwhile stay in the read buffer.
    pub async fn consume_ok(&mut self, count: usize) -> Result<()> {
        let (mut at, mut answered) = (0, 0);
        while answered < count {
            let Some((kind, payload)) = self.reader.peek_frame(&mut at).map_err(|broken| self.broken(&broken))? else {
                self.reader.fill().await.map_err(|broken| self.broken(&broken))?;
                continue;
            };
            if kind != METHOD || payload.starts_with(&BASIC_DELIVER) {
                continue;
            }
            match parse_method(payload).map_err(|broken| self.broken(&broken))? {
                AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(_)) => answered += 1,
                AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                    return Err(self.refused(close.reply_code, close.reply_text.as_str()));
                }
                AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                    return Err(self.refused(close.reply_code, close.reply_text.as_str()));
                }
                _ => (),
            }
        }
        Ok(())
    }

    /// The next method on a channel.
    async fn method(&mut self, id: u16) -> Result<AMQPClass> {
        loop {
            match self.next().await? {
                (channel, class) if channel == id && !is_about_blocking(&class) => return Ok(class),
                _ => (),
            }
        }
    }

    /// The same, for what a broker that takes no messages does not read: answers its reason then (connection.blocked).
    pub async fn answer_unless_blocked(&mut self, id: u16) -> Result<Option<String>> {
        loop {
            match self.next().await? {
                (_, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked))) => {
                    return Ok(Some(blocked.reason.to_string()));
                }
                (channel, _) if channel == id => return Ok(None),
                _ => (),
            }
        }
    }

    /// The next method; a close, of a channel or of all, is the broker's refusal.
    async fn next(&mut self) -> Result<(u16, AMQPClass)> {
        loop {
            let frame = loop {
                match self.reader.take_frame() {
                    Ok(Some(frame)) => break frame,
                    Ok(None) => self.reader.fill().await.map_err(|broken| self.broken(&broken))?,
                    Err(broken) => return Err(self.broken(&broken)),
                }
            };
            let (kind, channel, payload) = frame;
            if kind != METHOD {
                continue;
            }
            let class = parse_method(&payload).map_err(|broken| self.broken(&broken))?;
            match &class {
                AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
                    return Err(self.refused(close.reply_code, close.reply_text.as_str()));
                }
                AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
                    let answer = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                    self.write(&method_frame(channel, &answer)).await?;
                    return Err(self.refused(close.reply_code, close.reply_text.as_str()));
                }
                _ => return Ok((channel, class)),
            }
        }
    }

    /// The error for a server whose first bytes are not AMQP 0-9-1, when they show which protocol it speaks.
    fn foreign(&self, error: Error) -> Error {
        let detail = match self.reader.unread() {
            // A TLS record: an alert or a handshake message, of TLS 1.x.
            [0x15 | 0x16, 3, ..] => {
                "this port speaks TLS: use an amqps: url or mqConf.ssl, or give the broker's port without TLS \
                 (5672 by default)"
                    .to_owned()
            }
            [b'H', b'T', b'T', b'P', b'/', ..] => {
                "this port speaks HTTP: give the broker's port for AMQP (5672 by default), not its management's"
                    .to_owned()
            }
            [b'A', b'M', b'Q', b'P', version @ ..] => {
                format!("it speaks another version of AMQP (its header says {version:?}): AMQP 0-9-1 is needed")
            }
            _ => return error,
        };
        self.unexpected(&detail)
    }

    fn broken(&self, broken: &Broken) -> Error {
        match broken {
            Broken::Io(error) => unreachable(error, self.address.clone()),
            _ => self.unexpected(&broken.to_string()),
        }
    }

    fn refused(&self, code: u16, text: &str) -> Error {
        Error::Refused { code: reply_code(code), address: self.address.clone(), detail: text.to_owned() }
    }

    pub fn unexpected(&self, what: &str) -> Error {
        Error::Unreachable { code: "EPROTO", address: self.address.clone(), detail: what.to_owned() }
    }
}

/// They come on the channel of the login, between its answers.
fn is_about_blocking(class: &AMQPClass) -> bool {
    use connection::AMQPMethod::{Blocked, Unblocked};
    matches!(class, AMQPClass::Connection(Blocked(_) | Unblocked(_)))
}

async fn dial(address: SocketAddr, no_delay: bool) -> std::io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    let _ = tcp.set_nodelay(no_delay);
    Ok(tcp)
}

pub fn mechanism(of: AuthMechanism) -> &'static str {
    match of {
        AuthMechanism::Amqplain => "AMQPLAIN",
        AuthMechanism::Plain => "PLAIN",
        AuthMechanism::External => "EXTERNAL",
        AuthMechanism::Anonymous => "ANONYMOUS",
    }
}

fn response(settings: &BrokerSettings) -> Vec<u8> {
    match settings.auth_mechanism {
        AuthMechanism::External | AuthMechanism::Anonymous => Vec::new(),
        AuthMechanism::Plain => format!("\0{}\0{}", settings.login, settings.password).into_bytes(),
        AuthMechanism::Amqplain => {
            // The entries of a field table, without its length.
            let mut out = Vec::new();
            for (name, value) in [("LOGIN", &settings.login), ("PASSWORD", &settings.password)] {
                out.push(name.len() as u8);
                out.extend_from_slice(name.as_bytes());
                out.push(b'S');
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value.as_bytes());
            }
            out
        }
    }
}

fn client_properties(settings: &BrokerSettings) -> FieldTable {
    let mut table = table(&settings.client_properties);
    let mut capabilities = FieldTable::default();
    for capability in
        ["authentication_failure_close", "consumer_cancel_notify", "connection.blocked", "publisher_confirms"]
    {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    table.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    table
}

fn table<'a>(entries: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        if let Ok(name) = ShortString::try_new(name.as_str()) {
            table.insert(name, field(value));
        }
    }
    table
}

fn field(value: &serde_json::Value) -> AMQPValue {
    use serde_json::Value;
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::Number(number) => match number.as_i64() {
            Some(value) => i32::try_from(value).map_or(AMQPValue::LongLongInt(value), AMQPValue::LongInt),
            None => AMQPValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(values) => AMQPValue::FieldArray(values.iter().map(field).collect::<Vec<_>>().into()),
        Value::Object(entries) => AMQPValue::FieldTable(table(entries)),
    }
}

pub fn unreachable(error: &std::io::Error, address: String) -> Error {
    let (code, detail) = tls::failure(error).unwrap_or_else(|| (io_code(error), error.to_string()));
    Error::Unreachable { code, address, detail }
}

/// The constants of AMQP 0-9-1, section 1.1 of its generated documentation.
pub fn reply_code(id: u16) -> &'static str {
    match id {
        311 => "CONTENT_TOO_LARGE",
        312 => "NO_ROUTE",
        313 => "NO_CONSUMERS",
        320 => "CONNECTION_FORCED",
        402 => "INVALID_PATH",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        506 => "RESOURCE_ERROR",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        _ => "INTERNAL_ERROR",
    }
}

pub fn io_code(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => "ECONNREFUSED",
        Kind::ConnectionReset | Kind::UnexpectedEof | Kind::BrokenPipe => "ECONNRESET",
        Kind::ConnectionAborted => "ECONNABORTED",
        Kind::TimedOut => "ETIMEDOUT",
        Kind::HostUnreachable => "EHOSTUNREACH",
        Kind::NetworkUnreachable => "ENETUNREACH",
        Kind::AddrNotAvailable => "EADDRNOTAVAIL",
        Kind::NotFound => "ENOTFOUND",
        // The resolver's errors have no kind of their own in std.
        _ if error.to_string().contains("lookup") => "ENOTFOUND",
        _ => "EIO",
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn no_delay_is_what_the_settings_say() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for no_delay in [true, false] {
            assert_eq!(dial(address, no_delay).await.unwrap().nodelay().unwrap(), no_delay);
        }
    }
}

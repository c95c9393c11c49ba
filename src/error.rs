//! What can go wrong, and what JavaScript sees of it: `code`, the address where there is one, and a sentence.

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The broker could not be reached. JavaScript: the code of the system call (`ECONNREFUSED`, `ENOTFOUND`, ...).
    Unreachable { code: &'static str, address: String, detail: String },
    /// The broker did not answer in time. JavaScript: `ETIMEDOUT`.
    TimedOut { address: String, after_ms: u64 },
    /// The broker answered with an AMQP error. JavaScript: its name in AMQP 0-9-1 (`ACCESS_REFUSED`, `NOT_ALLOWED`, ...).
    Refused { code: &'static str, address: String, detail: String },
    /// The connection to the broker was there and went away. JavaScript: `ERR_CONNECTION_LOST`.
    Lost { address: String, detail: String },
    /// Something was asked of a gateway or client after its `close`. JavaScript: `ERR_CLOSED`.
    Closed { what: &'static str },
    /// A value that cannot be carried. JavaScript: `ERR_INVALID_ARG_VALUE`.
    Invalid { detail: String },
    /// Headers that do not fit into one frame of the broker. JavaScript: `ERR_HEADERS_TOO_LARGE`.
    HeadersTooLarge { bytes: usize, limit: usize },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Error::Unreachable { code, .. } | Error::Refused { code, .. } => code,
            Error::TimedOut { .. } => "ETIMEDOUT",
            Error::Lost { .. } => "ERR_CONNECTION_LOST",
            Error::Closed { .. } => "ERR_CLOSED",
            Error::Invalid { .. } => "ERR_INVALID_ARG_VALUE",
            Error::HeadersTooLarge { .. } => "ERR_HEADERS_TOO_LARGE",
        }
    }

    /// The broker's address, without login or password; empty where the error is not about a broker.
    pub fn address(&self) -> &str {
        match self {
            Error::Unreachable { address, .. }
            | Error::TimedOut { address, .. }
            | Error::Refused { address, .. }
            | Error::Lost { address, .. } => address,
            Error::Closed { .. } | Error::Invalid { .. } | Error::HeadersTooLarge { .. } => "",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable { code, address, detail } => {
                write!(f, "cannot reach the broker at {address}: {code} ({detail})")
            }
            Error::TimedOut { address, after_ms } => {
                write!(f, "the broker at {address} did not answer within {after_ms} ms")
            }
            Error::Refused { address, detail, .. } => {
                write!(f, "the broker at {address} refused: {detail}")
            }
            Error::Lost { address, detail } => {
                write!(f, "the connection to the broker at {address} was lost: {detail}")
            }
            Error::Closed { what } => write!(f, "the {what} is closed"),
            Error::Invalid { detail } => f.write_str(detail),
            // As lib/native/header-limit.js says it.
            Error::HeadersTooLarge { bytes, limit } => write!(
                f,
                "the headers take {bytes} bytes, and a frame of the broker carries {limit}: put large values, such as a \
                 long list of keys, into the message"
            ),
        }
    }
}

impl std::error::Error for Error {}

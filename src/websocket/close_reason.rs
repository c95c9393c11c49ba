//! Why a connection ended: what status 0 says.

/// A close that this side asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseReason {
    pub code: u16,
    pub reason: &'static str,
}

/// The gateway ends.
pub const GOING_AWAY: CloseReason = CloseReason { code: 1001, reason: "Server is shutting down" };
/// The gateway ends, and another takes over: clients should come back, in their own time (IANA's registry for RFC 6455).
pub const RESTARTING: CloseReason = CloseReason { code: 1012, reason: "Service restart" };
/// A newer connection took the key. In the range that RFC 6455 leaves to applications, so that a page can tell it from a
/// failure and need not reconnect.
pub const REPLACED: CloseReason = CloseReason { code: 4001, reason: "Replaced by a newer connection" };
/// What waits for the browser has outgrown `maxBackpressure`.
pub const TOO_SLOW: CloseReason = CloseReason { code: 1013, reason: "Too slow to take its messages" };

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseStatus {
    pub code: u16,
    pub description: String,
}

impl CloseStatus {
    pub(crate) fn new(code: u16, description: impl Into<String>) -> CloseStatus {
        CloseStatus { code, description: description.into() }
    }

    /// The other side's close frame; an empty reason is told in the words of the code.
    pub(crate) fn closed(frame: Option<&(u16, String)>) -> CloseStatus {
        match frame {
            None => CloseStatus::new(1005, meaning(1005)),
            Some((code, reason)) if reason.is_empty() => CloseStatus::new(*code, meaning(*code)),
            Some((code, reason)) => CloseStatus::new(*code, reason.clone()),
        }
    }

    pub(crate) fn dropped() -> CloseStatus {
        CloseStatus::new(1006, "Connection dropped by remote peer.")
    }

    pub(crate) fn silent() -> CloseStatus {
        CloseStatus::new(1006, "Peer not responding.")
    }
}

impl From<CloseReason> for CloseStatus {
    fn from(order: CloseReason) -> CloseStatus {
        CloseStatus::new(order.code, order.reason)
    }
}

/// The texts that WebSocket-Node gives the codes of RFC 6455, section 7.4.1.
fn meaning(code: u16) -> &'static str {
    match code {
        1000 => "Normal connection closure",
        1001 => "Remote peer is going away",
        1002 => "Protocol error",
        1003 => "Unprocessable input",
        1004 => "Reserved",
        1005 => "Reason not provided",
        1006 => "Abnormal closure, no further detail available",
        1007 => "Invalid data received",
        1008 => "Policy violation",
        1009 => "Message too big",
        1010 => "Extension requested by client is required",
        1011 => "Internal Server Error",
        1015 => "TLS Handshake Failed",
        _ => "",
    }
}

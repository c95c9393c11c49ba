//! Which message a body is: every one of a run is its own.

/// A message of a run. Connections, workers and keys are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Label {
    /// The nth from a browser's connection.
    Up {
        conn: u32,
        n: u32,
    },
    /// The nth from a worker, for the keys of a bit mask.
    Down {
        worker: u32,
        keys: u32,
        n: u32,
    },
    /// Status 1 and status 0 of a connection, with its key.
    On {
        conn: u32,
        key: u32,
    },
    Off {
        conn: u32,
        key: u32,
    },
}

impl Label {
    pub fn body(self, padding: usize) -> String {
        let padding = "x".repeat(padding);
        match self {
            Label::Up { conn, n } => format!("u {conn} {n} {padding}"),
            Label::Down { worker, keys, n } => format!("d {worker} {keys} {n} {padding}"),
            // The gateway writes these.
            Label::On { .. } | Label::Off { .. } => String::new(),
        }
    }

    /// What a connection's keyFn has returned: goes into its statuses.
    pub fn key_json(conn: u32, key: u32) -> String {
        format!("\"{key}/{conn}\"")
    }

    pub fn of(body: &[u8]) -> Label {
        let text = std::str::from_utf8(body).expect("a body is text");
        let mut words = text.split(' ');
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).expect("a number in a body");
        match text.as_bytes().first() {
            Some(b'u') => {
                words.next();
                Label::Up { conn: number(words.next()), n: number(words.next()) }
            }
            Some(b'd') => {
                words.next();
                Label::Down { worker: number(words.next()), keys: number(words.next()), n: number(words.next()) }
            }
            _ => {
                let mut quoted = text.split('"');
                // {"status":1,"key":"3/17"
                let (_, _, status, _, _, value) =
                    (quoted.next(), quoted.next(), quoted.next(), quoted.next(), quoted.next(), quoted.next());
                let (key, conn) = value.and_then(|value| value.split_once('/')).expect("a status with its key");
                let (key, conn) = (number(Some(key)), number(Some(conn)));
                if status == Some(":1,") { Label::On { conn, key } } else { Label::Off { conn, key } }
            }
        }
    }

    pub fn is_for(self, key: u32) -> bool {
        matches!(self, Label::Down { keys, .. } if keys & (1 << key) != 0)
    }

    /// Of a browser's connection: whose, and where in its order, its statuses at both ends.
    pub fn place(self) -> Option<(u32, u32)> {
        match self {
            Label::On { conn, .. } => Some((conn, 0)),
            Label::Up { conn, n } => Some((conn, n + 1)),
            Label::Off { conn, .. } => Some((conn, u32::MAX)),
            Label::Down { .. } => None,
        }
    }
}

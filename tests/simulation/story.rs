//! What happens, told line by line where a single seed runs (`-- --nocapture`).

use std::cell::Cell;
use std::sync::OnceLock;

use tokio::time::Instant;

thread_local!(static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) });

pub fn begin() {
    BEGAN.set(Some(Instant::now()));
}

pub fn is_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var_os("MESSAGE_ENGIN_SEED").is_some())
}

/// ms of the run's own time.
pub fn now() -> u128 {
    BEGAN.get().map_or(0, |began| began.elapsed().as_millis())
}

macro_rules! story {
    ($($text:tt)*) => {
        if $crate::story::is_wanted() {
            eprintln!("{:>6} {}", $crate::story::now(), format_args!($($text)*));
        }
    };
}
pub(crate) use story;

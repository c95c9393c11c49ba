//! The committed seeds of the fuzz targets run through them, without libFuzzer, on any toolchain.

use std::fs;
use std::path::Path;

use input::{Dice, Input, cuts, delivered, encoded};

// The targets are a crate of their own, with a lock file and a build of its own; what is tested there is this one.
#[path = "../fuzz/src/content.rs"]
mod content;
#[cfg(feature = "fuzzing")]
#[path = "../fuzz/src/delivery.rs"]
mod delivery;
#[path = "../fuzz/src/frames.rs"]
mod frames;
#[path = "../fuzz/src/headers_json.rs"]
mod headers_json;
#[path = "../fuzz/src/input.rs"]
mod input;
#[path = "../fuzz/src/keys.rs"]
mod keys;
#[path = "../fuzz/src/rfc6455.rs"]
mod rfc6455;
#[path = "../fuzz/src/settings.rs"]
mod settings;
#[path = "../fuzz/src/table.rs"]
mod table;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{target} has no seeds");
    run(b"");
}

macro_rules! publish_queues {
    ($($(#[$attribute:meta])* $target:ident)*) => {
        $($(#[$attribute])*
        #[test]
        fn $target() {
            replay(stringify!($target), $target::run);
        })*
    };
}

publish_queues! {
    content
    #[cfg(feature = "fuzzing")]
    delivery
    frames
    headers_json
    keys
    settings
    table
}

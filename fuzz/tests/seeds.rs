//! The committed seeds through their targets, without libFuzzer.

use std::fs;
use std::path::Path;

use message_engin_fuzz::{content, delivery, frames, headers_json, keys, settings, table};

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
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

macro_rules! targets {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target), $target::run);
        })*
    };
}

targets!(content delivery frames headers_json keys settings table);

//! Standard input carries commands, a line each, and its end ends the process: nothing outlives its parent.

use std::{io, process, thread};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The commands as they come.
pub fn commands() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lines() {
            let Ok(line) = line else { break };
            if line == "settle" {
                // Whoever has garbage to collect does so now; there is none here.
                println!(r#"{{"event":"settled"}}"#);
            } else {
                let _ = sender.send(line);
            }
        }
        process::exit(0);
    });
    receiver
}

/// Runs a program on one thread: measured, a second one gains a gateway nothing on a busy machine.
pub fn run(main: impl Future<Output = io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, main)
    });
    if let Err(error) = runtime {
        fail(&error);
    }
}

pub fn fail(error: &io::Error) -> ! {
    eprintln!("{error}");
    process::exit(1);
}

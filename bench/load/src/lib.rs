//! What the three programs of the measurements share.
//!
//! - `load` plays the browsers, `limit` is a gateway and `worker` an echo worker, both as bare as they can be.
//! - [`amqp`] and [`ws`] are as much of the two protocols as these need, encoded by hand and without I/O.
//! - [`line`] opens connections to the broker and declares the topology, [`lane`] carries what is per message.
//! - [`control`] is how the parent process talks to all of them.

pub mod amqp;
pub mod args;
pub mod control;
pub mod histogram;
pub mod lane;
pub mod line;
pub mod ws;

//! What has to hold for bytes from outside, one module for each fuzz target.
//!
//! The targets in `targets/` are these functions under libFuzzer; `tests/seeds.rs` of the crate above runs them over the
//! committed seeds.

pub mod content;
pub mod delivery;
pub mod frames;
pub mod headers_json;
pub mod keys;
pub mod settings;
pub mod table;

mod input;
mod rfc6455;

pub use input::{Dice, Input, cuts, delivered, encoded};

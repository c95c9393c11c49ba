//! RFC 6455 as bytes: frames in and out. No I/O.

pub mod close_reason;
pub mod frame_decoder;
pub mod frame_encoder;

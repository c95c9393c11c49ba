//! AMQP 0-9-1 as bytes: field tables and properties. No I/O.

pub mod header_interner;
pub mod headers;
pub mod properties;
pub mod table;

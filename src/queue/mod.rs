//! Queues between tasks, bounded in bytes.

pub mod byte_queue;
pub mod waker_queue;

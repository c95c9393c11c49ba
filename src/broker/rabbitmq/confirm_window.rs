//! What has been published and not confirmed, in the order of publishing (RabbitMQ's publisher confirms).

use std::collections::VecDeque;

use crate::message::OutboundMessage;
use crate::queue::byte_queue::Weight;

/// Messages, and bytes, that may be unconfirmed before publishing waits.
const MAX_MESSAGES: usize = 1024;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Sequence numbers count from 1 on each channel.
#[derive(Default)]
pub struct ConfirmWindow {
    /// None: confirmed out of turn.
    slots: VecDeque<Option<OutboundMessage>>,
    /// Sequence number of what was in front of the first slot.
    before: u64,
    bytes: usize,
}

impl ConfirmWindow {
    pub fn push(&mut self, message: OutboundMessage) {
        self.bytes += message.weight();
        self.slots.push_back(Some(message));
    }

    /// The number of the message that has waited longest.
    pub fn oldest(&self) -> Option<u64> {
        self.slots.front().and(Some(self.before + 1))
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() >= MAX_MESSAGES || self.bytes >= MAX_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes out what a confirm, positive or negative, is about: one message, or all up to it.
    pub fn settle(&mut self, number: u64, multiple: bool, mut each: impl FnMut(OutboundMessage)) {
        let Some(index) = number.checked_sub(self.before + 1).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let end = self.slots.len().min(index.saturating_add(1));
        let first = if multiple { 0 } else { index.min(end) };
        for slot in self.slots.range_mut(first..end) {
            if let Some(message) = slot.take() {
                self.bytes -= message.weight();
                each(message);
            }
        }
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.before += 1;
        }
    }

    /// All that is not confirmed, in order; the next sequence number is 1 again.
    pub fn take(&mut self) -> impl Iterator<Item = OutboundMessage> + use<> {
        let slots = std::mem::take(self).slots;
        slots.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Headers, JSON, Properties, Route};

    fn window(count: u64) -> ConfirmWindow {
        let properties = Arc::new(Properties::new(JSON, &Headers::default()));
        let mut window = ConfirmWindow::default();
        for number in 1..=count {
            let mut message = OutboundMessage::new(Route::Receive, properties.clone(), bytes::Bytes::new());
            message.id.number = number;
            window.push(message);
        }
        window
    }

    fn left(window: &mut ConfirmWindow) -> Vec<u64> {
        window.take().map(|message| message.id.number).collect()
    }

    #[test]
    fn confirms_come_one_by_one_out_of_turn_and_in_ranges() {
        let mut window = window(10);
        let mut settled = Vec::new();
        for (number, multiple) in [(3, false), (2, true), (7, false), (5, true), (5, true), (99, false)] {
            window.settle(number, multiple, |message| settled.push(message.id.number));
        }
        assert_eq!(settled, [3, 1, 2, 7, 4, 5]);
        assert_eq!(left(&mut window), [6, 8, 9, 10]);
        assert!(window.is_empty());
        assert_eq!(window.bytes, 0);
    }

    #[test]
    fn it_is_full_by_count_and_empty_when_all_is_confirmed() {
        let mut window = window(MAX_MESSAGES as u64);
        assert!(window.is_full());
        window.settle(1, false, drop);
        assert!(!window.is_full());
        window.settle(MAX_MESSAGES as u64, true, drop);
        assert!(window.is_empty());
        window.settle(MAX_MESSAGES as u64 + 1, true, drop);
    }
}

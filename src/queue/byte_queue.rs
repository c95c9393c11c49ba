//! A queue between tasks that is bounded in bytes: a full one holds its producers back, nothing in it is ever dropped.
//!
//! A std Mutex is right here: it is held for a few instructions and never across an await.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::waker_queue::WakerQueue;

/// What an item weighs, in bytes.
pub trait Weight {
    fn weight(&self) -> usize;
}

/// How full the buffer is after a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// There is room for more.
    Room,
    /// The limit is reached: the producer should wait for room.
    Full,
}

/// Why an item was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    Full(T),
    Closed(T),
}

pub struct ByteQueue<T> {
    state: Mutex<QueueState<T>>,
    limit: usize,
}

struct QueueState<T> {
    items: VecDeque<T>,
    weight: usize,
    consumer: Option<Waker>,
    producers: WakerQueue,
    closed: bool,
    /// Nothing is taken out for now: producers are to hold on, whatever the level.
    held: bool,
    /// Items that came after the end and were let go.
    refused: u64,
}

impl<T: Weight> ByteQueue<T> {
    /// `limit` in bytes. An item heavier than the limit is taken when the buffer is empty, so that it can pass at all.
    pub fn new(limit: usize) -> Self {
        let state = QueueState {
            items: VecDeque::new(),
            weight: 0,
            consumer: None,
            producers: WakerQueue::default(),
            closed: false,
            held: false,
            refused: 0,
        };
        ByteQueue { state: Mutex::new(state), limit }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        // A panic elsewhere leaves the queue itself whole: each change below is complete before anything can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the item if there is room.
    pub fn try_push(&self, item: T) -> Result<Level, Refused<T>> {
        let mut state = self.lock();
        let level = state.push(item, self.limit, self.limit);
        let waker = state.consumer_of(level.is_ok());
        drop(state);
        wake(waker);
        level
    }

    /// Takes the item up to another limit than the buffer's own, without waking the consumer. Answers whether it is the
    /// only one.
    pub fn push_quietly(&self, item: T, limit: usize) -> Result<bool, Refused<T>> {
        let mut state = self.lock();
        let first = state.items.is_empty();
        state.push(item, limit, self.limit).map(|_| first)
    }

    /// Wakes the consumer, if it waits.
    pub fn wake(&self) {
        let consumer = self.lock().consumer.take();
        wake(consumer);
    }

    /// Takes items in order, up to the first that is refused, and wakes the consumer once for all of them. Answers how many
    /// were taken, and the level after the last, or why the next was not.
    pub fn push_all_within(
        &self,
        items: impl IntoIterator<Item = T>,
        limit: usize,
    ) -> (usize, Result<Level, Refused<T>>) {
        let mut state = self.lock();
        let mut taken = 0;
        let mut last = Ok(Level::Room);
        for item in items {
            last = state.push(item, limit, self.limit);
            if last.is_err() {
                break;
            }
            taken += 1;
        }
        let waker = state.consumer_of(taken > 0);
        drop(state);
        wake(waker);
        (taken, last)
    }

    /// Takes the item whatever the level: for the few that must not wait (a status) and are bounded by something else.
    pub fn force_push(&self, item: T) {
        let mut state = self.lock();
        if state.closed {
            state.refused += 1;
            return;
        }
        state.add(item);
        let waker = state.consumer_of(true);
        drop(state);
        wake(waker);
    }

    /// Takes `item` out of its Option when there is room. A closed buffer takes it too, and lets it go.
    pub fn poll_push(&self, cx: &mut Context<'_>, item: &mut Option<T>) -> Poll<()> {
        let Some(value) = item.take() else { return self.poll_held(cx) };
        match self.try_push(value) {
            Ok(_) => self.poll_held(cx),
            Err(Refused::Closed(_)) => {
                self.lock().refused += 1;
                Poll::Ready(())
            }
            Err(Refused::Full(value)) => {
                let weight = value.weight();
                *item = Some(value);
                let limit = self.limit;
                self.wait_until(cx, |state| state.items.is_empty() || state.weight + weight <= limit)
            }
        }
    }

    /// Producers that wait for room before they make the next item hold on while the buffer is held.
    fn poll_held(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.lock();
        if state.closed || !state.held {
            return Poll::Ready(());
        }
        drop(state);
        self.wait_until(cx, |state| !state.held)
    }

    /// Resolves when there is room and nobody is to hold on.
    pub async fn calm(&self) {
        self.waiting(|cx| self.poll_held(cx)).await;
        self.room().await;
    }

    /// Whether producers hold on although there is room. Answers whether they did before.
    pub fn hold(&self, held: bool) -> bool {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.held, held);
        let producers = if held { Vec::new() } else { state.producers.take() };
        drop(state);
        producers.into_iter().for_each(Waker::wake);
        before
    }

    /// Resolves when the level is below the limit.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.lock();
        if state.closed || state.weight < self.limit {
            return Poll::Ready(());
        }
        drop(state);
        self.wait_until(cx, |state| state.weight < self.limit)
    }

    pub async fn room(&self) {
        self.waiting(|cx| self.poll_room(cx)).await;
    }

    /// Resolves when so many bytes find room, at the latest when nothing else waits.
    pub async fn room_for(&self, weight: usize, limit: usize) {
        let fits = |state: &QueueState<T>| {
            state.closed || state.items.is_empty() || state.weight.saturating_add(weight) <= limit
        };
        let poll = |cx: &mut Context<'_>| {
            if fits(&self.lock()) { Poll::Ready(()) } else { self.wait_until(cx, fits) }
        };
        self.waiting(poll).await;
    }

    /// Polls until it is ready. Whoever gives up before that is forgotten here.
    async fn waiting(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<()>) {
        let mut waiting = WaitingProducer { buffer: self, waker: None };
        poll_fn(|cx| {
            let ready = poll(cx);
            waiting.waker = ready.is_pending().then(|| cx.waker().clone());
            ready
        })
        .await;
    }

    fn wait_until(&self, cx: &mut Context<'_>, there_is_room: impl FnOnce(&QueueState<T>) -> bool) -> Poll<()> {
        let mut state = self.lock();
        // The consumer may have been here since the refusal.
        if state.closed || there_is_room(&state) {
            cx.waker().wake_by_ref();
        } else {
            state.producers.add(cx.waker());
        }
        Poll::Pending
    }

    /// One item, without waiting and without registering for more.
    pub fn try_pop(&self) -> Option<T> {
        self.pop_if(|_| true)
    }

    /// The same, of an item that is wanted.
    pub fn pop_if(&self, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        state.items.front().filter(|item| is_wanted(item))?;
        let item = state.items.pop_front()?;
        state.weight -= item.weight();
        let wakers = state.relieved(self.limit);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Some(item)
    }

    /// One item; None once the buffer is closed and empty.
    pub fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(item) = self.try_pop() {
            return Poll::Ready(Some(item));
        }
        match self.poll_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(false) => Poll::Ready(None),
            // Pushed since the look above.
            Poll::Ready(true) => Poll::Ready(self.try_pop()),
        }
    }

    /// Whether there is an item (true), or will never be one again (false).
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.lock();
        if !state.items.is_empty() {
            return Poll::Ready(true);
        }
        if state.closed {
            return Poll::Ready(false);
        }
        state.wait(cx);
        Poll::Pending
    }

    /// Waits for something, then moves what is ready to the end of `into`: at most `count` items, and none beyond `bytes`
    /// in all. False once the buffer is closed and empty.
    pub async fn drain(&self, into: &mut VecDeque<T>, count: usize, bytes: usize) -> bool {
        let Some(first) = poll_fn(|cx| self.poll_pop(cx)).await else { return false };
        let mut total = first.weight();
        into.push_back(first);
        let mut state = self.lock();
        while into.len() < count {
            let Some(next) = state.items.front() else { break };
            let weight = next.weight();
            if total + weight > bytes {
                break;
            }
            total += weight;
            state.weight -= weight;
            into.extend(state.items.pop_front());
        }
        let wakers = state.relieved(self.limit);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        true
    }

    /// Puts items back at the front, in their order: what a lost connection had not taken.
    pub fn put_back(&self, items: &mut VecDeque<T>) {
        let mut state = self.lock();
        while let Some(item) = items.pop_back() {
            state.weight += item.weight();
            state.items.push_front(item);
        }
        let waker = state.consumer.take();
        drop(state);
        wake(waker);
    }

    /// Bytes that wait.
    pub fn weight(&self) -> usize {
        self.lock().weight
    }

    /// Items that came after the end and were let go.
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    pub fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Takes nothing more; what is in it can still be taken out.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let consumer = state.consumer.take();
        let producers = state.producers.take();
        drop(state);
        wake(consumer);
        producers.into_iter().for_each(Waker::wake);
    }

    /// Lets go of everything that waits; returns how many items that were.
    pub fn clear(&self) -> usize {
        let mut state = self.lock();
        let items = std::mem::take(&mut state.items);
        state.weight = 0;
        let wakers = state.relieved(self.limit);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        items.len()
    }
}

/// A producer that has a place among those who wait.
struct WaitingProducer<'a, T: Weight> {
    buffer: &'a ByteQueue<T>,
    waker: Option<Waker>,
}

impl<T: Weight> Drop for WaitingProducer<'_, T> {
    fn drop(&mut self) {
        if let Some(waker) = &self.waker {
            self.buffer.lock().producers.remove(waker);
        }
    }
}

impl<T> QueueState<T> {
    fn wait(&mut self, cx: &mut Context<'_>) {
        if !self.consumer.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.consumer = Some(cx.waker().clone());
        }
    }

    /// Whoever waits for items, where there are some.
    fn consumer_of(&mut self, any: bool) -> Option<Waker> {
        if any { self.consumer.take() } else { None }
    }

    /// Producers are woken at half the limit, not at the first free byte: they come back once for many items.
    fn relieved(&mut self, limit: usize) -> Vec<Waker> {
        if self.items.is_empty() {
            // An idle connection keeps no queue memory.
            self.items = VecDeque::new();
        }
        if !self.producers.is_empty() && (self.items.is_empty() || self.weight < limit / 2) {
            self.producers.take()
        } else {
            Vec::new()
        }
    }
}

impl<T: Weight> QueueState<T> {
    fn push(&mut self, item: T, limit: usize, full: usize) -> Result<Level, Refused<T>> {
        if self.closed {
            return Err(Refused::Closed(item));
        }
        if !self.items.is_empty() && self.weight.saturating_add(item.weight()) > limit {
            return Err(Refused::Full(item));
        }
        self.add(item);
        Ok(if self.held || self.weight >= full { Level::Full } else { Level::Room })
    }

    fn add(&mut self, item: T) {
        self.weight += item.weight();
        self.items.push_back(item);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use futures_util::FutureExt;

    use super::*;

    impl Weight for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    #[test]
    fn refuses_beyond_its_limit_and_gives_the_item_back() {
        let buffer = ByteQueue::new(10);
        assert_eq!(buffer.try_push(6), Ok(Level::Room));
        assert_eq!(buffer.try_push(5), Err(Refused::Full(5)));
        assert_eq!(buffer.try_push(4), Ok(Level::Full));
        assert_eq!(buffer.weight(), 10);
    }

    #[test]
    fn an_item_heavier_than_the_limit_passes_an_empty_buffer() {
        let buffer = ByteQueue::new(10);
        assert_eq!(buffer.try_push(50), Ok(Level::Full));
        assert_eq!(buffer.try_push(1), Err(Refused::Full(1)));
        assert_eq!(buffer.try_pop(), Some(50));
        assert_eq!(buffer.weight(), 0);
    }

    #[tokio::test]
    async fn a_full_buffer_holds_its_producer_until_half_is_free() {
        let buffer = std::sync::Arc::new(ByteQueue::new(10));
        buffer.force_push(5);
        buffer.force_push(5);
        let producer = tokio::spawn({
            let buffer = buffer.clone();
            async move {
                let mut item = Some(3);
                poll_fn(|cx| buffer.poll_push(cx, &mut item)).await;
            }
        });
        tokio::task::yield_now().await;
        assert!(!producer.is_finished());
        assert_eq!(buffer.try_pop(), Some(5));
        assert_eq!(buffer.try_pop(), Some(5));
        producer.await.unwrap();
        assert_eq!(buffer.try_pop(), Some(3));
    }

    #[test]
    fn many_are_taken_up_to_the_first_that_finds_no_room() {
        let buffer = ByteQueue::new(10);
        assert_eq!(buffer.push_all_within([4, 5], 20), (2, Ok(Level::Room)));
        assert_eq!(buffer.push_all_within([5, 6, 7, 1], 20), (2, Err(Refused::Full(7))));
        assert_eq!(buffer.push_all_within([], 20), (0, Ok(Level::Room)));
        buffer.close();
        assert_eq!(buffer.push_all_within([1], 20), (0, Err(Refused::Closed(1))));
        assert_eq!(buffer.weight(), 20);
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_forgotten() {
        let buffer = ByteQueue::new(10);
        buffer.force_push(10);
        for _ in 0..3 {
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), buffer.room()).await;
            assert!(waited.is_err() && buffer.lock().producers.is_empty());
        }
    }

    #[tokio::test]
    async fn a_large_item_waits_for_as_much_room_as_it_needs() {
        let buffer = ByteQueue::new(10);
        buffer.force_push(4);
        assert!(buffer.room_for(6, 10).now_or_never().is_some());
        assert!(buffer.room_for(7, 10).now_or_never().is_none());
        buffer.try_pop();
        assert!(buffer.room_for(50, 10).now_or_never().is_some());
    }

    #[tokio::test]
    async fn drains_in_order_within_count_and_bytes_and_puts_back_in_order() {
        let buffer = ByteQueue::new(100);
        (1..=6).for_each(|item| buffer.force_push(item));
        let mut batch = VecDeque::new();
        assert!(buffer.drain(&mut batch, 10, 6).await);
        assert_eq!(batch, [1, 2, 3]);
        batch.pop_front();
        buffer.put_back(&mut batch);
        assert!(buffer.drain(&mut batch, 3, 100).await);
        assert_eq!(batch, [2, 3, 4]);
        assert_eq!(buffer.weight(), 11);
    }

    #[test]
    fn a_closed_buffer_holds_nobody() {
        let buffer = ByteQueue::new(10);
        buffer.hold(true);
        let mut calm = Box::pin(buffer.calm());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(calm.as_mut().poll(&mut cx).is_pending());
        buffer.close();
        assert!(calm.as_mut().poll(&mut cx).is_ready());
        assert!(buffer.poll_push(&mut cx, &mut Some(1)).is_ready());
    }

    #[tokio::test]
    async fn a_closed_buffer_ends_after_its_last_item() {
        let buffer = ByteQueue::new(10);
        buffer.force_push(1);
        buffer.close();
        assert_eq!(buffer.try_push(2), Err(Refused::Closed(2)));
        let mut batch = VecDeque::new();
        assert!(buffer.drain(&mut batch, 10, 10).await);
        assert!(!buffer.drain(&mut batch, 10, 10).await);
    }
}

//! Branches of one task that are each polled only when they were woken themselves.
//!
//! A task that waits for several things polls all of them whenever one has come. The line waits for five and more, and for
//! each message it is woken twice: most of what that cost was looking at what had not come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// A future with a waker of its own, for `select!`.
pub struct WakeFiltered<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    flag: Arc<WakeFlag>,
    waker: Waker,
}

struct WakeFlag {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<'a, T> WakeFiltered<'a, T> {
    pub fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        // It has to be polled once before anything can wake it.
        let flag = Arc::new(WakeFlag { woken: AtomicBool::new(true), task: AtomicWaker::new() });
        WakeFiltered { future: Box::pin(future), waker: flag.clone().into(), flag }
    }
}

impl<T> Future for WakeFiltered<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // First, so that no ring between the look and the registration is missed.
        self.flag.task.register(cx.waker());
        if !self.flag.woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let WakeFiltered { future, waker, .. } = &mut *self;
        future.as_mut().poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_was_not_woken_is_not_polled() {
        let (quiet, loud) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut waiting = WakeFiltered::new(poll_fn(|_| {
            quiet.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        }));
        let mut busy = WakeFiltered::new(poll_fn(|cx| {
            if loud.fetch_add(1, Ordering::Relaxed) == 100 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }));
        tokio::select! {
            () = &mut waiting => unreachable!(),
            () = &mut busy => (),
        }
        assert_eq!(quiet.load(Ordering::Relaxed), 1);
        assert_eq!(loud.load(Ordering::Relaxed), 101);
    }

    #[tokio::test]
    async fn a_wake_from_elsewhere_reaches_the_task_that_polls_it_now() {
        let (sender, receiver) = oneshot::channel();
        let mut apart = WakeFiltered::new(receiver);
        assert!((&mut apart).now_or_never().is_none());
        // Another task than the one that polled it first.
        let (first, second) = tokio::join!(tokio::spawn(apart), async { sender.send(7) });
        second.unwrap();
        assert_eq!(first.unwrap(), Ok(7));
    }
}

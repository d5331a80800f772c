//! What others leave for a driver: pushed from anywhere, taken as a batch, waking the driver once per batch.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

#[derive(Debug)]
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    bound: usize,
}

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    /// Of the driver, if it has taken all there was since it was woken last.
    waker: Option<Waker>,
    closed: bool,
}

impl<T> Queue<T> {
    /// Holds at most `bound` items.
    pub fn new(bound: usize) -> Queue<T> {
        Queue { inner: Mutex::new(Inner { items: Vec::new(), waker: None, closed: false }), bound }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing panics while it holds the lock, and a queue is whole between any two of its operations.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item and wakes the driver; gives the item back if the queue is full or closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let waker = {
            let mut inner = self.lock();
            if inner.closed || inner.items.len() >= self.bound {
                return Err(item);
            }
            inner.items.push(item);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes all there is into `into`, which is empty, and has the next push wake `waker`.
    pub fn take(&self, into: &mut Vec<T>, waker: &Waker) {
        debug_assert!(into.is_empty(), "the batch before was not finished");
        let mut inner = self.lock();
        mem::swap(&mut inner.items, into);
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
    }

    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Refuses items from now on, and drops those it has.
    pub fn close(&self) {
        let dropped = {
            let mut inner = self.lock();
            inner.closed = true;
            mem::take(&mut inner.items)
        };
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_once_and_keeps_its_order() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let queue = Queue::new(3);
        let mut batch = Vec::new();
        queue.take(&mut batch, &waker);
        for item in 1..=3 {
            assert_eq!(queue.push(item), Ok(()));
        }
        assert_eq!(queue.push(4), Err(4));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        queue.take(&mut batch, &waker);
        assert_eq!(batch, [1, 2, 3]);
        queue.push(5).unwrap();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
        queue.close();
        assert_eq!((queue.push(6), queue.len()), (Err(6), 0));
    }
}

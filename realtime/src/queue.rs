//! What waits for one socket: bounded in frames and in bytes. Whoever fills it never waits; past a bound the queue ends.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::Notify;

use crate::close::CloseReason;

/// Frames that may wait: some groups of the gateway (1,000 events each) at once.
pub const QUEUE_FRAMES: usize = 4_096;
/// Bytes that may wait: several of the largest events. The frames themselves are shared between sockets.
pub const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// An emptied queue gives memory for more frames than this back; most sockets are idle.
const KEPT_CAPACITY: usize = 16;

#[derive(Default)]
struct State {
    frames: VecDeque<Utf8Bytes>,
    bytes: usize,
    end: Option<CloseReason>,
}

/// Filled by the company's feed, emptied by the one task of the socket.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds a whole queue: no step in between can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; `false` if the queue has ended, or ends now because it is full.
    pub fn push(&self, frame: &Utf8Bytes) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            return false;
        }
        if state.frames.len() >= QUEUE_FRAMES || state.bytes + frame.len() > QUEUE_BYTES {
            drop(state);
            self.end(CloseReason::TooSlow);
            return false;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame.clone());
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Ends the queue; what waits is dropped. The first reason stays.
    pub fn end(&self, reason: CloseReason) {
        let mut state = self.state();
        state.end.get_or_insert(reason);
        state.frames = VecDeque::new();
        state.bytes = 0;
        drop(state);
        self.changed.notify_one();
    }

    /// The next frame. For one waiter at a time; may be dropped without a loss.
    ///
    /// # Errors
    /// The queue has ended.
    pub async fn next(&self) -> Result<Utf8Bytes, CloseReason> {
        loop {
            if let Some(result) = self.take() {
                return result;
            }
            self.changed.notified().await;
        }
    }

    fn take(&self) -> Option<Result<Utf8Bytes, CloseReason>> {
        let mut state = self.state();
        if let Some(reason) = state.end {
            return Some(Err(reason));
        }
        let frame = state.frames.pop_front()?;
        state.bytes -= frame.len();
        if state.frames.is_empty() {
            state.frames.shrink_to(KEPT_CAPACITY);
        }
        Some(Ok(frame))
    }

    /// Waits until it has ended; for while a frame is being sent.
    pub async fn ended(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.state().end {
                return reason;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_order_and_wakes_its_reader() {
        let queue = std::sync::Arc::new(Queue::default());
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move { [queue.next().await, queue.next().await] }
        });
        tokio::task::yield_now().await;
        assert!(queue.push(&"one".into()) && queue.push(&"two".into()));
        assert_eq!(reader.await.unwrap(), [Ok("one".into()), Ok("two".into())]);
    }

    #[tokio::test]
    async fn ends_past_either_bound_and_lets_go_of_what_waited() {
        let large: Utf8Bytes = "x".repeat(QUEUE_BYTES / 4).into();
        for (frame, fits) in [(Utf8Bytes::from_static("x"), QUEUE_FRAMES), (large, 4)] {
            let queue = Queue::default();
            assert_eq!((0..fits).filter(|_| queue.push(&frame)).count(), fits);
            assert!(!queue.push(&frame));
            assert_eq!(queue.state().frames.capacity(), 0);
            assert_eq!((queue.next().await, queue.ended().await), (Err(CloseReason::TooSlow), CloseReason::TooSlow));
            assert!(!queue.push(&frame), "it stays ended");
        }
    }

    #[tokio::test]
    async fn waiting_for_the_end_loses_no_frame() {
        let queue = Queue::default();
        queue.push(&"one".into());
        tokio::select! {
            biased;
            _ = queue.ended() => unreachable!(),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(queue.next().await, Ok("one".into()));
        queue.end(CloseReason::FeedLost);
        queue.end(CloseReason::TooSlow);
        assert_eq!(queue.ended().await, CloseReason::FeedLost);
    }
}

//! What waits for one socket: bounded in bytes. Whoever fills it never waits; past the bound the
//! queue ends.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::error;

use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;

/// An emptied queue gives memory for more frames than this back; most sockets are idle.
const KEPT_CAPACITY: usize = 16;

struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Why it ended, and whether what waits is still handed out.
    end: Option<(CloseReason, bool)>,
}

/// Filled by the company's feed, emptied by the one task of the socket.
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// Bytes that may wait. The frames themselves are shared between sockets.
    room: usize,
}

impl Queue {
    /// For so many bytes.
    pub fn new(room: usize) -> Queue {
        let state = State {
            frames: VecDeque::new(),
            bytes: 0,
            end: None,
        };
        Queue {
            state: Mutex::new(state),
            changed: Notify::new(),
            room,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds a whole queue: no step in between can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame; `false` if the queue has ended, or ends now because it is full.
    pub fn push(&self, frame: &Frame) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            return false;
        }
        if state.bytes + frame.bytes() > self.room {
            drop(state);
            self.end(CloseReason::TooSlow);
            return false;
        }
        state.bytes += frame.bytes();
        state.frames.push_back(frame.clone());
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Adds a frame, if it could be written; else that is logged.
    pub fn push_or_log(&self, frame: Result<Frame, serde_json::Error>) -> bool {
        match frame {
            Ok(frame) => self.push(&frame),
            Err(error) => {
                error!(%error, "a frame cannot be written");
                false
            }
        }
    }

    /// Ends the queue; what waits is dropped. The first reason stays.
    pub fn end(&self, reason: CloseReason) {
        let mut state = self.state();
        let (reason, _) = state.end.unwrap_or((reason, false));
        state.end = Some((reason, false));
        state.frames = VecDeque::new();
        state.bytes = 0;
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the queue after what waits, with one last frame. Whoever wants it to be over in any
    /// case calls [`Queue::end`] later.
    pub fn end_after(&self, last: Option<&Frame>, reason: CloseReason) {
        let mut state = self.state();
        if state.end.is_none() {
            state.frames.extend(last.cloned());
            state.bytes += last.map_or(0, Frame::bytes);
            state.end = Some((reason, true));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The next frame. For one waiter at a time; may be dropped without a loss.
    ///
    /// # Errors
    /// The queue has ended.
    pub async fn next(&self) -> Result<Frame, CloseReason> {
        loop {
            if let Some(result) = self.take() {
                return result;
            }
            self.changed.notified().await;
        }
    }

    /// The next frame or the end, if it is there.
    pub fn take(&self) -> Option<Result<Frame, CloseReason>> {
        let mut state = self.state();
        let Some(frame) = state.frames.pop_front() else {
            return state.end.map(|(reason, _)| Err(reason));
        };
        state.bytes -= frame.bytes();
        if state.frames.is_empty() {
            state.frames.shrink_to(KEPT_CAPACITY);
        }
        Some(Ok(frame))
    }

    /// Waits until it has ended and hands nothing out any more; for while a frame is being sent.
    pub async fn ended(&self) -> CloseReason {
        loop {
            if let Some((reason, false)) = self.state().end {
                return reason;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Room for as much as a test may need.
    pub const ROOM: usize = 1 << 20;

    /// A frame that says `text`.
    pub fn frame(text: &str) -> Frame {
        Frame::passing("test", &text).unwrap()
    }

    /// What frames say.
    pub fn text(result: Result<Frame, CloseReason>) -> Result<String, CloseReason> {
        result.map(|frame| serde_json::from_str(frame.data().get()).unwrap())
    }

    #[tokio::test]
    async fn keeps_order_and_wakes_its_reader() {
        let queue = std::sync::Arc::new(Queue::new(ROOM));
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move { [text(queue.next().await), text(queue.next().await)] }
        });
        tokio::task::yield_now().await;
        assert!(queue.push(&frame("one")) && queue.push(&frame("two")));
        assert_eq!(reader.await.unwrap(), [Ok("one".into()), Ok("two".into())]);
    }

    #[tokio::test]
    async fn ends_past_its_bound_and_lets_go_of_what_waited() {
        for (content, fits) in [(String::new(), 100), ("x".repeat(10_000), 4)] {
            let frame = frame(&content);
            let queue = Queue::new(frame.bytes() * fits);
            assert_eq!((0..fits).filter(|_| queue.push(&frame)).count(), fits);
            assert!(!queue.push(&frame));
            assert_eq!(queue.state().frames.capacity(), 0);
            assert_eq!(
                (text(queue.next().await), queue.ended().await),
                (Err(CloseReason::TooSlow), CloseReason::TooSlow)
            );
            assert!(!queue.push(&frame), "it stays ended");
        }
    }

    #[tokio::test]
    async fn waiting_for_the_end_loses_no_frame() {
        let queue = Queue::new(ROOM);
        queue.push(&frame("one"));
        tokio::select! {
            biased;
            _ = queue.ended() => unreachable!(),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(text(queue.next().await), Ok("one".into()));
        queue.end(CloseReason::FeedLost);
        queue.end(CloseReason::TooSlow);
        assert_eq!(queue.ended().await, CloseReason::FeedLost);
    }

    #[tokio::test]
    async fn a_soft_end_comes_after_what_waits_and_a_hard_one_at_once() {
        let queue = Queue::new(ROOM);
        queue.push(&frame("one"));
        queue.end_after(Some(&frame("last")), CloseReason::GoingAway);
        assert!(!queue.push(&frame("more")));
        assert_eq!(text(queue.next().await), Ok("one".into()));
        assert_eq!(text(queue.next().await), Ok("last".into()));
        assert_eq!(text(queue.next().await), Err(CloseReason::GoingAway));
        let queue = Queue::new(ROOM);
        queue.push(&frame("one"));
        queue.end_after(None, CloseReason::GoingAway);
        queue.end(CloseReason::TooSlow);
        assert_eq!(
            (text(queue.next().await), queue.ended().await),
            (Err(CloseReason::GoingAway), CloseReason::GoingAway)
        );
    }
}

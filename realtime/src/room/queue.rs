//! The frames that wait for one socket, bounded in bytes. Pushing never waits: beyond the bound the
//! queue ends. Writes no frame.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::error;

use super::close_reason::CloseReason;
use super::frame::Frame;

/// Frames for which an empty queue keeps memory. Memory for more frames is given back, because most
/// sockets are idle.
const KEPT_CAPACITY: usize = 16;

struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// Set once the queue has ended.
    end: Option<End>,
}

/// The end of a queue.
#[derive(Clone, Copy)]
struct End {
    reason: CloseReason,
    /// Whether the frames that wait are still handed out.
    drains: bool,
}

/// The queue of one socket. The room's feed fills it, and the task of the socket empties it.
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    /// Bytes that may wait, as [`Frame::bytes`] counts. The frames are shared between sockets.
    limit: usize,
}

impl Queue {
    /// A queue for `limit` bytes.
    pub fn new(limit: usize) -> Queue {
        let state = State {
            frames: VecDeque::new(),
            bytes: 0,
            end: None,
        };
        Queue {
            state: Mutex::new(state),
            changed: Notify::new(),
            limit,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock still holds a whole queue, because no step in between can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame. Returns `false` if the queue has ended, or ends now because it is full.
    pub fn push(&self, frame: &Frame) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            return false;
        }
        if state.bytes + frame.bytes() > self.limit {
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

    /// Adds a frame, or logs that it could not be serialised.
    pub fn push_or_log(&self, frame: Result<Frame, serde_json::Error>) -> bool {
        match frame {
            Ok(frame) => self.push(&frame),
            Err(error) => {
                error!(%error, "a frame cannot be written");
                false
            }
        }
    }

    /// Ends the queue and drops the frames that wait. The first reason stays.
    pub fn end(&self, reason: CloseReason) {
        let mut state = self.state();
        state.end = Some(End {
            reason: state.end.map_or(reason, |end| end.reason),
            drains: false,
        });
        state.frames = VecDeque::new();
        state.bytes = 0;
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the queue after the frames that wait and one last frame. If the socket takes too long,
    /// the caller calls [`Queue::end`] later.
    pub fn end_after(&self, last: Option<&Frame>, reason: CloseReason) {
        let mut state = self.state();
        if state.end.is_none() {
            state.frames.extend(last.cloned());
            state.bytes += last.map_or(0, Frame::bytes);
            state.end = Some(End {
                reason,
                drains: true,
            });
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The next frame. Only one task may wait at a time. Cancelling this future loses no frame.
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

    /// The next frame or the end; `None` if neither is there.
    pub fn take(&self) -> Option<Result<Frame, CloseReason>> {
        let mut state = self.state();
        let Some(frame) = state.frames.pop_front() else {
            return state.end.map(|end| Err(end.reason));
        };
        state.bytes -= frame.bytes();
        if state.frames.is_empty() {
            state.frames.shrink_to(KEPT_CAPACITY);
        }
        Some(Ok(frame))
    }

    /// Waits until the queue has ended and hands no frame out any more. Used while a frame is being
    /// written.
    pub async fn ended(&self) -> CloseReason {
        loop {
            if let Some(end) = self.state().end
                && !end.drains
            {
                return end.reason;
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::server_event::ServerEvent;
    use super::*;

    /// A limit that no test reaches.
    pub const LIMIT: usize = 1 << 20;

    /// A frame with the data `text`.
    pub fn frame(text: &str) -> Frame {
        Frame::passing(ServerEvent::MessageNew, &text).unwrap()
    }

    /// The data of a frame.
    pub fn text(result: Result<Frame, CloseReason>) -> Result<String, CloseReason> {
        result.map(|frame| serde_json::from_str(frame.data().get()).unwrap())
    }

    #[tokio::test]
    async fn a_reader_is_woken_and_gets_the_frames_in_order() {
        let queue = std::sync::Arc::new(Queue::new(LIMIT));
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move { [text(queue.next().await), text(queue.next().await)] }
        });
        tokio::task::yield_now().await;
        assert!(queue.push(&frame("one")) && queue.push(&frame("two")));
        assert_eq!(reader.await.unwrap(), [Ok("one".into()), Ok("two".into())]);
    }

    #[tokio::test]
    async fn a_queue_ends_beyond_its_limit_and_drops_what_waited() {
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
            assert!(!queue.push(&frame), "the queue stays ended");
        }
    }

    #[tokio::test]
    async fn waiting_for_the_end_loses_no_frame() {
        let queue = Queue::new(LIMIT);
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
    async fn a_drained_end_comes_after_what_waits_and_a_plain_end_at_once() {
        let queue = Queue::new(LIMIT);
        queue.push(&frame("one"));
        queue.end_after(Some(&frame("last")), CloseReason::GoingAway);
        assert!(!queue.push(&frame("more")));
        assert_eq!(text(queue.next().await), Ok("one".into()));
        assert_eq!(text(queue.next().await), Ok("last".into()));
        assert_eq!(text(queue.next().await), Err(CloseReason::GoingAway));
        let queue = Queue::new(LIMIT);
        queue.push(&frame("one"));
        queue.end_after(None, CloseReason::GoingAway);
        queue.end(CloseReason::TooSlow);
        assert_eq!(
            (text(queue.next().await), queue.ended().await),
            (Err(CloseReason::GoingAway), CloseReason::GoingAway)
        );
    }
}

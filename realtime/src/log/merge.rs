//! Two subscriptions of one connection as one, in the order of the log. The client puts each
//! message into its subscription's channel as the message comes. Therefore, while one channel is
//! empty, the messages in the other came first. Knows no event.

use async_nats::{Message, Subscriber};
use contract::header;
use futures_util::{FutureExt, StreamExt};
use tokio::task::unconstrained;

/// The sequence of a republished message.
pub fn seq(message: &Message) -> Option<u64> {
    message
        .headers
        .as_ref()?
        .get(header::SEQUENCE)?
        .as_str()
        .parse()
        .ok()
}

/// One of the two subscriptions, with a message that was taken out and not returned yet.
struct Side {
    subscriber: Subscriber,
    held: Option<Message>,
    has_ended: bool,
}

impl Side {
    fn new(subscriber: Subscriber) -> Side {
        Side {
            subscriber,
            held: None,
            has_ended: false,
        }
    }

    async fn fill(&mut self) {
        if self.held.is_none() && !self.has_ended {
            self.held = self.subscriber.next().await;
            self.has_ended = self.held.is_none();
        }
    }

    /// Takes out a message that is there already. Tokio's budget is off for this, because an
    /// exhausted budget would make a full channel look empty.
    fn fill_now(&mut self) {
        let _ = unconstrained(self.fill()).now_or_never();
    }

    fn seq(&self) -> u64 {
        self.held.as_ref().and_then(seq).unwrap_or(0)
    }
}

/// Both subscriptions.
pub struct Merged {
    one: Side,
    two: Side,
}

impl Merged {
    /// Merges two subscriptions of the same connection.
    pub fn new(one: Subscriber, two: Subscriber) -> Merged {
        Merged {
            one: Side::new(one),
            two: Side::new(two),
        }
    }

    /// The next message of either subscription; `None` once one of them has ended. Cancelling this
    /// future loses no message.
    pub async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            () = self.one.fill() => self.two.fill_now(),
            () = self.two.fill() => self.one.fill_now(),
        }
        if self.one.has_ended || self.two.has_ended {
            return None;
        }
        match (&self.one.held, &self.two.held) {
            (Some(_), Some(_)) if self.two.seq() < self.one.seq() => self.two.held.take(),
            (Some(_), _) => self.one.held.take(),
            (None, _) => self.two.held.take(),
        }
    }
}

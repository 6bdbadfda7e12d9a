//! Two subscriptions of one connection as one, in the order of the log. The client puts a message
//! into its subscription's channel as it comes; so while one channel is empty, whatever is in the
//! other came first.

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

/// One of the two, with a message that was taken out and not given yet.
struct Side {
    subscriber: Subscriber,
    held: Option<Message>,
    ended: bool,
}

impl Side {
    async fn fill(&mut self) {
        if self.held.is_none() && !self.ended {
            self.held = self.subscriber.next().await;
            self.ended = self.held.is_none();
        }
    }

    /// Takes out what is there. Not limited by tokio's budget: "nothing there" must be true.
    fn look(&mut self) {
        let _ = unconstrained(self.fill()).now_or_never();
    }

    fn seq(&self) -> u64 {
        self.held.as_ref().and_then(seq).unwrap_or(0)
    }
}

/// Both.
pub struct Merged {
    one: Side,
    two: Side,
}

impl Merged {
    /// Of two subscriptions.
    pub fn new(one: Subscriber, two: Subscriber) -> Merged {
        let side = |subscriber| Side {
            subscriber,
            held: None,
            ended: false,
        };
        Merged {
            one: side(one),
            two: side(two),
        }
    }

    /// The next message of either; `None` once one has ended. May be dropped without a loss.
    pub async fn next(&mut self) -> Option<Message> {
        tokio::select! {
            () = self.one.fill() => self.two.look(),
            () = self.two.fill() => self.one.look(),
        }
        if self.one.ended || self.two.ended {
            return None;
        }
        match (&self.one.held, &self.two.held) {
            (Some(_), Some(_)) if self.two.seq() < self.one.seq() => self.two.held.take(),
            (Some(_), _) => self.one.held.take(),
            (None, _) => self.two.held.take(),
        }
    }
}

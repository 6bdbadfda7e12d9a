//! A hook of a service that looks at each group of events before the group is written. Writes
//! nothing, and knows no rule that a hook may have.

use futures_util::future::BoxFuture;

use crate::log::queue::{Outgoing, PublishError};

/// A check before the group commit. A publisher has at most one.
pub trait PreCommit: Send + 'static {
    /// Returns the events of `group` that must not be written, each as its index with the answer
    /// for its caller. The writing task waits for the future, and with it every event behind the
    /// group: the hook bounds the time that it takes.
    fn check<'a>(
        &'a mut self,
        group: &'a [&'a Outgoing],
    ) -> BoxFuture<'a, Vec<(usize, PublishError)>>;
}

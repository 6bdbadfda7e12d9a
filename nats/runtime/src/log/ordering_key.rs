//! An order that several events of one caller keep in the log, although they are published
//! together. Only a flag that they share; the publisher obeys it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Events that carry clones of one order are stored in the order in which they were queued. Once
/// one of them is not known to be stored, none of the later ones is sent: stored now, they would
/// come before it when it is sent again.
#[derive(Clone, Debug, Default)]
pub struct OrderingKey(Arc<AtomicBool>);

impl OrderingKey {
    /// One of the events is not known to be stored.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`OrderingKey::end`] was called.
    pub fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether both are clones of one.
    pub fn is_same(&self, other: &OrderingKey) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

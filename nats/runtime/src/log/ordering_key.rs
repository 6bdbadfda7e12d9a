//! A key that keeps several events of one caller in order in the log, although they are published
//! together. Only a flag that the events share; the publisher obeys it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Events that carry clones of one key are stored in the order in which they were queued. Once one
/// of them is not known to be stored, no later one is sent. Otherwise the later one would come
/// before the lost one when that is sent again.
#[derive(Clone, Debug, Default)]
pub struct OrderingKey(Arc<AtomicBool>);

impl OrderingKey {
    /// Says that one of the events is not known to be stored.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`OrderingKey::end`] was called on any clone.
    pub fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether both are clones of one key.
    pub fn is_same(&self, other: &OrderingKey) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

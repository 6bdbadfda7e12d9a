//! Events: the changes that the log holds, in one versioned envelope. Pure data; the crate
//! `runtime` publishes them.

mod data;
mod envelope;

pub use data::{
    CompanyCreated, CompanyUpdated, ContactBotResumed, ContactUpdated, IntegrationDeleted,
    IntegrationRefreshFailed, MessageDeleted, MessageDelivery, MessageRead, MessageSlaBreached,
    MessageUpdated,
};
pub use envelope::{Actor, BadEvent, Envelope, Event, Idempotency, VERSION};

#[cfg(test)]
mod tests;

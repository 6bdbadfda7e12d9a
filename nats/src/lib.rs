//! The contract of PetBuddy messaging: the only code that the services share.
//!
//! Without features it is plain data: ids, domain types, events, subjects, queries, and the
//! inventory of streams. It does no I/O then and depends on neither tokio nor axum. With the
//! feature `runtime` it also holds how a service speaks the contract: connection, publish, worker
//! loop, dead letters, queries, settings, telemetry and life cycle.

pub mod dead;
pub mod domain;
pub mod event;
pub mod header;
pub mod id;
pub mod outcome;
pub mod query;
pub mod stream;
pub mod subject;
pub mod timestamp;
pub mod trace;

#[cfg(feature = "runtime")]
pub mod runtime;

pub use id::Id;
pub use timestamp::Timestamp;

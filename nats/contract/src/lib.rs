//! The contract of PetBuddy messaging: the only code that the services share.
//!
//! It is plain data: ids, domain types, events, subjects, queries, and the inventory of streams. It
//! does no I/O and depends on neither tokio nor axum; how a service speaks it is the crate `runtime`.

#[macro_use]
mod event_list;

pub mod dead_letter;
pub mod domain;
pub mod event;
pub mod header;
pub mod id;
pub mod inventory;
pub mod outcome;
pub mod query;
pub mod subject;
pub mod timestamp;
pub mod trace;

pub use id::Id;
pub use timestamp::Timestamp;

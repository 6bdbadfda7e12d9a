//! The contract of PetBuddy messaging: the only code that the services share.
//!
//! Plain data: ids, domain types, events, subjects, queries, and the inventory of streams. The
//! crate does no I/O and depends on neither tokio nor axum. How a service speaks the contract is
//! the matter of the crate `runtime`.
//!
//! Types that answers to clients are made of describe themselves to OpenAPI: their doc comments are
//! part of `gateway/openapi.json`.

#![warn(missing_docs)]

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

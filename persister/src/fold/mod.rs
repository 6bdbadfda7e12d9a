//! The pure folds: what documents become by events, and what a report says of rows. No queries, no
//! clock.

pub mod contact;
pub mod conversation;
pub mod sla;
pub mod suspension;

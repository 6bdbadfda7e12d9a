//! `/messages`: accept, list, look at, edit and delete messages. Stores nothing itself: a change
//! becomes an event, and a read becomes a query to the persister.

pub mod batch;
pub mod compat;
mod create;
pub mod delivery_wait;
mod echo;
pub mod edit;
mod fields;
pub mod list;
mod prefer;
pub mod show;
mod store;

//! MongoDB itself: the connection, collections, indexes, bulk writes and the form of documents.
//! Decides nothing about what an event means; see `view` and `fold`.

pub mod bulk;
pub mod client;
pub mod collections;
pub mod dev;
pub mod directory;
pub mod document;
pub mod indexes;

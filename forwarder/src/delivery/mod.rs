//! The delivery of one message to the bot, and what the log and the bucket `lanes` are told of it.
//! Knows nothing of partitions.

mod attempt;
mod forward;
pub mod forwarder;
mod history;
pub mod lane_store;
mod outbound;
pub mod refusals;
pub mod report;
pub mod token_holds;
mod verdict;
pub mod work;

//! The way of one message to the bot, and what the log and the bucket `lanes` are told of it. Knows
//! nothing of partitions.

pub mod forward;
pub mod lane_store;
pub mod outbound;
pub mod report;
pub mod token_holds;
pub mod verdict;

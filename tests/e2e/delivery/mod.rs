//! The way of an operator's message to the bot: once, in order, retried.

mod end_to_end;
mod ordering;
mod retries;

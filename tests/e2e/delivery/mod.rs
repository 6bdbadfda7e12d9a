//! The delivery of an operator's message to the bot: once, in order, with retries. Sockets are
//! tested in `sockets`.

mod elsewhere;
mod end_to_end;
mod history;
mod holds;
mod ordering;
mod retries;
mod verdicts;

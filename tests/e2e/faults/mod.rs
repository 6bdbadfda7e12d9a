//! What stays true while processes die, events come late or twice, and input is unreadable.

mod audit;
mod durability;
mod event_order;
mod process_deaths;
mod rebuild;
mod replicas;
mod unreadable_input;

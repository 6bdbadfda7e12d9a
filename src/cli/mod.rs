//! The operator's command line: a file for each subcommand, and the helpers that subcommands share.
//! Starts no service.

pub mod audit;
mod columns;
pub mod dead_letters;
pub mod exit_code;
pub mod health;
pub mod jobs;
mod operator;
pub mod servers;
pub mod settings;
pub mod setup;
pub mod stub_bot;
pub mod up;

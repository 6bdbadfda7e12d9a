//! The runner: the whole system as child processes on one machine, for newcomers and for the tests
//! alike. It begins in `up`. No service runs in the runner's own process.

mod banner;
pub mod binaries;
mod child_output;
pub mod console;
mod demo;
mod orphans;
pub mod plan;
mod ports;
pub mod private_file;
pub mod ready;
pub mod run_file;
mod secrets;
pub mod services;
pub mod setup;
mod shutdown;
pub mod state_dir;
pub mod stub_bot;
mod supervisor;
pub mod up;
mod version;

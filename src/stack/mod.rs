//! The runner: the whole system as child processes of one machine, for newcomers and for the tests
//! alike. `up` is its beginning. No service runs in the runner's own process.

mod banner;
mod binaries;
mod child_output;
mod console;
mod demo;
mod orphans;
pub mod plan;
mod ports;
pub mod ready;
pub mod run_file;
mod secrets;
pub mod services;
mod shutdown;
pub mod state_dir;
pub mod stub_bot;
mod supervisor;
pub mod up;
mod version;

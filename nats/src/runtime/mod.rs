//! How a service speaks the contract: settings, connection, publish, worker loop, dead letters,
//! queries, health, telemetry, life cycle. No business rule of any one service.

pub mod bot_watch;
pub mod bucket;
mod commit;
pub mod connection;
pub mod dead_letter;
pub mod dead_letters;
pub mod direct;
pub mod health;
pub mod order;
pub mod outcome;
pub mod pinned;
pub mod publish;
mod pull;
pub mod query;
pub mod seal;
pub mod service;
pub mod settings;
pub mod setup;
pub mod telemetry;
pub mod unique;
pub mod worker;

pub use tokio_util::sync::CancellationToken;

/// For every process that is linked with the runtime. A fifth of the time of a query went into
/// glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

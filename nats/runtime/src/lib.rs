//! How a service speaks the contract: settings, connection, publishing, consuming, dead letters,
//! queries, health, telemetry, life cycle. Holds no business rule of any one service.

pub mod consume;
pub mod dead_letters;
pub mod kv;
pub mod log;
pub mod net;
pub mod rpc;
pub mod seal;
pub mod service;
pub mod setup;

pub use tokio_util::sync::CancellationToken;

/// The allocator of every process that is linked with the runtime. With glibc's allocator a fifth
/// of the time of a query went into allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

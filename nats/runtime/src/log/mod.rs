//! The log as a service uses it: publishing with group commit, and reading by sequence. Consumes nothing;
//! see `consume`.

pub mod direct_get;
mod group_commit;
pub mod ordering_key;
pub mod publisher;
pub mod unique;

//! The log as a service uses it: publishing with group commit, and reading by sequence. Consumes
//! nothing; see `consume`.

#[doc(hidden)]
pub mod bench;
pub mod direct_get;
mod group;
mod group_commit;
pub mod ordering_key;
pub mod pre_commit;
pub mod publisher;
mod queue;

//! What documents, deployment files and the workspace promise.

mod compose;
mod cookbook;
mod docs;
mod permissions;
mod runner;
mod workspace;

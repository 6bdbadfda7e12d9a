//! What documents, deployment files and the workspace promise.

mod circles;
mod compose;
mod cookbook;
mod docs;
mod permissions;
mod runner;
mod workspace;

//! The promises of documents, deployment files and the workspace. No test here drives the API.

mod circles;
mod compose;
mod cookbook;
mod docs;
mod permissions;
mod runner;
mod workspace;

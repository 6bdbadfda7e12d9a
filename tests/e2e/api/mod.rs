//! The REST API: what each endpoint answers to good and bad requests, and what protects it.

mod abuse;
mod auth;
mod batch;
mod contacts;
mod idempotency;
mod integrations;
mod invitations;
mod limits;
mod lockout;
mod messages;
mod prefer_wait;
mod read_costs;
mod tenants;

//! The REST API: the answers of each endpoint to valid and invalid requests, and the limits that
//! protect the API. How a stored message is delivered is tested in `delivery`.

mod abuse;
mod auth;
mod batch;
mod channels;
mod contact_identity;
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

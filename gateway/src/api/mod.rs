//! What every route of the API shares: requests in, answers and errors out. Knows no route.

pub mod declare;
pub mod extract;
pub mod field;
pub mod field_error;
pub mod field_reader;
pub mod free_form;
pub mod idempotency_key;
mod json_object;
mod json_text;
mod numbers;
pub mod page;
pub mod problem;
pub mod refusals;
pub mod response;
pub mod scalars;
pub mod schema;

//! What every route of the API shares: requests in, answers and errors out.

pub mod extract;
pub mod field_reader;
pub mod json_object;
pub mod page;
pub mod problem;
pub mod refusals;
pub mod response;

//! `/auth`: register, log in, go on with a login and end it, invite. Which credentials are good is
//! decided in `crate::auth`.

mod fields;
pub mod login;
pub mod register;
pub mod sessions;
pub mod staff;

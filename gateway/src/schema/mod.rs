//! Bodies of requests and answers as the OpenAPI document shows them. Nothing is read or written
//! through these types: requests are read field by field, with every wrong one named
//! (`validate.rs`), answers are made from the contract's types. That both sides agree is what the
//! schemathesis run of `tests/` proves.
#![expect(dead_code, reason = "they describe, nobody makes them")]

mod account;
mod contact;
mod dead_letter;
mod integration;
mod message;
mod query;
mod text;

pub use crate::api::refusals::{
    Accepted, BadBody, BadLogin, Denied, Emptied, FieldProblem, Forbidden, Later, Locked, Missing,
    ProblemDetails, Refused, Reused, Settled, Taken,
};
pub use account::{
    Credentials, InvitationBody, Invited, LoggedIn, LogoutBody, OneUser, RefreshBody,
    RegistrationBody,
};
pub use contact::{ContactEdit, ContactList, NewContact, OneContact};
pub use dead_letter::{DiscardBody, DryRun, DryRunBody, OfLetters, ReplayBody};
pub use integration::{ChannelProvider, GoogleBody, IntegrationBody};
pub use message::{
    Batch, BatchEntry, ConversationList, ConversationsBody, CreateOrList, MessageEdit, MessageId,
    MessageList, OneMessage, ReadBody,
};
pub use query::{After, InRange, OfCompany, OnPlatform, PageOf};

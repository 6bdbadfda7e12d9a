//! The domain: messages, contacts, companies and users, valid by construction. No I/O, no storage form.

mod contact;
mod integration;
mod message;
mod text;
mod user;

pub use contact::{Contact, ContactPatch, Profile, Social, SocialPatch};
pub use integration::{Integration, Sealed};
pub use message::{
    Attachment, Delivery, DeliveryState, Direction, MAX_ATTACHMENTS, Message, MessagePatch, MessageView, Platform, Role, UnknownName,
};
pub use text::{Content, Email, ExternalId, InvalidText, ShortText, Url};
pub use user::{Company, StaffRole, User};

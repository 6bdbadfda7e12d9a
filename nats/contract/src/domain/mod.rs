//! The domain: messages, contacts, companies and users, valid by construction. Does no I/O and
//! knows no storage form.

#[macro_use]
mod string_enum;

mod bot;
mod contact;
mod integration;
mod job;
mod lane;
mod message;
mod text;
mod user;

pub use bot::{BotHealth, BotStatus, BreakerState, BreakerView};
pub use contact::{Contact, ContactPatch, Profile, Social, SocialPatch};
pub use integration::{Integration, Provider, Sealed};
pub use job::{JobOutcome, JobRun, is_overdue};
pub use lane::LaneEntry;
pub(crate) use message::is_forwardable;
pub use message::{
    Attachment, DELIVERY_WINDOW, Delivery, DeliveryState, Direction, MAX_ATTACHMENTS, Message,
    MessagePatch, MessageView, Platform, Role, SlaBreach,
};
pub use string_enum::UnknownName;
pub use text::{Content, Email, ExternalId, InvalidText, ShortText, Url};
pub use user::{Company, SlaTargets, StaffRole, User};

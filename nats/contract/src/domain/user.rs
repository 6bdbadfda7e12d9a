//! Companies and their staff.

use serde::{Deserialize, Serialize};

use super::text::{Email, ShortText};
use crate::{Id, Timestamp};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Company {
    /// Made by the gateway.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The name.
    pub name: ShortText,
    /// When it registered.
    pub created_at: Timestamp,
    /// What it promises its customers.
    #[serde(default, skip_serializing_if = "SlaTargets::is_default")]
    pub sla: SlaTargets,
}

/// What a company promises its customers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(example = json!({"delivery_seconds": 60, "first_response_seconds": 900})))]
pub struct SlaTargets {
    /// From accepted to taken by the bot, in seconds; 1 to 86,400. A forwardable message that
    /// misses it is a breach.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 86_400))]
    pub delivery_seconds: u32,
    /// From a customer's message to the operator's answer, in seconds; 1 to 86,400. Reported only.
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 86_400))]
    pub first_response_seconds: u32,
}

impl SlaTargets {
    /// Longest target, in seconds: a message lives no longer.
    pub const LONGEST_SECONDS: u32 = 86_400;

    fn is_default(&self) -> bool {
        *self == SlaTargets::default()
    }
}

impl Default for SlaTargets {
    /// A minute to the bot, a quarter of an hour for an answer.
    fn default() -> SlaTargets {
        SlaTargets {
            delivery_seconds: 60,
            first_response_seconds: 900,
        }
    }
}

/// What a member of staff may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum StaffRole {
    /// Everything of their company.
    Manager,
    /// Talk with customers.
    Receptionist,
}

/// A member of staff, as the log and the database keep them. Answers to clients leave
/// `password_hash` out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Made by the gateway.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The tenant.
    pub company_id: Id,
    /// The login name, unique over all companies.
    pub email: Email,
    /// First and last name.
    #[serde(rename = "fullName")]
    pub full_name: ShortText,
    /// What the user may do.
    pub role: StaffRole,
    /// The bcrypt hash, with cost and salt.
    pub password_hash: String,
    /// When the user joined the company.
    pub created_at: Timestamp,
}

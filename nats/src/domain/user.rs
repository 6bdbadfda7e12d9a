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

/// A member of staff, as the log and the database keep them. The answer to a client leaves `password_hash` out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Made by the gateway.
    #[serde(rename = "_id")]
    pub id: Id,
    /// The tenant.
    pub company_id: Id,
    /// Unique over all companies.
    pub email: Email,
    /// The whole name.
    #[serde(rename = "fullName")]
    pub full_name: ShortText,
    /// What they may do.
    pub role: StaffRole,
    /// bcrypt.
    pub password_hash: String,
    /// When they were entered.
    pub created_at: Timestamp,
}

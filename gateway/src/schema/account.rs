//! Staff and their logins.

use contract::domain::{Company, Email, ShortText, StaffRole};
use contract::{Id, Timestamp};
use utoipa::ToSchema;

/// A new company with its first manager; or, with an `invitation` in place of `company_name`, one
/// more of a company's staff.
#[derive(ToSchema)]
#[schema(example = json!({
    "company_name": "Happy Paws", "fullName": "Bo Boss", "email": "boss@example.com", "password": "correct horse battery",
}))]
pub struct RegistrationBody {
    company_name: Option<ShortText>,
    /// From `POST /auth/invitations`; good for the invited email.
    invitation: Option<String>,
    #[serde(rename = "fullName")]
    full_name: ShortText,
    email: Email,
    /// 8 to 72 bytes: bcrypt reads no more.
    #[schema(min_length = 8, max_length = 72, pattern = "^[ -~]*$")]
    password: String,
}

/// Who logs in.
#[derive(ToSchema)]
#[schema(example = json!({"email": "boss@example.com", "password": "correct horse battery"}))]
pub struct Credentials {
    email: Email,
    password: String,
}

/// The refresh token; in cookie mode it comes as the cookie `refreshToken`, and `X-CSRF-Token` with
/// it.
#[derive(ToSchema)]
#[schema(example = json!({"refreshToken": "eyJhbGciOiJIUzI1NiJ9.…"}))]
pub struct RefreshBody {
    #[serde(rename = "refreshToken")]
    refresh_token: String,
}

/// The refresh token, where its session is another than the access token's.
#[derive(ToSchema)]
#[schema(example = json!({}))]
pub struct LogoutBody {
    #[serde(rename = "refreshToken")]
    refresh_token: Option<String>,
}

/// Whom to invite.
#[derive(ToSchema)]
#[schema(example = json!({"email": "ada@example.com", "role": "receptionist"}))]
pub struct InvitationBody {
    email: Email,
    role: StaffRole,
}

/// A member of staff.
#[derive(ToSchema)]
pub struct PublicUser {
    _id: Id,
    company_id: Id,
    email: Email,
    #[serde(rename = "fullName")]
    full_name: ShortText,
    role: StaffRole,
    created_at: Timestamp,
}

/// Who calls.
#[derive(ToSchema)]
pub struct OneUser {
    user: PublicUser,
}

/// A login.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoggedIn {
    message: String,
    user: PublicUser,
    /// On registration of a new company.
    #[schema(required = false)]
    company: Company,
    access_token: String,
    /// Seconds that the access token is good.
    expires_in: u64,
    /// Good once; not in cookie mode.
    #[schema(required = false)]
    refresh_token: String,
    /// Seconds that the refresh token is good.
    refresh_expires_in: u64,
    /// In cookie mode: to be sent as `X-CSRF-Token` with the cookie.
    #[schema(required = false)]
    csrf_token: String,
}

/// What somebody needs to join the company.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invited {
    invitation: String,
    /// Seconds that it is good.
    expires_in: u64,
    /// Where to accept it, if the gateway knows its frontend.
    #[schema(required = false)]
    url: String,
}

//! Bodies of requests and answers as the OpenAPI document shows them. Nothing is read or written through these types: requests
//! are read field by field, with every wrong one named (`validate.rs`), answers are made from the contract's types. That both
//! sides agree is what the schemathesis run of `tests/` proves.
#![expect(dead_code, reason = "they describe, nobody makes them")]

use nats::domain::{Company, Contact, Content, Direction, Email, ExternalId, MessageView, Platform, Role, ShortText, StaffRole, Url};
use nats::query::{ContactPage, ConversationPage, MessagePage};
use nats::{Id, Timestamp};
use utoipa::{IntoParams, IntoResponses, ToSchema};

/// What is wrong with one field.
#[derive(ToSchema)]
pub struct FieldProblem {
    /// A path such as `attachments[1].url`.
    field: String,
    /// What it must be.
    message: String,
}

/// Why a request failed (RFC 9457).
#[derive(ToSchema)]
pub struct ProblemDetails {
    /// Always `about:blank`: the code says more.
    r#type: String,
    /// In short.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What to do about it.
    detail: String,
    /// For programs; does not change.
    #[schema(example = "VALIDATION_ERROR")]
    code: String,
    /// The same as `detail`, by the name that the old backend's clients read.
    message: String,
    /// The fields that are wrong.
    errors: Vec<FieldProblem>,
    /// To quote when asking for help; stands in the logs.
    #[schema(required = false)]
    request_id: String,
    /// With `DUPLICATE_KEY`: what holds the key.
    #[schema(required = false)]
    existing_id: Id,
}

/// What any request can meet.
#[derive(IntoResponses)]
pub enum Refused {
    /// Fields are missing or wrong, an id is not 24 hex digits, or the body is not JSON.
    #[response(status = 400, content_type = "application/problem+json")]
    Bad(ProblemDetails),
    /// The request did not arrive in time.
    #[response(status = 408, content_type = "application/problem+json")]
    Slow(ProblemDetails),
    /// More than 10 MB.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemDetails),
    /// Path and query string are longer than 4 KiB.
    #[response(status = 414, content_type = "application/problem+json")]
    UriTooLong(ProblemDetails),
    /// More requests than the limit; `Retry-After` says when there is room.
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(ProblemDetails),
    /// The log, the database or this gateway is overloaded or away; `Retry-After` says when to try again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemDetails),
}

/// What any request with a caller can meet.
#[derive(IntoResponses)]
pub enum Denied {
    /// No token or key, or not a good one.
    #[response(status = 401, content_type = "application/problem+json")]
    Unknown(ProblemDetails),
    /// The caller may not, or `company_id` is another company.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemDetails),
}

/// What any request with a body can meet.
#[derive(IntoResponses)]
pub enum BadBody {
    /// The body is not `application/json`.
    #[response(status = 415, content_type = "application/problem+json")]
    MediaType(ProblemDetails),
}

/// What a request for one thing can meet.
#[derive(IntoResponses)]
pub enum Missing {
    /// It does not exist, or is another company's.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemDetails),
}

/// What a create can meet.
#[derive(IntoResponses)]
pub enum Taken {
    /// `DUPLICATE_KEY`: the email or `external_message_id` is taken.
    #[response(status = 409, content_type = "application/problem+json")]
    Duplicate(ProblemDetails),
}

/// What a create with a key can meet.
#[derive(IntoResponses)]
pub enum Reused {
    /// `IDEMPOTENCY_KEY_REUSED`: the key came with another body before.
    #[response(status = 422, content_type = "application/problem+json")]
    Key(ProblemDetails),
}

/// What a login can meet.
#[derive(IntoResponses)]
pub enum BadLogin {
    /// Email or password is wrong, or the refresh token is not good.
    #[response(status = 401, content_type = "application/problem+json")]
    Wrong(ProblemDetails),
}

/// What one who is not known can meet.
#[derive(IntoResponses)]
pub enum Forbidden {
    /// The invitation is not good, or is for another email; in cookie mode, the CSRF token is missing.
    #[response(status = 403, content_type = "application/problem+json")]
    Denied(ProblemDetails),
}

/// What repeated failures lead to.
#[derive(IntoResponses)]
pub enum Locked {
    /// `ACCOUNT_LOCKED`: too many failures; `Retry-After` says how long.
    #[response(status = 423, content_type = "application/problem+json")]
    Out(ProblemDetails),
}

/// What a change can end with.
#[derive(IntoResponses)]
pub enum Later {
    /// It is in the log and will be applied; it was not within the time that a request waits.
    #[response(status = 202)]
    Accepted(Accepted),
}

/// A change that is durable and not applied yet.
#[derive(ToSchema)]
pub struct Accepted {
    message: String,
    /// Where the log has it.
    seq: u64,
}

/// Whose data it is about.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfCompany {
    /// An internal service must name it; a member of staff need not.
    #[param(required = false)]
    company_id: Id,
}

/// How to replay one dead letter.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ReplayOne {
    /// Only say whether it could be.
    #[param(required = false, default = false)]
    dry_run: bool,
}

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageOf {
    /// Entries in the answer.
    #[param(minimum = 1, maximum = 200, default = 50, required = false)]
    limit: u32,
    /// Entries to pass over; not looked at beside a `cursor`.
    #[param(minimum = 0, maximum = 100_000, default = 0, required = false)]
    skip: u32,
}

/// Which channel.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OnPlatform {
    /// Upper and lower case are the same.
    #[param(required = false)]
    platform: Platform,
}

/// Which time: of the two, one can be left out, or both.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InRange {
    /// Its first moment; else a day before `to`.
    #[param(required = false)]
    from: Timestamp,
    /// The first moment after it; else a day after `from`, or now. At most 31 days after `from`.
    #[param(required = false)]
    to: Timestamp,
}

/// Where to go on in a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct After {
    /// `next_cursor` of the page before; empty for the first page.
    #[param(required = false, pattern = "^([0-9a-f]{40})?$")]
    cursor: String,
}

/// Which dead letters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfLetters {
    /// What has become of them; `open` where it is not given.
    #[param(required = false, inline)]
    state: LetterState,
    /// Why they died.
    #[param(required = false, inline)]
    reason: LetterReason,
    /// Which service gave them up.
    #[param(required = false, max_length = 32, pattern = "^[a-z-]+$", example = "forwarder")]
    service: String,
    /// Of one conversation.
    #[param(required = false)]
    contact_id: Id,
    /// Stored at this time or after it.
    #[param(required = false)]
    from: Timestamp,
    /// Stored before this time.
    #[param(required = false)]
    to: Timestamp,
    /// Entries in the answer.
    #[param(minimum = 1, maximum = 200, default = 50, required = false)]
    limit: u32,
    /// `next_cursor` of the page before.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_u64, default = 0, required = false)]
    cursor: u64,
}

/// What has become of a dead letter; one whose replay was not completed is open.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum LetterState {
    Open,
    Replayed,
    Discarded,
    All,
}

/// Why a message could not be processed.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum LetterReason {
    Malformed,
    UnknownVersion,
    DuplicateKey,
    MissingData,
    UnknownPlatform,
    Refused,
    Expired,
    Failed,
}

/// Which of the open dead letters to replay; without a filter, all.
#[derive(ToSchema)]
#[schema(example = json!({"reason": "refused", "service": "forwarder", "dry_run": true}))]
pub struct ReplayBody {
    company_id: Option<Id>,
    reason: Option<LetterReason>,
    #[schema(max_length = 32, pattern = "^[a-z-]+$")]
    service: Option<String>,
    contact_id: Option<Id>,
    /// Stored at this time or after it.
    from: Option<Timestamp>,
    /// Stored before this time.
    to: Option<Timestamp>,
    /// Letters that this request replays at the most.
    #[schema(minimum = 1, maximum = 100, default = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the request before.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64, default = 0)]
    cursor: Option<u64>,
    /// Only say which.
    dry_run: Option<bool>,
}

/// Why a dead letter is not to be replayed.
#[derive(ToSchema)]
#[schema(example = json!({"reason": "answered by telephone"}))]
pub struct DiscardBody {
    company_id: Option<Id>,
    reason: ShortText,
}

/// What a dead letter can meet of which something has become.
#[derive(IntoResponses)]
pub enum Settled {
    /// `CONFLICT`: it was discarded and is to be replayed, or the other way round.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemDetails),
}

/// A message to store, and to forward where it is an operator's to facebook or instagram.
#[derive(ToSchema)]
#[schema(example = json!({
    "contact_id": "665f1e0c9b1d4a7f3c2e8a01", "role": "operator", "platform": "facebook", "direction": "outbound", "content": "See you at ten.",
}))]
pub struct NewMessage {
    /// An internal service must name it; a member of staff need not.
    company_id: Option<Id>,
    /// The customer, and so the conversation.
    contact_id: Id,
    role: Role,
    /// Upper and lower case are the same.
    platform: Platform,
    direction: Direction,
    /// Required where there are no attachments; it is trimmed.
    content: Option<Content>,
    #[schema(max_items = 20)]
    attachments: Option<Vec<NewAttachment>>,
    /// The platform's own id of the message; a repetition is refused with 409.
    external_message_id: Option<ExternalId>,
    /// When it was written; a time in the future counts as now.
    created_at: Option<Timestamp>,
}

/// Which messages to list; the old backend's way, the same as `GET /messages`.
#[derive(ToSchema)]
#[schema(example = json!({"contact_id": "665f1e0c9b1d4a7f3c2e8a01", "limit": 20}))]
pub struct ListBody {
    company_id: Option<Id>,
    contact_id: Id,
    platform: Option<Platform>,
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    #[schema(minimum = 0, maximum = 100_000, default = 0)]
    skip: Option<u32>,
}

/// What `POST /messages` does: with one of `role`, `direction`, `content` and `attachments` it creates, else it lists.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum CreateOrList {
    Create(NewMessage),
    List(ListBody),
}

/// Many messages, each as in `POST /messages`.
#[derive(ToSchema)]
#[schema(example = json!({"messages": [
    {"contact_id": "665f1e0c9b1d4a7f3c2e8a01", "role": "user", "platform": "telegram", "direction": "inbound", "content": "Are you open today?"},
]}))]
pub struct Batch {
    /// As in `POST /messages`; one that is wrong fails by itself.
    #[schema(min_items = 1, max_items = 500)]
    messages: Vec<serde_json::Value>,
}

/// An edit of a message; at least one of `content` and `attachments`.
#[derive(ToSchema)]
#[schema(example = json!({"_id": "665f1e0c9b1d4a7f3c2e8a02", "content": "See you at eleven."}))]
pub struct MessageEdit {
    company_id: Option<Id>,
    /// `id` is taken as well.
    _id: Id,
    content: Option<Content>,
    /// In place of all.
    #[schema(max_items = 20)]
    attachments: Option<Vec<NewAttachment>>,
}

/// Which message.
#[derive(ToSchema)]
#[schema(example = json!({"_id": "665f1e0c9b1d4a7f3c2e8a02"}))]
pub struct MessageId {
    company_id: Option<Id>,
    /// `id` is taken as well.
    _id: Id,
}

/// Which messages were read: the inbound ones that were accepted before this request.
#[derive(ToSchema)]
#[schema(example = json!({"contact_id": "665f1e0c9b1d4a7f3c2e8a01"}))]
pub struct ReadBody {
    company_id: Option<Id>,
    contact_id: Id,
    /// On one platform only.
    platform: Option<Platform>,
}

/// Which conversations to list; the old backend's way, the same as `GET /conversations`.
#[derive(ToSchema)]
#[schema(example = json!({"limit": 20, "skip": 0}))]
pub struct ConversationsBody {
    company_id: Option<Id>,
    /// `instagram` where it is not given.
    platform: Option<Platform>,
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    #[schema(minimum = 0, maximum = 100_000, default = 0)]
    skip: Option<u32>,
}

/// A contact to enter.
#[derive(ToSchema)]
#[schema(example = json!({"fullName": "Ada Brown", "phone": "+49 170 1234567", "social": {"facebookId": "1784"}}))]
pub struct NewContact {
    company_id: Option<Id>,
    #[serde(rename = "fullName")]
    full_name: ShortText,
    #[serde(flatten)]
    fields: ContactFields,
}

/// An edit of a contact: what is not given stays, null removes.
#[derive(ToSchema)]
#[schema(example = json!({"leadStage": "won", "botSuspended": true, "botSuspendUntil": "2026-11-23T08:00:00Z"}))]
pub struct ContactEdit {
    company_id: Option<Id>,
    #[serde(rename = "fullName")]
    #[schema(required = false)]
    full_name: ShortText,
    #[serde(flatten)]
    fields: ContactFields,
}

/// The fields of a contact that may be absent; an empty text is the same as null.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContactFields {
    email: Option<MaybeEmail>,
    phone: Option<MaybeText>,
    /// The name on the network they came from.
    social_network_name: Option<MaybeText>,
    contact_status: Option<MaybeText>,
    lead_stage: Option<MaybeText>,
    /// The bot is silent for them …
    bot_suspended: Option<bool>,
    /// … until then.
    bot_suspend_until: Option<Timestamp>,
    /// Ids on the networks; in an edit each by itself.
    social: Option<SocialIds>,
    /// A name and whatever else is known, at most 16 KiB; an edit replaces it whole.
    profile: Option<NewProfile>,
}

/// A contact's ids on the networks.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SocialIds {
    facebook_id: Option<MaybeText>,
    instagram_id: Option<MaybeText>,
    telegram_id: Option<MaybeText>,
    whatsapp_id: Option<MaybeText>,
}

/// What is known of a contact.
#[derive(ToSchema)]
pub struct NewProfile {
    name: Option<MaybeText>,
}

/// A file that goes with a message; only its address is kept.
#[derive(ToSchema)]
pub struct NewAttachment {
    /// What it is: `image`, `video`, `file`, …
    r#type: ShortText,
    url: Url,
    file_description: Option<MaybeText>,
}

/// A text on one line, which may be empty.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 1_000, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
pub struct MaybeText(String);

/// An email address, or nothing.
#[derive(ToSchema)]
#[schema(value_type = String, max_length = 254, pattern = r"^([0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]+@[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$")]
pub struct MaybeEmail(String);

/// A company's access to a platform.
#[derive(ToSchema)]
#[schema(example = json!({"access_token": "EAAB-the-page-token", "account_id": "1020", "account_name": "Happy Paws"}))]
pub struct IntegrationBody {
    company_id: Option<Id>,
    /// Stored encrypted; no answer holds it.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    access_token: String,
    /// The page or account on the platform that the token is for.
    account_id: Option<MaybeText>,
    account_name: Option<MaybeText>,
    /// When the platform stops taking the token.
    token_expires_at: Option<Timestamp>,
}

/// A company's access to Google.
#[derive(ToSchema)]
#[schema(example = json!({"refresh_token": "1//the-refresh-token", "account_name": "clinic@example.com"}))]
pub struct GoogleBody {
    company_id: Option<Id>,
    /// From Google's consent page, which is the frontend's matter. Stored encrypted; no answer holds it.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    refresh_token: String,
    /// Without one the first is fetched within minutes. Likewise stored encrypted.
    #[schema(min_length = 1, max_length = 4_096, pattern = "^[!-~]+$")]
    access_token: Option<String>,
    /// Whose account it is.
    account_id: Option<MaybeText>,
    account_name: Option<MaybeText>,
    /// When Google stops taking the access token.
    token_expires_at: Option<Timestamp>,
}

/// A new company with its first manager; or, with an `invitation` in place of `company_name`, one more of a company's staff.
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

/// The refresh token; in cookie mode it comes as the cookie `refreshToken`, and `X-CSRF-Token` with it.
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

/// What became of one message of a batch: what `POST /messages` answers, with its status.
#[derive(ToSchema)]
pub struct BatchEntry {
    /// 201, or the status of `error`.
    status: u16,
    /// The same message was stored by an earlier request of the same `Idempotency-Key`.
    #[schema(required = false)]
    replayed: bool,
    #[serde(rename = "messageData")]
    #[schema(required = false)]
    message_data: MessageView,
    #[schema(required = false)]
    seq: u64,
    #[schema(required = false)]
    error: ProblemDetails,
}

/// One message.
#[derive(ToSchema)]
pub struct OneMessage {
    #[serde(rename = "messageData")]
    message_data: MessageView,
}

/// A page of messages.
#[derive(ToSchema)]
pub struct MessageList {
    #[serde(flatten)]
    page: MessagePage,
    limit: u32,
    skip: u32,
}

/// A page of conversations.
#[derive(ToSchema)]
pub struct ConversationList {
    #[serde(flatten)]
    page: ConversationPage,
    limit: u32,
    skip: u32,
}

/// A page of contacts.
#[derive(ToSchema)]
pub struct ContactList {
    #[serde(flatten)]
    page: ContactPage,
    limit: u32,
    skip: u32,
}

/// One contact.
#[derive(ToSchema)]
pub struct OneContact {
    contact: Contact,
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

/// Platforms that give access by an access token alone.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum ChannelProvider {
    Instagram,
    Facebook,
    Telegram,
    Whatsapp,
}

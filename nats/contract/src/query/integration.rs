//! Queries about companies' access to platforms. Types only.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::domain::{Integration, Provider};
use crate::{Id, Timestamp};

/// A company's integrations, at most one for each provider.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListIntegrations {
    /// The tenant.
    pub company_id: Id,
}

impl Query for ListIntegrations {
    const SUBJECT: &'static str = "query.integration.list";
    type Answer = Vec<IntegrationView>;
}

/// One integration of a company.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetIntegration {
    /// The tenant.
    pub company_id: Id,
    /// The platform.
    #[serde(rename = "platform")]
    pub provider: Provider,
}

impl Query for GetIntegration {
    const SUBJECT: &'static str = "query.integration.get";
    type Answer = IntegrationView;
}

/// An integration with what is known of its renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationView {
    /// The integration as it was entered or last renewed.
    #[serde(flatten)]
    pub integration: Integration,
    /// Why the token could not be renewed; `None` if that has not failed since the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_error: Option<RefreshError>,
    /// The log position of the last event about the integration.
    pub seq: u64,
    /// When the last event about it was accepted.
    pub changed_at: Timestamp,
}

/// A token that could not be renewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RefreshError {
    /// Short text for staff.
    pub error: String,
    /// When it was tried last.
    pub at: Timestamp,
}

/// Entries of one [`ExpiringPage`]. A larger limit counts as this one.
pub const MAX_EXPIRING: u32 = 500;

/// The Facebook and Instagram tokens of all companies that expire within a range of time. The order
/// of the pages has no meaning.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListExpiring {
    /// The first moment of the range.
    pub from: Timestamp,
    /// The first moment after the range.
    pub before: Timestamp,
    /// The integration after which the page begins; `None` for the first page.
    pub after: Option<IntegrationKey>,
    /// Entries of the page, 1 to [`MAX_EXPIRING`].
    pub limit: u32,
}

/// The integrations of all companies that have a refresh token, and whose access token expires
/// before a time, at an unknown time, or is missing. The order of the pages has no meaning.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListRefreshable {
    /// The platform.
    #[serde(rename = "platform")]
    pub provider: Provider,
    /// The first moment at which an access token is too young to be listed.
    pub before: Timestamp,
    /// Integrations whose renewal has failed are left out, except those that failed since this
    /// time.
    pub failed_since: Option<Timestamp>,
    /// The integration after which the page begins; `None` for the first page.
    pub after: Option<IntegrationKey>,
    /// Entries of the page, 1 to [`MAX_EXPIRING`].
    pub limit: u32,
}

impl Query for ListRefreshable {
    const SUBJECT: &'static str = "query.integration.refreshable";
    type Answer = ExpiringPage;
}

/// A company and a provider: the key of an integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationKey {
    /// The tenant.
    pub company_id: Id,
    /// The platform.
    #[serde(rename = "platform")]
    pub provider: Provider,
}

/// The answer to [`ListExpiring`] and [`ListRefreshable`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExpiringPage {
    /// The integrations, each with the time at which it was entered or last renewed. That time is
    /// the version of the token.
    pub expiring: Vec<(IntegrationKey, Timestamp)>,
    /// The `after` of the next page; `None` on the last.
    pub next: Option<IntegrationKey>,
}

impl Query for ListExpiring {
    const SUBJECT: &'static str = "query.integration.expiring";
    type Answer = ExpiringPage;
}

//! Questions about companies' access to platforms.

use serde::{Deserialize, Serialize};

use super::Query;
use crate::domain::{Integration, Provider};
use crate::{Id, Timestamp};

/// A company's integrations, one a provider at most.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListIntegrations {
    /// The tenant.
    pub company_id: Id,
}

impl Query for ListIntegrations {
    const SUBJECT: &'static str = "query.integration.list";
    type Answer = Vec<IntegrationView>;
}

/// One integration.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GetIntegration {
    /// The tenant.
    pub company_id: Id,
    /// With whom.
    #[serde(rename = "platform")]
    pub provider: Provider,
}

impl Query for GetIntegration {
    const SUBJECT: &'static str = "query.integration.get";
    type Answer = IntegrationView;
}

/// An integration, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationView {
    /// As it was entered or last renewed.
    #[serde(flatten)]
    pub integration: Integration,
    /// Why its token could not be renewed, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_error: Option<RefreshError>,
    /// The sequence in the log of the last event about it.
    pub seq: u64,
    /// When that was.
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

/// Most entries of an [`ExpiringPage`].
pub const MAX_EXPIRING: u32 = 500;

/// The Facebook and Instagram tokens of all companies that expire within a time, in no order that
/// matters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListExpiring {
    /// Not earlier …
    pub from: Timestamp,
    /// … and before this.
    pub before: Timestamp,
    /// Begin after this one.
    pub after: Option<IntegrationKey>,
    /// 1 to [`MAX_EXPIRING`].
    pub limit: u32,
}

/// The integrations of all companies that have a refresh token, and an access token that expires
/// before a time, or at a time that is not known, or none at all; in no order that matters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ListRefreshable {
    /// With whom.
    #[serde(rename = "platform")]
    pub provider: Provider,
    /// Before this.
    pub before: Timestamp,
    /// Those that could not be renewed are left out, but for what failed since this.
    pub failed_since: Option<Timestamp>,
    /// Begin after this one.
    pub after: Option<IntegrationKey>,
    /// 1 to [`MAX_EXPIRING`].
    pub limit: u32,
}

impl Query for ListRefreshable {
    const SUBJECT: &'static str = "query.integration.refreshable";
    type Answer = ExpiringPage;
}

/// A company and a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationKey {
    /// The tenant.
    pub company_id: Id,
    /// With whom.
    #[serde(rename = "platform")]
    pub provider: Provider,
}

/// The answer to [`ListExpiring`] and [`ListRefreshable`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExpiringPage {
    /// Which, and when each was entered or last renewed: that is the token's version.
    pub expiring: Vec<(IntegrationKey, Timestamp)>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<IntegrationKey>,
}

impl Query for ListExpiring {
    const SUBJECT: &'static str = "query.integration.expiring";
    type Answer = ExpiringPage;
}

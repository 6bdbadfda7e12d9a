//! Companies' access to platforms, and the tokens that are about to expire.

use std::collections::HashMap;

use contract::domain::Provider;
use contract::query::{
    ExpiringPage, GetIntegration, IntegrationKey, IntegrationView, ListExpiring, ListIntegrations,
    ListRefreshable, MAX_EXPIRING,
};
use mongodb::bson::{Bson, Document, doc};
use runtime::rpc::query::QueryError;

use super::reader::{Reader, is_visible, parsed, raw};
use crate::mongo::directory::{self, integration_id};
use crate::mongo::document;

impl Reader {
    pub async fn integration(&self, q: GetIntegration) -> Result<IntegrationView, QueryError> {
        let id = integration_id(q.company_id, q.provider);
        let found = self
            .find_or_catch_up(&raw(&self.collections.integrations), id.clone(), is_visible)
            .await?;
        let failure = self
            .one(&self.collections.refresh_failures, doc! {"_id": id})
            .await?;
        Ok(directory::read_integration(
            &parsed(&found)?,
            failure.as_ref(),
        )?)
    }

    pub async fn integrations(
        &self,
        q: ListIntegrations,
    ) -> Result<Vec<IntegrationView>, QueryError> {
        let ids: Vec<String> = Provider::ALL
            .iter()
            .map(|provider| integration_id(q.company_id, *provider))
            .collect();
        let filter = doc! {"_id": {"$in": ids}, "deleted_at": {"$exists": false}};
        self.with_failures(
            self.all(
                self.collections
                    .integrations
                    .find(filter)
                    .sort(doc! {"_id": 1}),
            )
            .await?,
        )
        .await
    }

    pub async fn expiring(&self, q: ListExpiring) -> Result<ExpiringPage, QueryError> {
        let filter = doc! {
            "platform": {"$in": ["facebook", "instagram"]}, "deleted_at": {"$exists": false},
            "token_expires_at": {"$gte": document::date(q.from), "$lt": document::date(q.before)},
        };
        self.due(filter, q.after, q.limit, |_| true).await
    }

    pub async fn refreshable(&self, q: ListRefreshable) -> Result<ExpiringPage, QueryError> {
        let filter = doc! {
            "platform": q.provider.as_str(), "deleted_at": {"$exists": false}, "refresh_token": {"$exists": true},
            // Matches integrations without a time as well.
            "token_expires_at": {"$not": {"$gte": document::date(q.before)}},
        };
        let again = |view: &IntegrationView| {
            view.refresh_error
                .as_ref()
                .is_none_or(|failed| q.failed_since.is_some_and(|since| failed.at >= since))
        };
        self.due(filter, q.after, q.limit, again).await
    }

    /// A page of the integrations that a filter finds, without those that are not wanted.
    async fn due(
        &self,
        mut filter: Document,
        after: Option<IntegrationKey>,
        limit: u32,
        wanted: impl Fn(&IntegrationView) -> bool,
    ) -> Result<ExpiringPage, QueryError> {
        let limit = limit.clamp(1, MAX_EXPIRING);
        if let Some(after) = after {
            filter.insert(
                "_id",
                doc! {"$gt": integration_id(after.company_id, after.provider)},
            );
        }
        // No index serves this filter: every company has a handful of integrations, and the scheduler
        // asks every few minutes at most.
        let found = self
            .all(
                self.collections
                    .integrations
                    .find(filter)
                    .sort(doc! {"_id": 1})
                    .limit(limit.into()),
            )
            .await?;
        let found = self.with_failures(found).await?;
        let key = |view: &IntegrationView| IntegrationKey {
            company_id: view.integration.company_id,
            provider: view.integration.provider,
        };
        let next = found
            .last()
            .filter(|_| found.len() == limit as usize)
            .map(key);
        let expiring = found
            .iter()
            .filter(|view| wanted(view))
            .map(|view| (key(view), view.integration.updated_at))
            .collect();
        Ok(ExpiringPage { expiring, next })
    }

    async fn with_failures(
        &self,
        found: Vec<Document>,
    ) -> Result<Vec<IntegrationView>, QueryError> {
        let ids: Vec<&Bson> = found.iter().filter_map(|d| d.get("_id")).collect();
        let failures = self
            .all(
                self.collections
                    .refresh_failures
                    .find(doc! {"_id": {"$in": ids}}),
            )
            .await?;
        let failures: HashMap<&str, &Document> = failures
            .iter()
            .filter_map(|d| Some((d.get_str("_id").ok()?, d)))
            .collect();
        let failure = |d: &Document| failures.get(d.get_str("_id").ok()?).copied();
        Ok(found
            .iter()
            .map(|d| directory::read_integration(d, failure(d)))
            .collect::<Result<_, _>>()?)
    }
}

//! Companies, staff and integrations.

use contract::Id;
use contract::domain::{Integration, Provider};
use contract::event::IntegrationRefreshFailed;
use contract::outcome::Outcome;
use mongodb::bson::{Document, doc};

use super::messages::upsert;
use super::{At, Sorted, Verdict, View};
use crate::mongo::document::{self, date, long, oid};
use crate::mongo::{DatabaseError, EMAIL_INDEX, insert_new, limited};

/// What happened to a company's access to a platform.
pub enum IntegrationChange {
    /// It was entered or replaced.
    Entered(Integration),
    /// It was removed.
    Removed(Id, Provider),
}

impl View {
    pub(super) async fn apply_directory(
        &self,
        sorted: &Sorted,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        for c in &sorted.companies {
            // The manager first: without one there must be no company.
            if self.enter_user(&c.event.manager, c.seq).await? {
                self.enter_company(&c.event.company, c.seq).await?;
            } else {
                verdicts[c.position] = taken();
            }
        }
        self.change_targets(sorted).await?;
        for u in &sorted.users {
            if !self.enter_user(&u.event, u.seq).await? {
                verdicts[u.position] = taken();
            }
        }
        for change in &sorted.integrations {
            self.apply_integration(change, verdicts).await?;
        }
        let failures = sorted
            .refresh_failures
            .iter()
            .map(refresh_failure)
            .collect();
        upsert(&self.collections.refresh_failures, failures).await?;
        Ok(())
    }

    /// False if another user has the email.
    async fn enter_user(
        &self,
        user: &contract::domain::User,
        seq: u64,
    ) -> Result<bool, DatabaseError> {
        if insert_new(&self.collections.users, &[document::user(user, seq)])
            .await?
            .is_empty()
        {
            return Ok(true);
        }
        let filter = doc! {"_id": oid(user.id)};
        let find = async {
            Ok(self
                .collections
                .users
                .find_one(filter)
                .projection(doc! {"_id": 1})
                .await?)
        };
        Ok(limited(find).await?.is_some())
    }

    /// The latest change by sequence stays.
    async fn apply_integration(
        &self,
        change: &At<IntegrationChange>,
        verdicts: &mut [Verdict],
    ) -> Result<(), DatabaseError> {
        let seq = long(change.seq);
        let (company, provider, document) = match &change.event {
            IntegrationChange::Entered(i) => (
                i.company_id,
                i.provider,
                document::integration(i, change.seq),
            ),
            IntegrationChange::Removed(company, provider) => {
                let gone = doc! {
                    "company_id": oid(*company), "platform": provider.as_str(), "deleted_at": date(change.envelope_at), "seq": seq,
                };
                (*company, *provider, gone)
            }
        };
        let id = integration_id(company, provider);
        if matches!(change.event, IntegrationChange::Removed(..)) {
            let find = async {
                Ok(self
                    .collections
                    .integrations
                    .find_one(doc! {"_id": &id})
                    .await?)
            };
            let there =
                |d: Document| !d.contains_key("deleted_at") || d.get_i64("seq").ok() == Some(seq);
            if !limited(find).await?.is_some_and(there) {
                verdicts[change.position] = Verdict::Applied(Outcome::NotFound);
            }
        }
        let update =
            doc! {"q": {"_id": &id, "seq": {"$not": {"$gte": seq}}}, "u": document, "upsert": true};
        upsert(&self.collections.integrations, vec![update])
            .await
            .map(drop)
    }
}

/// The latest by sequence stays. In a collection of its own, because the integration's document is
/// replaced whole.
fn refresh_failure(failed: &At<(Id, IntegrationRefreshFailed)>) -> Document {
    let (seq, (company, event)) = (long(failed.seq), &failed.event);
    let id = integration_id(*company, event.provider);
    doc! {
        "q": {"_id": id, "seq": {"$not": {"$gte": seq}}},
        "u": {"company_id": oid(*company), "error": &event.error, "at": date(failed.envelope_at), "seq": seq},
        "upsert": true,
    }
}

fn taken() -> Verdict {
    Verdict::Applied(Outcome::Conflict {
        key: EMAIL_INDEX.into(),
    })
}

/// The document's `_id`.
pub fn integration_id(company: Id, provider: Provider) -> String {
    format!("{company}:{provider}")
}

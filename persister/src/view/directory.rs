//! Companies, staff and integrations.

use contract::domain::User;
use contract::event::IntegrationRefreshFailed;
use contract::outcome::Outcome;
use mongodb::bson::{Document, doc};

use super::events_by_kind::{EventsByKind, IntegrationChange, Positioned, Verdict};
use super::sla;
use crate::mongo::bulk::{insert_new, upsert};
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::directory::{self, integration_id};
use crate::mongo::document::{date, long, oid};
use crate::mongo::indexes::EMAIL_INDEX;

pub async fn apply(
    collections: &Collections,
    events: &EventsByKind,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    for c in &events.companies {
        // The manager first, because there must be no company without a manager.
        if enter_user(collections, &c.event.manager, c.seq).await? {
            sla::enter_company(collections, &c.event.company, c.seq).await?;
        } else {
            verdicts[c.position] = email_taken();
        }
    }
    sla::change_targets(collections, events).await?;
    for u in &events.users {
        if !enter_user(collections, &u.event, u.seq).await? {
            verdicts[u.position] = email_taken();
        }
    }
    for change in &events.integrations {
        apply_integration(collections, change, verdicts).await?;
    }
    let failures = events
        .refresh_failures
        .iter()
        .map(refresh_failure)
        .collect();
    upsert(&collections.refresh_failures, failures).await?;
    Ok(())
}

/// Inserts a user. Returns false if another user has the email.
async fn enter_user(
    collections: &Collections,
    user: &User,
    seq: u64,
) -> Result<bool, DatabaseError> {
    let users = &collections.users;
    if insert_new(users, &[directory::user(user, seq)])
        .await?
        .is_empty()
    {
        return Ok(true);
    }
    let same = users
        .find_one(doc! {"_id": oid(user.id)})
        .projection(doc! {"_id": 1});
    Ok(limited(async { Ok(same.await?) }).await?.is_some())
}

/// Writes a change of an integration. The latest change by sequence stays.
async fn apply_integration(
    collections: &Collections,
    change: &Positioned<IntegrationChange>,
    verdicts: &mut [Verdict],
) -> Result<(), DatabaseError> {
    let seq = long(change.seq);
    let integrations = &collections.integrations;
    let (id, document) = match &change.event {
        IntegrationChange::Entered(i) => (
            integration_id(i.company_id, i.provider),
            directory::integration(i, change.seq),
        ),
        IntegrationChange::Removed(provider) => {
            let id = integration_id(change.company_id(), *provider);
            let removed = doc! {
                "company_id": change.company(), "platform": provider.as_str(), "deleted_at": date(change.occurred_at), "seq": seq,
            };
            let is_there =
                |d: Document| !d.contains_key("deleted_at") || d.get_i64("seq").ok() == Some(seq);
            let find = async { Ok(integrations.find_one(doc! {"_id": &id}).await?) };
            if !limited(find).await?.is_some_and(is_there) {
                verdicts[change.position] = Verdict::Applied(Outcome::NotFound);
            }
            (id, removed)
        }
    };
    let update =
        doc! {"q": {"_id": &id, "seq": {"$not": {"$gte": seq}}}, "u": document, "upsert": true};
    upsert(integrations, vec![update]).await.map(drop)
}

/// The write of a failure. The latest failure by sequence stays. Failures have a collection of
/// their own, because the integration's document is replaced as a whole.
fn refresh_failure(failed: &Positioned<IntegrationRefreshFailed>) -> Document {
    let (seq, event) = (long(failed.seq), &failed.event);
    let id = integration_id(failed.company_id(), event.provider);
    doc! {
        "q": {"_id": id, "seq": {"$not": {"$gte": seq}}},
        "u": {"company_id": failed.company(), "error": &event.error, "at": date(failed.occurred_at), "seq": seq},
        "upsert": true,
    }
}

fn email_taken() -> Verdict {
    Verdict::Applied(Outcome::Conflict {
        key: EMAIL_INDEX.into(),
    })
}

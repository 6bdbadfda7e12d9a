//! Contacts, companies and staff.

use mongodb::bson::{Document, doc};
use nats::outcome::Outcome;

use super::{Sorted, Verdict, View};
use crate::database::{DatabaseError, EMAIL_INDEX, insert_new, limited};
use crate::document;

impl View {
    pub(super) async fn apply_directory(&self, sorted: &Sorted, verdicts: &mut [Verdict]) -> Result<(), DatabaseError> {
        let contacts: Vec<Document> = sorted.contacts.iter().map(|c| document::contact(&c.event, c.seq)).collect();
        // A contact that is there is the same one: its id was made for this event.
        insert_new(&self.collections.contacts, &contacts).await?;
        for c in &sorted.companies {
            let (company, manager) = (document::company(&c.event.company, c.seq), document::user(&c.event.manager, c.seq));
            // The manager first: without one there must be no company.
            let conflicts = insert_new(&self.collections.users, &[manager]).await?;
            if !conflicts.is_empty() && !self.is_same_user(c).await? {
                verdicts[c.position] = Verdict::Applied(Outcome::Conflict { key: EMAIL_INDEX.into() });
                continue;
            }
            insert_new(&self.collections.companies, &[company]).await?;
        }
        Ok(())
    }

    async fn is_same_user(&self, c: &super::At<nats::event::CompanyCreated>) -> Result<bool, DatabaseError> {
        let filter = doc! {"_id": document::oid(c.event.manager.id)};
        let find = async { Ok(self.collections.users.find_one(filter).projection(doc! {"_id": 1}).await?) };
        Ok(limited(find).await?.is_some())
    }
}

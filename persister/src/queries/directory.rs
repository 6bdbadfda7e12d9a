//! Companies and staff.

use contract::domain::{Company, User};
use contract::query::{GetCompany, GetUser, UserByEmail};
use mongodb::bson::doc;
use mongodb::bson::raw::RawDocument;
use runtime::rpc::query::QueryError;

use super::reader::{Reader, belongs, is_visible, parsed, raw};
use crate::mongo::directory;
use crate::mongo::document::oid;

impl Reader {
    pub async fn company(&self, q: GetCompany) -> Result<Company, QueryError> {
        let companies = raw(&self.collections.companies);
        let found = self
            .find_or_catch_up(&companies, oid(q.company_id), is_visible)
            .await?;
        Ok(directory::read_company(&parsed(&found)?)?)
    }

    pub async fn user(&self, q: GetUser) -> Result<User, QueryError> {
        let is_it = |d: &RawDocument| belongs(d, q.company_id);
        let users = raw(&self.collections.users);
        let found = self.find_or_catch_up(&users, oid(q.id), is_it).await?;
        Ok(directory::read_user(&parsed(&found)?)?)
    }

    pub async fn user_by_email(&self, q: UserByEmail) -> Result<User, QueryError> {
        let filter = doc! {"email": q.email.as_str()};
        let find = || self.one(&self.collections.users, filter.clone());
        let mut found = find().await?;
        if found.is_none() {
            // Otherwise a view that is still being rebuilt would deny that there is such a user.
            self.catch_up().await?;
            found = find().await?;
        }
        Ok(directory::read_user(&found.ok_or(QueryError::NotFound)?)?)
    }
}

//! Parts of query strings that several operations share.

use contract::Id;
use contract::domain::Platform;

use crate::api::declare::query;

query! {
    /// Whose data it is about.
    pub struct OfCompany {
        /// An internal service must name it, where it may ask at all; a member of staff need not.
        company_id: Option<Id>,
    }
}

query! {
    /// Which channel.
    pub struct OnPlatform {
        /// Upper and lower case are the same.
        platform: Option<Platform>,
    }
}

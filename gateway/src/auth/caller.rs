//! The caller of a request and the company whose data the caller reaches. How a caller is
//! recognised is in `credentials`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use contract::Id;
use contract::domain::StaffRole;
use contract::event::Actor;

use crate::api::problem::Problem;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A member of staff.
    Staff {
        user: Id,
        /// The only company whose data the user reaches.
        company: Id,
        role: StaffRole,
        /// The login, if the token names one.
        session: Option<Id>,
    },
    /// An internal service, which names the company itself.
    Service,
}

impl Caller {
    /// The caller as envelopes name one.
    pub fn actor(&self) -> Actor {
        match self {
            Caller::Staff { user, .. } => Actor::User { id: *user },
            Caller::Service => Actor::Service,
        }
    }

    /// The company that a request is about. `named` is the `company_id` of the request.
    ///
    /// # Errors
    /// A member of staff names another company, or an internal service names none.
    pub fn company(&self, named: Option<Id>) -> Result<Id, Problem> {
        match (self, named) {
            (Caller::Staff { company, .. }, Some(named)) if named != *company => {
                Err(Problem::Forbidden("company_id is not yours"))
            }
            (Caller::Staff { company, .. }, _) => Ok(*company),
            (Caller::Service, Some(named)) => Ok(named),
            (Caller::Service, None) => Err(Problem::field("company_id", "is required")),
        }
    }

    /// The company of a member of staff.
    ///
    /// # Errors
    /// An internal service calls.
    pub fn staff(&self) -> Result<Id, Problem> {
        match self {
            Caller::Staff { company, .. } => Ok(*company),
            Caller::Service => Err(Problem::Forbidden("only for staff")),
        }
    }

    /// The company of a manager.
    ///
    /// # Errors
    /// Somebody else calls.
    pub fn manager(&self) -> Result<Id, Problem> {
        match self {
            Caller::Staff {
                company,
                role: StaffRole::Manager,
                ..
            } => Ok(*company),
            _ => Err(Problem::Forbidden("only for managers")),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let found = parts.extensions.get::<Result<Caller, Problem>>().cloned();
        found.unwrap_or_else(|| {
            tracing::error!("a route without the layer `identify`");
            Err(Problem::Internal)
        })
    }
}

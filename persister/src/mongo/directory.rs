//! The documents of companies, users and integrations, and the way back to the contract's types.
//! Makes no query and no write.

use contract::domain::{
    Company, Integration, Provider, Sealed, ShortText, SlaTargets, StaffRole, User,
};
use contract::query::{IntegrationView, RefreshError};
use contract::{Id, Timestamp};
use mongodb::bson::{Bson, Document, doc};

use super::document::{BadDocument, Fields, date, long, oid};
use crate::fold::sla::{Change, Targets};

/// A company as it registered, without its `_id`. The company's targets are added beside these
/// fields.
pub fn company(company: &Company, seq: u64) -> Document {
    doc! {"name": company.name.as_str(), "created_at": date(company.created_at), "seq": long(seq)}
}

/// An entry of a company's field `sla`.
pub fn targets(targets: SlaTargets, seq: u64, at: Timestamp) -> Document {
    let SlaTargets {
        delivery_seconds,
        first_response_seconds,
    } = targets;
    doc! {
        "seq": long(seq),
        "at": date(at),
        "delivery_seconds": i64::from(delivery_seconds),
        "first_response_seconds": i64::from(first_response_seconds),
    }
}

/// The field `sla` of a company, which may be absent.
pub fn read_targets(company: &Document) -> Targets {
    let change = |entry: &Bson| {
        let entry = entry.as_document()?;
        let seconds = |name: &str| u32::try_from(entry.get_i64(name).ok()?).ok();
        let targets = SlaTargets {
            delivery_seconds: seconds("delivery_seconds")?,
            first_response_seconds: seconds("first_response_seconds")?,
        };
        Some(Change {
            seq: entry.get_i64("seq").ok()?,
            at: entry.get_datetime("at").ok()?.timestamp_millis(),
            targets,
        })
    };
    Targets::of(
        company
            .get_array("sla")
            .map(|changes| changes.iter().filter_map(change).collect())
            .unwrap_or_default(),
    )
}

/// A whole company, with its present targets.
///
/// # Errors
/// [`BadDocument`]
pub fn read_company(document: &Document) -> Result<Company, BadDocument> {
    let f = Fields(document);
    let name = f.parsed("name", ShortText::new)?;
    Ok(Company {
        id: f.id("_id")?,
        name,
        created_at: f.at("created_at")?,
        sla: read_targets(document).current(),
    })
}

/// The `_id` of a company's access to a platform.
pub fn integration_id(company: Id, provider: Provider) -> String {
    format!("{company}:{provider}")
}

/// A company's access to a platform. A removed integration leaves its sequence, so that an older
/// change cannot bring the integration back.
pub fn integration(integration: &Integration, seq: u64) -> Document {
    let text = |t: &Option<ShortText>| t.as_ref().map(|t| t.as_str().to_owned());
    let mut document = doc! {
        "company_id": oid(integration.company_id),
        "platform": integration.provider.as_str(),
        "updated_at": date(integration.updated_at),
        "seq": long(seq),
    };
    let optional = [
        ("account_id", text(&integration.account_id)),
        ("account_name", text(&integration.account_name)),
    ];
    document.extend(
        optional
            .into_iter()
            .filter_map(|(k, v)| Some((k.to_owned(), Bson::String(v?)))),
    );
    for (name, token) in [
        ("access_token", &integration.access_token),
        ("refresh_token", &integration.refresh_token),
    ] {
        if let Some(Sealed { key_id, sealed }) = token {
            document.insert(name, doc! {"key_id": key_id, "sealed": sealed});
        }
    }
    if let Some(at) = integration.token_expires_at {
        document.insert("token_expires_at", date(at));
    }
    document
}

/// A whole integration, with the failure to renew its token, if there is one.
///
/// # Errors
/// [`BadDocument`]
pub fn read_integration(
    document: &Document,
    failure: Option<&Document>,
) -> Result<IntegrationView, BadDocument> {
    let f = Fields(document);
    let seq = document.get_i64("seq").map_err(|_| f.bad("seq"))?;
    // A failure that is older than the token is of an earlier token.
    let failure = failure
        .map(Fields)
        .filter(|failure| failure.0.get_i64("seq").is_ok_and(|failed| failed > seq));
    let refresh_error = failure
        .as_ref()
        .map(|f| {
            Ok(RefreshError {
                error: f.text("error")?.to_owned(),
                at: f.at("at")?,
            })
        })
        .transpose()?;
    let seq = failure
        .and_then(|f| f.0.get_i64("seq").ok())
        .unwrap_or(seq)
        .max(0) as u64;
    let integration = read_access(document)?;
    let changed_at = refresh_error
        .as_ref()
        .map_or(integration.updated_at, |e| e.at);
    Ok(IntegrationView {
        integration,
        refresh_error,
        seq,
        changed_at,
    })
}

fn read_access(document: &Document) -> Result<Integration, BadDocument> {
    let f = Fields(document);
    Ok(Integration {
        company_id: f.id("company_id")?,
        provider: f.parsed("platform", str::parse)?,
        account_id: f.maybe("account_id", ShortText::new)?,
        account_name: f.maybe("account_name", ShortText::new)?,
        access_token: read_token(&f, "access_token")?,
        refresh_token: read_token(&f, "refresh_token")?,
        token_expires_at: f.maybe_at("token_expires_at"),
        updated_at: f.at("updated_at")?,
    })
}

fn read_token(f: &Fields<'_>, field: &str) -> Result<Option<Sealed>, BadDocument> {
    let Some(token) = f.0.get(field) else {
        return Ok(None);
    };
    let token = Fields(token.as_document().ok_or_else(|| f.bad(field))?);
    Ok(Some(Sealed {
        key_id: token.text("key_id")?.to_owned(),
        sealed: token.text("sealed")?.to_owned(),
    }))
}

/// A member of staff.
pub fn user(user: &User, seq: u64) -> Document {
    doc! {
        "_id": oid(user.id),
        "company_id": oid(user.company_id),
        "email": user.email.as_str(),
        "fullName": user.full_name.as_str(),
        "role": staff_role(user.role),
        "password_hash": &user.password_hash,
        "created_at": date(user.created_at),
        "seq": long(seq),
    }
}

fn staff_role(role: StaffRole) -> &'static str {
    match role {
        StaffRole::Manager => "manager",
        StaffRole::Receptionist => "receptionist",
    }
}

/// A whole member of staff.
///
/// # Errors
/// [`BadDocument`]
pub fn read_user(document: &Document) -> Result<User, BadDocument> {
    use contract::domain::Email;
    let f = Fields(document);
    let role = match f.text("role")? {
        "manager" => StaffRole::Manager,
        "receptionist" => StaffRole::Receptionist,
        _ => return Err(f.bad("role")),
    };
    Ok(User {
        id: f.id("_id")?,
        company_id: f.id("company_id")?,
        email: f.parsed("email", Email::new)?,
        full_name: f.parsed("fullName", ShortText::new)?,
        role,
        password_hash: f.text("password_hash")?.to_owned(),
        created_at: f.at("created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::event::{Envelope, Event};
    use mongodb::bson::DateTime;

    fn golden(kind: &str) -> Event {
        let file = format!(
            "{}/../nats/golden/{kind}.v1.json",
            env!("CARGO_MANIFEST_DIR")
        );
        Envelope::from_json(&std::fs::read(file).unwrap())
            .unwrap()
            .event
    }

    #[test]
    fn documents_are_read_back_as_they_were_written() {
        let Event::CompanyCreated(c) = golden("company.created") else {
            panic!()
        };
        assert_eq!(read_user(&user(&c.manager, 7)).unwrap(), c.manager);
        let mut as_registered = company(&c.company, 7);
        as_registered.insert("_id", oid(c.company.id));
        assert_eq!(read_company(&as_registered).unwrap(), c.company);
        let chosen = SlaTargets {
            delivery_seconds: 5,
            first_response_seconds: 6,
        };
        as_registered.insert(
            "sla",
            vec![
                targets(chosen, 9, Timestamp::from_millis(5)),
                targets(SlaTargets::default(), 8, Timestamp::from_millis(6)),
            ],
        );
        assert_eq!(read_company(&as_registered).unwrap().sla, chosen);
        let Event::IntegrationUpdated(i) = golden("integration.updated") else {
            panic!()
        };
        let entered = integration(&i, 7);
        let view = read_integration(&entered, None).unwrap();
        assert_eq!(
            (&view.integration, view.seq, view.changed_at),
            (&i, 7, i.updated_at)
        );
        // A failure from before the token was entered is left out.
        for (failed, seq) in [(6_i64, 7), (9, 9)] {
            let failure = doc! {"error": "HTTP 400", "at": DateTime::from_millis(5), "seq": failed};
            let view = read_integration(&entered, Some(&failure)).unwrap();
            assert_eq!(
                (view.integration, view.refresh_error.is_some(), view.seq),
                (i.clone(), failed > 7, seq)
            );
        }
    }
}

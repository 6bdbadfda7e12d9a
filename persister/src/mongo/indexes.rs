//! The indexes of the view, and the task that keeps them there. Each index costs every insert, so
//! there is none without a query that needs it.

use std::time::Duration;

use contract::domain::{DeliveryState, Platform};
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::IndexOptions;
use mongodb::{Database, IndexModel};
use runtime::CancellationToken;
use runtime::service::health::Health;
use serde_json::json;
use tracing::warn;

use crate::latency;
use crate::mongo::client::{DatabaseError, limited};
use crate::mongo::collections::Collections;
use crate::mongo::document;

/// How often [`watch`] makes sure of the indexes.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Every so many ticks of [`watch`] the indexes of earlier versions are dropped.
const RETIRE_TICKS: u64 = 60;

/// The name of the unique index on a platform's own message ids, as a duplicate key error quotes
/// it.
pub const EXTERNAL_INDEX: &str = "conversation_external";
/// Indexes of messages that earlier versions made. Under the first one two conversations cannot have a
/// message of the same platform id. The second one listed a conversation without its sequences.
const RETIRED: [&str; 2] = [
    "company_platform_external",
    "company_id_1_contact_id_1_created_at_-1__id_-1",
];
/// The field with the id that a platform gave a message of ours.
pub const GIVEN_ID: &str = "delivery.external_message_id";
/// The name of the unique index on callers' requests, as a duplicate key error quotes it.
pub const REQUEST_INDEX: &str = "company_request";
/// The name of the unique index on staff emails.
pub const EMAIL_INDEX: &str = "email";

/// Matches messages that await delivery. The query of the backlog and the partial index that serves
/// this query must agree.
pub fn undelivered() -> Document {
    let has_ended = |state: &DeliveryState| {
        matches!(
            state,
            DeliveryState::Delivered | DeliveryState::Failed | DeliveryState::Cancelled
        )
    };
    let open = DeliveryState::ALL.iter().filter(|state| !has_ended(state));
    doc! {"delivery.state": {"$in": open.map(|state| state.as_str()).collect::<Vec<_>>()}}
}

fn index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn with(keys: Document, options: IndexOptions) -> IndexModel {
    IndexModel::builder().keys(keys).options(options).build()
}

fn unique(keys: Document, name: &str, partial: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .unique(true)
        .partial_filter_expression(partial)
        .build();
    with(keys, options)
}

fn partial(keys: Document, name: &str, filter: Document) -> IndexModel {
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .partial_filter_expression(filter)
        .build();
    with(keys, options)
}

/// Makes the indexes. One that is there already is left as it is.
///
/// # Errors
/// MongoDB is away, or another index has the name.
pub async fn create(collections: &Collections) -> Result<(), DatabaseError> {
    collections.messages.create_indexes(of_messages()).await?;
    let conversations = [
        index(doc! {"company_id": 1, "platform": 1, "latest.seq": -1}),
        // Lists over all platforms.
        index(doc! {"company_id": 1, "latest.seq": -1}),
    ];
    collections
        .conversations
        .create_indexes(conversations)
        .await?;
    let contacts = [
        index(doc! {"company_id": 1, "created_at": -1, "_id": -1}),
        index(doc! {"company_id": 1, "search": 1}),
        // Contacts to whom the bot may speak again. Only contacts for whom the bot is silent for a
        // time are in this index.
        partial(
            doc! {"botSuspendUntil": 1, "_id": 1},
            "bot_suspended_until",
            doc! {"botSuspendUntil": {"$exists": true}},
        ),
    ];
    let on_platforms = Platform::ALL
        .iter()
        .filter_map(|platform| document::social_field(*platform));
    let on_platforms = on_platforms.map(|field| {
        let path = format!("social.{field}");
        let filter = doc! {&path: {"$exists": true}};
        partial(doc! {"company_id": 1, &path: 1}, field, filter)
    });
    let contacts = contacts.into_iter().chain(on_platforms);
    collections.contacts.create_indexes(contacts).await?;
    collections
        .attempts
        .create_index(index(doc! {"message_id": 1, "_id": 1}))
        .await?;
    let expiring = IndexOptions::builder()
        .name("at_ttl".to_owned())
        .expire_after(latency::KEPT)
        .build();
    let latencies = [
        with(doc! {"at": 1}, expiring),
        index(doc! {"company_id": 1, "at": 1}),
    ];
    collections
        .persist_latencies
        .create_indexes(latencies)
        .await?;
    // Companies that have chosen targets. The sweep for overdue messages looks at no other.
    let with_targets = IndexOptions::builder()
        .name("sla".to_owned())
        .sparse(true)
        .build();
    collections
        .companies
        .create_index(with(doc! {"sla.seq": 1}, with_targets))
        .await?;
    let users = [
        unique(doc! {"email": 1}, EMAIL_INDEX, None),
        index(doc! {"company_id": 1}),
    ];
    collections.users.create_indexes(users).await?;
    Ok(())
}

fn of_messages() -> [IndexModel; 9] {
    [
        // Echoes of what the bot was given.
        partial(
            doc! {"company_id": 1, "platform": 1, GIVEN_ID: 1},
            "given_id",
            doc! {GIVEN_ID: {"$exists": true}},
        ),
        index(doc! {"platform": 1}),
        // A company's report.
        index(doc! {"company_id": 1, "accepted_at": 1}),
        // Messages that missed their target. No update changes these keys.
        partial(
            doc! {"accepted_at": 1},
            "operator_accepted",
            doc! {"role": "operator"},
        ),
        // The backlog. Delivered messages are not in this index.
        partial(
            doc! {"company_id": 1, "accepted_at": 1},
            "undelivered",
            undelivered(),
        ),
        // Marking a conversation read, and finding its newest message.
        index(doc! {"contact_id": 1, "seq": -1}),
        // Listing a conversation.
        index(doc! {"company_id": 1, "contact_id": 1, "created_at": -1, "seq": -1}),
        unique(
            doc! {"company_id": 1, "platform": 1, "external_message_id": 1, "contact_id": 1},
            EXTERNAL_INDEX,
            Some(doc! {"external_message_id": {"$exists": true}}),
        ),
        unique(
            doc! {"company_id": 1, "request": 1},
            REQUEST_INDEX,
            Some(doc! {"request": {"$exists": true}}),
        ),
    ]
}

/// Drops the indexes of earlier versions.
///
/// # Errors
/// MongoDB is away.
pub async fn retire(collections: &Collections) -> Result<(), DatabaseError> {
    for name in RETIRED {
        match collections.messages.drop_index(name).await {
            Err(error) if is_missing(&error) => {}
            dropped => dropped?,
        }
    }
    Ok(())
}

fn is_missing(error: &mongodb::error::Error) -> bool {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    const INDEX_NOT_FOUND: i32 = 27;
    matches!(
        *error.kind,
        ErrorKind::Command(ref e) if [NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND].contains(&e.code)
    )
}

/// Makes the indexes again and again until the stop, because an operator may drop the database to
/// rebuild it. Each success confirms the health check `mongodb`. During an upgrade a persister of the
/// earlier version makes its indexes again. They are dropped more seldom, because to build them costs
/// much.
pub async fn watch(database: Database, health: Health, stop: CancellationToken) {
    let collections = Collections::of(&database);
    let mut tick = tokio::time::interval(WATCH_EVERY);
    for tick_number in 0_u64.. {
        if stop.run_until_cancelled(tick.tick()).await.is_none() {
            return;
        }
        let kept = async {
            if tick_number.is_multiple_of(RETIRE_TICKS) {
                retire(&collections).await?;
            }
            create(&collections).await
        };
        match limited(kept).await {
            Ok(()) => health.good("mongodb", json!({"database": database.name()})),
            Err(e) => {
                warn!(error = %e, "MongoDB is not as it should be");
                health.bad("mongodb", json!(e.to_string()));
            }
        }
    }
}

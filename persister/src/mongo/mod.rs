//! MongoDB itself: the connection and its time limits, collections, indexes, and bulk updates for
//! servers before 8.0. Knows no event.

pub mod document;

use std::time::Duration;

use contract::domain::DeliveryState;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, IndexOptions, ReadConcern, WriteConcern};
use mongodb::{Client, Collection, Database, IndexModel};
use runtime::CancellationToken;
use runtime::service::health::Health;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tracing::warn;

use crate::latency;

/// How long the driver looks for a primary before an operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(2);
/// Any one operation. Below the consumer's ack wait, so that a hung database gives messages back in
/// time.
pub const OPERATION: Duration = Duration::from_secs(8);
/// A write is majority-committed, and so on disk, within this or fails.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one replica.
const POOL: u32 = 20;
/// How often it is looked whether MongoDB is there.
const RETRY: Duration = Duration::from_secs(1);

/// Why MongoDB did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// It is away, too slow, or not primary: the work is to be tried again.
    #[error("MongoDB does not answer: {0}")]
    Unavailable(String),
    /// It, or its driver, will never take this.
    #[error("MongoDB refuses: {0}")]
    Refused(String),
}

impl DatabaseError {
    /// What a client may be told.
    pub fn into_text(self) -> String {
        match self {
            DatabaseError::Unavailable(text) | DatabaseError::Refused(text) => text,
        }
    }
}

impl From<Error> for DatabaseError {
    fn from(error: Error) -> DatabaseError {
        let text = error.to_string();
        match *error.kind {
            // What depends on the data alone, and not on the state of the server.
            ErrorKind::BsonSerialization(_)
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::Bson(_) => DatabaseError::Refused(text),
            ErrorKind::Command(ref e) if PERMANENT.contains(&e.code) => {
                DatabaseError::Refused(text)
            }
            ErrorKind::InsertMany(ref many)
                if many
                    .write_errors
                    .iter()
                    .flatten()
                    .any(|e| PERMANENT.contains(&e.code)) =>
            {
                DatabaseError::Refused(text)
            }
            _ => DatabaseError::Unavailable(text),
        }
    }
}

/// Codes of errors that the same data will always meet: bad value, failed to parse, type mismatch,
/// dollar-prefixed or empty field name, immutable field, object or key too large, document
/// validation.
const PERMANENT: &[i32] = &[
    2, 9, 14, 22, 52, 56, 66, 121, 10_334, 17_280, 17_419, 17_420,
];

/// The name of the unique index on a platform's own message ids, as it stands in a duplicate key
/// error.
pub const EXTERNAL_INDEX: &str = "company_platform_external";
/// The name of the unique index on callers' requests, as it stands in a duplicate key error.
pub const REQUEST_INDEX: &str = "company_request";
/// The name of the unique index on staff emails.
pub const EMAIL_INDEX: &str = "email";
/// The server's code for a duplicate key.
pub const DUPLICATE_KEY: i32 = 11_000;

/// Connects lazily: a database that is away shows at the first operation.
///
/// # Errors
/// The URI is not one, or names no database.
pub async fn open(uri: &SecretString) -> Result<Database, DatabaseError> {
    let mut options = ClientOptions::parse(uri.expose_secret()).await?;
    options.app_name = Some("petbuddy-persister".into());
    options.server_selection_timeout = Some(SERVER_SELECTION);
    options.connect_timeout = Some(SERVER_SELECTION);
    options.max_pool_size = Some(POOL);
    options.write_concern = Some(
        WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .w_timeout(WRITE_TIMEOUT)
            .build(),
    );
    options.read_concern = Some(ReadConcern::local());
    let name = options.default_database.clone().ok_or_else(|| {
        DatabaseError::Refused(
            "MONGODB_URI must name the database, as in mongodb://host:27017/petbuddy".into(),
        )
    })?;
    Ok(Client::with_options(options)?.database(&name))
}

/// Messages that await delivery.
pub fn undelivered() -> Document {
    let open = DeliveryState::ALL
        .iter()
        .filter(|state| !matches!(state, DeliveryState::Delivered | DeliveryState::Failed));
    doc! {"delivery.state": {"$in": open.map(|state| state.as_str()).collect::<Vec<_>>()}}
}

/// The collections of the view.
#[derive(Clone)]
pub struct Collections {
    /// Messages; also the shells of messages whose `message.created` has not come yet.
    pub messages: Collection<Document>,
    /// One document for a company's contact on a platform: counters, latest message, read marks.
    pub conversations: Collection<Document>,
    /// Contacts.
    pub contacts: Collection<Document>,
    /// Companies.
    pub companies: Collection<Document>,
    /// Staff.
    pub users: Collection<Document>,
    /// One document for a company's access to a platform.
    pub integrations: Collection<Document>,
    /// The last token of each that could not be renewed.
    pub refresh_failures: Collection<Document>,
    /// One document for each call to the bot, by the sequence of the event that tells of it.
    pub attempts: Collection<Document>,
    /// How long messages took to be persisted; no part of the view.
    pub persist_latencies: Collection<Document>,
}

impl Collections {
    /// Those of a database.
    pub fn of(database: &Database) -> Collections {
        let named = |name| database.collection(name);
        Collections {
            messages: named("messages"),
            conversations: named("conversations"),
            contacts: named("contacts"),
            companies: named("companies"),
            users: named("users"),
            integrations: named("integrations"),
            refresh_failures: named("refresh_failures"),
            attempts: named("attempts"),
            persist_latencies: named("persist_latencies"),
        }
    }

    /// Makes the indexes. Each costs every insert, so there is none without a query that needs it.
    ///
    /// # Errors
    /// MongoDB is away, or an index of the same name is another.
    pub async fn create_indexes(&self) -> Result<(), DatabaseError> {
        let index = |keys: Document| IndexModel::builder().keys(keys).build();
        let unique = |keys: Document, name: &str, partial: Option<Document>| {
            let options = IndexOptions::builder()
                .name(name.to_owned())
                .unique(true)
                .partial_filter_expression(partial)
                .build();
            IndexModel::builder().keys(keys).options(options).build()
        };
        let partial = |keys: Document, name: &str, filter: Document| {
            let options = IndexOptions::builder()
                .name(name.to_owned())
                .partial_filter_expression(filter)
                .build();
            IndexModel::builder().keys(keys).options(options).build()
        };
        let messages = [
            index(doc! {"platform": 1}),
            // A company's report.
            index(doc! {"company_id": 1, "accepted_at": 1}),
            // What has missed its target; never changed by an update.
            partial(
                doc! {"accepted_at": 1},
                "operator_accepted",
                doc! {"role": "operator"},
            ),
            // What awaits delivery: empty but for that.
            partial(
                doc! {"company_id": 1, "accepted_at": 1},
                "undelivered",
                undelivered(),
            ),
            // Marking a conversation read, and finding its newest message.
            index(doc! {"contact_id": 1, "seq": -1}),
            // Listing a conversation.
            index(doc! {"company_id": 1, "contact_id": 1, "created_at": -1, "_id": -1}),
            unique(
                doc! {"company_id": 1, "platform": 1, "external_message_id": 1},
                EXTERNAL_INDEX,
                Some(doc! {"external_message_id": {"$exists": true}}),
            ),
            unique(
                doc! {"company_id": 1, "request": 1},
                REQUEST_INDEX,
                Some(doc! {"request": {"$exists": true}}),
            ),
        ];
        self.messages.create_indexes(messages).await?;
        let conversations = [
            index(doc! {"company_id": 1, "platform": 1, "latest.seq": -1}),
            // Of all platforms.
            index(doc! {"company_id": 1, "latest.seq": -1}),
        ];
        self.conversations.create_indexes(conversations).await?;
        let contacts = [
            index(doc! {"company_id": 1, "created_at": -1, "_id": -1}),
            index(doc! {"company_id": 1, "search": 1}),
            // Whom the bot may speak to again: of those alone for whom it is to be silent for a
            // time.
            partial(
                doc! {"botSuspendUntil": 1, "_id": 1},
                "bot_suspended_until",
                doc! {"botSuspendUntil": {"$exists": true}},
            ),
        ];
        self.contacts.create_indexes(contacts).await?;
        self.attempts
            .create_index(index(doc! {"message_id": 1, "_id": 1}))
            .await?;
        let gone = IndexOptions::builder()
            .name("at_ttl".to_owned())
            .expire_after(latency::KEPT)
            .build();
        let latencies = [
            IndexModel::builder()
                .keys(doc! {"at": 1})
                .options(gone)
                .build(),
            index(doc! {"company_id": 1, "at": 1}),
        ];
        self.persist_latencies.create_indexes(latencies).await?;
        // Those that have chosen targets: a sweep looks at no other.
        let chosen = IndexOptions::builder()
            .name("sla".to_owned())
            .sparse(true)
            .build();
        self.companies
            .create_index(
                IndexModel::builder()
                    .keys(doc! {"sla.seq": 1})
                    .options(chosen)
                    .build(),
            )
            .await?;
        self.users
            .create_indexes([
                unique(doc! {"email": 1}, EMAIL_INDEX, None),
                index(doc! {"company_id": 1}),
            ])
            .await?;
        Ok(())
    }
}

/// Keeps the indexes there, also after somebody has dropped the database to rebuild it, and so
/// confirms the check `mongodb` every second while it answers.
pub async fn watch(database: Database, health: Health, stop: CancellationToken) {
    let collections = Collections::of(&database);
    let mut tick = tokio::time::interval(RETRY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        // Making an index that is there does nothing.
        match limited(collections.create_indexes()).await {
            Ok(()) => health.good("mongodb", json!({"database": database.name()})),
            Err(e) => {
                warn!(error = %e, "MongoDB is not as it should be");
                health.bad("mongodb", json!(e.to_string()));
            }
        }
    }
}

/// Bounds an operation by [`OPERATION`].
///
/// # Errors
/// The operation's own, or that it took too long.
pub async fn limited<T>(
    operation: impl Future<Output = Result<T, DatabaseError>>,
) -> Result<T, DatabaseError> {
    tokio::time::timeout(OPERATION, operation)
        .await
        .unwrap_or_else(|_| {
            Err(DatabaseError::Unavailable(format!(
                "no answer within {OPERATION:?}"
            )))
        })
}

/// What a bulk of updates did.
#[derive(Debug, Default)]
pub struct Updated {
    /// Documents that an update matched or inserted.
    pub matched: u64,
    /// Documents that changed.
    pub modified: u64,
    /// Positions of updates that hit a unique key.
    pub duplicates: Vec<usize>,
}

/// Updates in one command, …
const UPDATES_A_COMMAND: usize = 1_000;
/// … and their bytes: the server takes 16 MB, of which one update may bring over the rest.
const BYTES_A_COMMAND: usize = 6 * 1024 * 1024;

/// Sends updates `{q, u, upsert?, multi?}`, unordered, majority-committed. `Client::bulk_write`
/// needs MongoDB 8.0.
///
/// # Errors
/// Anything but a duplicate key, which is reported in [`Updated`].
pub async fn update_many(
    collection: &Collection<Document>,
    updates: Vec<Document>,
) -> Result<Updated, DatabaseError> {
    let database = collection.client().database(&collection.namespace().db);
    let mut done = Updated::default();
    let mut rest = updates.into_iter().peekable();
    let mut base = 0;
    while rest.peek().is_some() {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < UPDATES_A_COMMAND && bytes < BYTES_A_COMMAND {
            let Some(update) = rest.next() else { break };
            bytes += mongodb::bson::serialize_to_vec(&update)
                .map_err(|e| DatabaseError::Refused(e.to_string()))?
                .len();
            chunk.push(update);
        }
        let count = chunk.len();
        // run_command neither takes the client's write concern nor turns write errors into an
        // `Err`.
        let command = doc! {
            "update": collection.name(),
            "updates": chunk,
            "ordered": false,
            "writeConcern": {"w": "majority", "j": true, "wtimeout": WRITE_TIMEOUT.as_millis() as i64},
        };
        let reply = limited(async { Ok(database.run_command(command).await?) }).await?;
        if let Ok(error) = reply.get_document("writeConcernError") {
            return Err(DatabaseError::Unavailable(format!("{error}")));
        }
        let errors = reply
            .get_array("writeErrors")
            .map(|e| e.as_slice())
            .unwrap_or_default();
        for error in errors.iter().filter_map(|e| e.as_document()) {
            match error.get_i32("code").unwrap_or_default() {
                DUPLICATE_KEY => {}
                code if PERMANENT.contains(&code) => {
                    return Err(DatabaseError::Refused(format!("{error}")));
                }
                _ => return Err(DatabaseError::Unavailable(format!("{error}"))),
            }
            let index = error.get_i32("index").unwrap_or_default() as usize;
            done.duplicates.push(base + index);
        }
        done.matched += reply.get_i32("n").unwrap_or_default() as u64;
        done.modified += reply.get_i32("nModified").unwrap_or_default() as u64;
        base += count;
    }
    Ok(done)
}

/// Inserts what is new; positions that hit a unique key come back.
///
/// # Errors
/// Anything but a duplicate key.
pub async fn insert_new(
    collection: &Collection<Document>,
    documents: &[Document],
) -> Result<Vec<usize>, DatabaseError> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let insert = async { Ok(collection.insert_many(documents).ordered(false).await) };
    match limited(insert).await? {
        Ok(_) => Ok(Vec::new()),
        Err(error) => match *error.kind {
            ErrorKind::InsertMany(ref many) if many.write_concern_error.is_none() => {
                let errors = many.write_errors.as_deref().unwrap_or_default();
                match errors.iter().all(|e| e.code == DUPLICATE_KEY) && !errors.is_empty() {
                    true => Ok(errors.iter().map(|e| e.index).collect()),
                    false => Err(error.into()),
                }
            }
            _ => Err(error.into()),
        },
    }
}

/// Makes a mongod that was started with `--replSet` a replica set of one, and waits until it is
/// primary. For the development run; a set that exists is left as it is.
///
/// # Errors
/// It does not answer, or does not become primary within 30 s.
pub async fn initiate_replica_set(host: &str) -> Result<(), DatabaseError> {
    const PRIMARY_WITHIN: Duration = Duration::from_secs(30);
    let mut options =
        ClientOptions::parse(format!("mongodb://{host}/?directConnection=true")).await?;
    options.server_selection_timeout = Some(PRIMARY_WITHIN);
    let admin = Client::with_options(options)?.database("admin");
    let config = doc! {"_id": "rs0", "members": [{"_id": 0, "host": host}]};
    let elect = async {
        match admin
            .run_command(doc! {"replSetInitiate": config.clone()})
            .await
        {
            Ok(_) => {}
            // The data folder knows its set; the port may be another than last time.
            Err(e) if e.to_string().contains("already initialized") => {
                reconfigure(&admin, host).await?
            }
            Err(e) => return Err(e.into()),
        }
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            let hello = admin.run_command(doc! {"hello": 1}).await?;
            if hello.get_bool("isWritablePrimary").unwrap_or_default() {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(PRIMARY_WITHIN, elect)
        .await
        .unwrap_or_else(|_| {
            Err(DatabaseError::Unavailable(
                "mongod did not become primary".into(),
            ))
        })
}

async fn reconfigure(admin: &Database, host: &str) -> Result<(), DatabaseError> {
    let reply = admin.run_command(doc! {"replSetGetConfig": 1}).await?;
    let mut config = reply.get_document("config").cloned().unwrap_or_default();
    let current = config.get_array("members").ok().and_then(|m| {
        m.first()?
            .as_document()?
            .get_str("host")
            .ok()
            .map(str::to_owned)
    });
    if current.as_deref() == Some(host) {
        return Ok(());
    }
    config.insert("version", config.get_i32("version").unwrap_or(1) + 1);
    config.insert("members", vec![doc! {"_id": 0, "host": host}]);
    admin
        .run_command(doc! {"replSetReconfig": config, "force": true})
        .await?;
    Ok(())
}

//! The connection to MongoDB, its time limits and its errors. Knows no collection.

use std::time::Duration;

use mongodb::error::{Error, ErrorKind};
use mongodb::options::{Acknowledgment, ClientOptions, ReadConcern, ReadPreference, WriteConcern};
use mongodb::{Client, Database};
use secrecy::{ExposeSecret, SecretString};

/// How long the driver looks for a primary. Beyond that the operation fails.
const SERVER_SELECTION: Duration = Duration::from_secs(2);
/// The time limit of one operation. It is shorter than the consumer's ack wait, so that a hung
/// database gives its messages back in time.
pub const OPERATION: Duration = Duration::from_secs(8);
/// The time limit for a write to be majority-committed, and so on disk. Beyond that the write
/// fails.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that one replica opens at most. Further operations wait for a free connection.
const POOL: u32 = 20;

/// Why MongoDB did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// MongoDB is away, too slow, or not primary. The same operation may succeed later.
    #[error("MongoDB does not answer: {0}")]
    Unavailable(String),
    /// The server or its driver refuses this data, now and always.
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
            // These kinds depend on the data alone, and not on the state of the server.
            ErrorKind::BsonSerialization(_)
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::Bson(_) => DatabaseError::Refused(text),
            ErrorKind::Command(ref e) if is_permanent(e.code) => DatabaseError::Refused(text),
            ErrorKind::InsertMany(ref many)
                if many
                    .write_errors
                    .iter()
                    .flatten()
                    .any(|e| is_permanent(e.code)) =>
            {
                DatabaseError::Refused(text)
            }
            _ => DatabaseError::Unavailable(text),
        }
    }
}

/// Whether the same data will always meet this error of the server: bad value, failed to parse,
/// type mismatch, dollar-prefixed or empty field name, immutable field, object or key too large,
/// document validation.
pub fn is_permanent(code: i32) -> bool {
    const PERMANENT: [i32; 12] = [
        2, 9, 14, 22, 52, 56, 66, 121, 10_334, 17_280, 17_419, 17_420,
    ];
    PERMANENT.contains(&code)
}

/// Connects lazily: the first operation shows whether the database is there.
///
/// # Errors
/// The URI cannot be parsed, or names no database.
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
    // A secondary lacks what the primary has just acknowledged. Whoever reads it would take a message
    // for missing, or for written by somebody else.
    options.selection_criteria = Some(ReadPreference::Primary.into());
    let name = options.default_database.clone().ok_or_else(|| {
        DatabaseError::Refused(
            "MONGODB_URI must name the database, as in mongodb://host:27017/petbuddy".into(),
        )
    })?;
    Ok(Client::with_options(options)?.database(&name))
}

/// Bounds an operation by [`OPERATION`].
///
/// # Errors
/// The operation's own error, or [`DatabaseError::Unavailable`] once the time is over.
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

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::options::SelectionCriteria;

    #[tokio::test]
    async fn reads_go_to_the_primary_whatever_the_uri_says() {
        let uri = "mongodb://127.0.0.1:1/petbuddy?readPreference=secondaryPreferred";
        let database = open(&SecretString::from(uri)).await.unwrap();
        let criteria = database.selection_criteria().cloned();
        let primary = SelectionCriteria::from(ReadPreference::Primary);
        assert_eq!(format!("{criteria:?}"), format!("{:?}", Some(primary)));
    }
}

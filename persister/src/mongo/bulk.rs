//! Bulk writes: inserts, updates and guarded upserts, each majority-committed. Knows no event.

use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;

use crate::mongo::client::{DatabaseError, WRITE_TIMEOUT, is_permanent, limited};

/// The server's error code for a duplicate key.
const DUPLICATE_KEY: i32 = 11_000;
/// Updates in one command at most. Further updates go into the next command.
const UPDATES_A_COMMAND: usize = 1_000;
/// A command is closed once its updates have this many bytes. The server takes 16 MB, and the last
/// update may bring the rest.
const BYTES_A_COMMAND: usize = 6 * 1024 * 1024;

/// What a bulk of updates did.
#[derive(Debug, Default)]
pub struct Updated {
    /// Documents that an update matched or inserted.
    pub matched: u64,
    /// Documents that changed.
    pub modified: u64,
    /// Positions of updates that met a unique key.
    pub duplicates: Vec<usize>,
}

/// Sends updates `{q, u, upsert?, multi?}`, unordered. The driver's `Client::bulk_write` is not
/// used, because it needs MongoDB 8.0.
///
/// # Errors
/// Any error but a duplicate key, which [`Updated`] reports.
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
        // `run_command` ignores the client's write concern, and returns `Ok` in spite of write
        // errors. So both are dealt with here.
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
                code if is_permanent(code) => {
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

/// Inserts documents, unordered. Returns the positions of documents that met a unique key.
///
/// # Errors
/// Any error but a duplicate key.
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

/// Sends guarded upserts, and returns the positions of upserts that met an existing `_id`. Each of
/// these is sent once more without the upsert: either a later event holds the guard, and the
/// update matches nothing; or another replica has inserted the document in between, and the update
/// applies now. MongoDB itself repeats an upsert only if its filter has nothing but equalities.
///
/// # Errors
/// See [`update_many`].
pub async fn upsert(
    collection: &Collection<Document>,
    updates: Vec<Document>,
) -> Result<Vec<usize>, DatabaseError> {
    let met = update_many(collection, updates.clone()).await?.duplicates;
    let again = met.iter().map(|i| {
        let mut update = updates[*i].clone();
        update.remove("upsert");
        update
    });
    if !met.is_empty() {
        update_many(collection, again.collect()).await?;
    }
    Ok(met)
}

//! For development and tests only: makes a replica set of the mongod that `cargo run` starts. No
//! service calls this. The code is here because only the persister may depend on `mongodb`.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ClientOptions;
use mongodb::{Client, Database};

use crate::mongo::client::DatabaseError;

/// How long an election may take.
const PRIMARY_WITHIN: Duration = Duration::from_secs(30);
/// How often mongod is asked whether it is primary.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The server's error code `AlreadyInitialized`.
const ALREADY_INITIALIZED: i32 = 23;

/// Makes a mongod that was started with `--replSet` a replica set of one, and waits until it is
/// primary. A set that exists keeps its data; only its address is corrected.
///
/// # Errors
/// mongod does not answer, or does not become primary within 30 s.
pub async fn initiate_replica_set(host: &str) -> Result<(), DatabaseError> {
    let mut options =
        ClientOptions::parse(format!("mongodb://{host}/?directConnection=true")).await?;
    options.server_selection_timeout = Some(PRIMARY_WITHIN);
    let admin = Client::with_options(options)?.database("admin");
    tokio::time::timeout(PRIMARY_WITHIN, elect(&admin, host))
        .await
        .unwrap_or_else(|_| {
            Err(DatabaseError::Unavailable(
                "mongod did not become primary".into(),
            ))
        })
}

async fn elect(admin: &Database, host: &str) -> Result<(), DatabaseError> {
    let config = doc! {"_id": "rs0", "members": members(host)};
    match admin.run_command(doc! {"replSetInitiate": config}).await {
        Ok(_) => {}
        // The data directory knows its set. The port may be another than last time.
        Err(e) if is_already_initialized(&e) => reconfigure(admin, host).await?,
        Err(e) => return Err(e.into()),
    }
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let hello = admin.run_command(doc! {"hello": 1}).await?;
        if hello.get_bool("isWritablePrimary").unwrap_or_default() {
            return Ok(());
        }
    }
}

fn is_already_initialized(error: &Error) -> bool {
    matches!(*error.kind, ErrorKind::Command(ref e) if e.code == ALREADY_INITIALIZED)
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
    config.insert("members", members(host));
    admin
        .run_command(doc! {"replSetReconfig": config, "force": true})
        .await?;
    Ok(())
}

fn members(host: &str) -> Vec<Document> {
    vec![doc! {"_id": 0, "host": host}]
}

//! All text that a system stores or prints, for tests that search it for secrets.

use mongodb::bson::Document;

use super::{System, documents};

/// The log lines of all services.
pub fn log_lines(system: &System) -> String {
    std::fs::read_to_string(system.folder.0.join("logs/combined.log")).unwrap_or_default()
}

/// The text of streams, database, log lines and console, each with the name of its place.
pub async fn all_stored_text(system: &System) -> Vec<(String, String)> {
    let (mut everything, log) = (Vec::new(), system.operator().await);
    for name in ["EVENTS", "JOBS", "DEAD"] {
        let stream = log.get_stream(name).await.unwrap();
        for seq in 1..=stream.get_info().await.unwrap().state.last_sequence {
            // Old ticks have been removed from the stream.
            let Ok(message) = stream.get_raw_message(seq).await else {
                continue;
            };
            let payload = String::from_utf8_lossy(&message.payload);
            everything.push((
                format!("{name} {seq}"),
                format!("{} {:?} {payload}", message.subject, message.headers),
            ));
        }
    }
    let database = system.database().await;
    for collection in database.list_collection_names().await.unwrap() {
        for document in documents(&database, &collection, Document::new()).await {
            everything.push((format!("collection {collection}"), document.to_string()));
        }
    }
    everything.push(("logs/combined.log".into(), log_lines(system)));
    everything.push(("the console".into(), system.console()));
    everything
}

//! Closes the sockets of logins that have ended, within seconds. Ends no login; the gateway does,
//! by removing the login's entry from the bucket `sessions`.
//!
//! A removal is heard at once by a core subscription. Every few seconds the entries of all open
//! sockets are looked up too. Otherwise removals would be missed that happened while this node was
//! not connected, or by the operator's purge, which core subscriptions do not hear.

use std::collections::HashSet;
use std::time::Duration;

use contract::{Id, inventory, subject};
use futures_util::StreamExt;
use metrics::counter;
use runtime::log::direct_get;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::session::Login;
use crate::node::Node;

/// How often the entries of open sockets are looked up.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Pause before the subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// Listens and looks entries up until the service stops.
pub async fn run(node: Node) {
    let listen = async {
        loop {
            match node
                .connection()
                .subscribe(subject::entry(inventory::SESSIONS, "*.*"))
                .await
            {
                Ok(changes) => follow(&node, changes).await,
                Err(e) => warn!(error = %e, "logins cannot be followed"),
            }
            sleep(PAUSE).await;
        }
    };
    let _ = node.stop().run_until_cancelled(listen).await;
}

async fn follow(node: &Node, mut changes: async_nats::Subscriber) {
    let mut tick = interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = HashSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => missing = check(node, missing).await,
            change = changes.next() => {
                let Some(change) = change else { return };
                let is_removed = change.payload.is_empty();
                if let Some(login) = login_of(&change.subject).filter(|_| is_removed) {
                    end(node, &HashSet::from([login]));
                }
            }
        }
    }
}

/// Looks up the entries of all open sockets and returns the logins without one. Ends the sockets
/// whose login had no entry at the check before, either. Otherwise a replica that lacks a new entry
/// would end a socket that has just been opened.
async fn check(node: &Node, missing_before: HashSet<Login>) -> HashSet<Login> {
    let logins: HashSet<Login> = node
        .hub()
        .rooms()
        .iter()
        .flat_map(|room| room.logins())
        .collect();
    let logins: Vec<Login> = logins.into_iter().collect();
    let bucket = format!("KV_{}", inventory::SESSIONS);
    let mut missing = HashSet::new();
    for chunk in logins.chunks(direct_get::MAX_LATEST) {
        let subjects: Vec<String> = chunk
            .iter()
            .map(|(user, session)| entry(*user, *session))
            .collect();
        match direct_get::latest(node.connection(), &bucket, &subjects).await {
            Ok(found) => {
                let present: HashSet<&str> = found
                    .iter()
                    .filter(|entry| !entry.payload.is_empty())
                    .map(|entry| entry.subject.as_str())
                    .collect();
                missing.extend(
                    chunk
                        .iter()
                        .zip(&subjects)
                        .filter(|(_, subject)| !present.contains(subject.as_str()))
                        .map(|(login, _)| *login),
                );
            }
            Err(error) => {
                counter!("realtime_session_looks_failed_total").increment(1);
                warn!(%error, "logins cannot be looked up");
                return missing_before;
            }
        }
    }
    end(
        node,
        &missing.intersection(&missing_before).copied().collect(),
    );
    missing
}

fn end(node: &Node, logins: &HashSet<Login>) {
    if !logins.is_empty() {
        let rooms = node.hub().rooms();
        rooms.iter().for_each(|room| room.end_logins(logins));
    }
}

fn entry(user: Id, session: Id) -> String {
    subject::entry(inventory::SESSIONS, &format!("{user}.{session}"))
}

fn login_of(subject: &str) -> Option<Login> {
    let mut tokens = subject.rsplit('.');
    let (session, user) = (tokens.next()?, tokens.next()?);
    Some((user.parse().ok()?, session.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_an_entry_names_its_login() {
        let (user, session) = (Id::from_bytes([1; 12]), Id::from_bytes([2; 12]));
        assert_eq!(login_of(&entry(user, session)), Some((user, session)));
        assert_eq!(login_of("$KV.sessions.x.y"), None);
    }
}

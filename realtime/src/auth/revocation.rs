//! Logins that have ended: their sockets are closed within seconds. The gateway removes a login's
//! entry from the bucket `sessions`; a removal is heard at once. Every few seconds the entries of
//! all open sockets are looked up too, for what was removed while this node was not connected, or
//! by the operator's purge, which core subscribers do not hear.

use std::collections::HashSet;
use std::time::Duration;

use contract::{Id, inventory, subject};
use futures_util::StreamExt;
use metrics::counter;
use runtime::log::direct_get;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::warn;

use crate::auth::session::Login;
use crate::node::Node;

/// How often the entries of open sockets are looked up.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause before the subscription is made again.
const PAUSE: Duration = Duration::from_millis(500);

/// Listens and looks until the service stops.
pub async fn run(node: Node) {
    let listen = async {
        loop {
            match node
                .connection()
                .client
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
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = HashSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => missing = look(node, missing).await,
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

/// Ends the sockets whose login was missing the last time too: a replica that answers may not have
/// a new one yet.
async fn look(node: &Node, missing_before: HashSet<Login>) -> HashSet<Login> {
    let logins: HashSet<Login> = node
        .hub()
        .rooms()
        .iter()
        .flat_map(|company| company.logins())
        .collect();
    let logins: Vec<Login> = logins.into_iter().collect();
    let mut missing = HashSet::new();
    for some in logins.chunks(direct_get::MAX_LATEST) {
        let subjects: Vec<String> = some
            .iter()
            .map(|(user, session)| entry(*user, *session))
            .collect();
        match direct_get::latest(
            node.connection(),
            &format!("KV_{}", inventory::SESSIONS),
            &subjects,
        )
        .await
        {
            Ok(found) => {
                let there: HashSet<&str> = found
                    .iter()
                    .filter(|e| !e.payload.is_empty())
                    .map(|e| e.subject.as_str())
                    .collect();
                missing.extend(
                    some.iter()
                        .zip(&subjects)
                        .filter(|(_, s)| !there.contains(s.as_str()))
                        .map(|(login, _)| *login),
                );
            }
            Err(error) => {
                counter!("realtime_session_looks_failed_total").increment(1);
                warn!(error, "logins cannot be looked up");
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
        node.hub()
            .rooms()
            .iter()
            .for_each(|company| company.end_logins(logins));
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
    fn an_entry_names_its_login() {
        let (user, session) = (Id::from_bytes([1; 12]), Id::from_bytes([2; 12]));
        assert_eq!(login_of(&entry(user, session)), Some((user, session)));
        assert_eq!(login_of("$KV.sessions.x.y"), None);
    }
}

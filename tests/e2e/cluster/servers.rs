//! The servers themselves: after a rolling restart, as an upgrade makes it, each has clients again.

use std::time::Duration;

use crate::support::cluster::ClusteredSystem;
use crate::support::eventually;

/// Longer than the longest time after which a client moves.
const SPREAD: Duration = Duration::from_secs(75);

/// Whether every server has clients of services.
async fn is_spread(clustered: &ClusteredSystem) -> bool {
    for server in 0..3 {
        let clients = clustered.cluster.clients_of(server).await;
        // `operator` is this test.
        if !clients.iter().any(|name| name.contains('-')) {
            return false;
        }
    }
    true
}

async fn eventually_spread(clustered: &ClusteredSystem) {
    eventually("every server has clients", 2 * SPREAD, || async {
        is_spread(clustered).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_spread_over_the_servers_again_after_a_rolling_restart() {
    // Ten clients draw their servers at random, so one server may have none: once in twenty times.
    const ROUNDS: usize = 4;
    let mut clustered = ClusteredSystem::start().await;
    for round in 1..=ROUNDS {
        for server in 0..3 {
            clustered.cluster.end("-TERM", server);
            clustered.cluster.restart(server);
            clustered.cluster.await_healthy(server).await;
        }
        let spread = eventually_spread(&clustered);
        if tokio::time::timeout(SPREAD, spread).await.is_ok() {
            break;
        }
        assert!(round < ROUNDS, "a server stays without clients");
    }
    clustered.system.await_ready().await;
    clustered.system.assert_audit_clean();
}

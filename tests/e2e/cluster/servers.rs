//! The servers themselves: after a rolling restart, as an upgrade makes it, each has clients again.

use std::time::Duration;

use crate::support::cluster::ClusteredSystem;
use crate::support::eventually;

/// Longer than the longest time after which a client moves.
const SPREAD: Duration = Duration::from_secs(75);

/// Replicas of all services.
const SERVICES: usize = 10;

/// How many services are connected to a server. The runner, too, has a connection, as operator.
async fn clients_of_services(clustered: &ClusteredSystem, server: usize) -> usize {
    let clients = clustered.cluster.clients_of(server).await;
    let of_service = |name: &&String| name.contains('-') && !name.starts_with("operator");
    clients.iter().filter(of_service).count()
}

/// Whether every server has clients of services.
async fn is_spread(clustered: &ClusteredSystem) -> bool {
    for server in 0..3 {
        if clients_of_services(clustered, server).await == 0 {
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
            // A server that comes back before its clients have moved may get some of them again.
            eventually("its clients have moved", SPREAD, || async {
                let mut others = 0;
                for other in (0..3).filter(|other| *other != server) {
                    others += clients_of_services(&clustered, other).await;
                }
                (others == SERVICES).then_some(())
            })
            .await;
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

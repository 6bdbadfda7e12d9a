//! Where a request comes from: the peer of the connection, or, past proxies that are trusted by
//! name, the address that the nearest trusted one saw. What anybody else claims in
//! `X-Forwarded-For` counts for nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;
use runtime::service::settings::Settings;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// Whoever has one IPv6 address has at least so many leading bits for themselves.
const IPV6_NETWORK_BITS: u32 = 64;

/// The other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The address that a request counts for.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

/// `TRUSTED_PROXIES`
#[derive(Clone, Debug)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl TrustedProxies {
    /// Reads addresses and networks such as `10.0.0.0/8`, with commas. Default: nobody is trusted.
    pub fn read(settings: &mut Settings) -> TrustedProxies {
        let given = settings
            .named(
                "TRUSTED_PROXIES",
                "Proxies whose `X-Forwarded-For` is believed, as addresses or networks. \
                 docker-compose.yml trusts the private networks, where its balancer is.",
            )
            .default_in_words("nobody")
            .example("10.0.0.0/8,172.16.0.0/12,192.168.0.0/16")
            .list();
        let networks = given.iter().filter_map(|text| {
            let found = text.parse().ok().or_else(|| Some(IpNet::from(text.parse::<IpAddr>().ok()?)));
            if found.is_none() {
                settings.problem(format!("TRUSTED_PROXIES must hold addresses or networks such as 10.0.0.0/8, not `{text}`"));
            }
            found
        });
        TrustedProxies(networks.collect())
    }

    /// Whether this is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Each proxy appends whom it heard, so only the right end of the list, as far as trusted
    /// proxies wrote it, is true.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        while self.contains(client) {
            match hops.next().and_then(hop) {
                Some(before) => client = before,
                None => break,
            }
        }
        client
    }
}

/// `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1`, `[2001:db8::1]:5000`
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text
        .parse()
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// What one party is likely to own: an IPv4 address, or the network of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - IPV6_NETWORK_BITS))).into()
        }
        v4 => v4,
    }
}

/// A layer: puts the [`ClientAddress`] into the request.
pub async fn resolve(
    State(trusted): State<TrustedProxies>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() {
        let client = trusted.client(peer, request.headers());
        request.extensions_mut().insert(ClientAddress(client));
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(list: &str) -> TrustedProxies {
        let mut settings = Settings::of([("TRUSTED_PROXIES".to_owned(), list.to_owned())]);
        let trusted = TrustedProxies::read(&mut settings);
        settings.finish().unwrap();
        trusted
    }

    fn client(list: &str, peer: &str, lines: &[&str]) -> String {
        let headers = lines
            .iter()
            .map(|line| (FORWARDED_FOR.parse().unwrap(), line.parse().unwrap()))
            .collect();
        trusted(list)
            .client(peer.parse().unwrap(), &headers)
            .to_string()
    }

    #[test]
    fn a_claim_counts_only_as_far_as_trusted_proxies_wrote_it() {
        let balancer = "10.0.0.0/8,2001:db8::1";
        assert_eq!(client("", "10.0.0.1", &["1.1.1.1"]), "10.0.0.1");
        assert_eq!(client(balancer, "9.9.9.9", &["1.1.1.1"]), "9.9.9.9");
        assert_eq!(
            client(balancer, "10.0.0.1", &["6.6.6.6, 1.1.1.1"]),
            "1.1.1.1"
        );
        assert_eq!(
            client(balancer, "10.0.0.1", &["6.6.6.6", "1.1.1.1, 10.0.0.2"]),
            "1.1.1.1"
        );
        assert_eq!(
            client(balancer, "2001:db8::1", &["[2001:db8:1::5]:99"]),
            "2001:db8:1::5"
        );
        assert_eq!(client(balancer, "10.0.0.1", &["::ffff:1.1.1.1"]), "1.1.1.1");
    }

    #[test]
    fn without_a_readable_claim_the_nearest_known_hop_counts() {
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.1", &["10.0.0.3,10.0.0.2"]),
            "10.0.0.3"
        );
        assert_eq!(
            client("10.0.0.0/8", "10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["1.1.1.1,"]), "10.0.0.1");
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_party() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn what_is_no_network_is_a_problem() {
        let mut settings = Settings::of([(
            "TRUSTED_PROXIES".to_owned(),
            "10.0.0.0/8, proxy, 10.0.0.0/33".to_owned(),
        )]);
        TrustedProxies::read(&mut settings);
        assert_eq!(settings.finish().unwrap_err().0.len(), 2);
    }
}

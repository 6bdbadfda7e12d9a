//! The address that a request comes from: the peer of the connection, or, behind trusted proxies,
//! the address that the outermost of them saw. Believes no other claim in `X-Forwarded-For`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;
use runtime::service::settings::Settings;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// The leading bits of an IPv6 address that tell customers apart. A customer of a provider has at
/// least all addresses of one such network.
const IPV6_NETWORK_BITS: u32 = 64;

/// The address at the other end of the connection.
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
            let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
            let found = text.parse().ok().or_else(address);
            if found.is_none() {
                settings.problem(format!(
                    "TRUSTED_PROXIES must hold addresses or networks such as 10.0.0.0/8, \
                     not `{text}`"
                ));
            }
            found
        });
        TrustedProxies(networks.collect())
    }

    /// Whether the address is a trusted proxy's.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address. Because each proxy appends the address that it saw, the list is true
    /// from its right end on, as far as trusted proxies wrote it.
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

/// Reads an entry such as `192.0.2.1`, `192.0.2.1:5000`, `2001:db8::1` or `[2001:db8::1]:5000`.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address = text
        .parse()
        .or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

/// The addresses that are likely to belong to one customer, as one of them: an IPv4 address, or the
/// first address of the network of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - IPV6_NETWORK_BITS))).into()
        }
        v4 => v4,
    }
}

/// A layer that puts the [`ClientAddress`] into the request.
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
    use proptest::prelude::*;

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
    fn the_header_counts_only_as_far_as_trusted_proxies_wrote_it() {
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
    fn without_a_readable_entry_the_nearest_known_proxy_counts() {
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
    fn addresses_in_one_ipv6_network_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_setting_that_is_no_network_is_a_problem() {
        let mut settings = Settings::of([(
            "TRUSTED_PROXIES".to_owned(),
            "10.0.0.0/8, proxy, 10.0.0.0/33".to_owned(),
        )]);
        TrustedProxies::read(&mut settings);
        assert_eq!(settings.finish().unwrap_err().0.len(), 2);
    }

    proptest! {
        #[test]
        fn no_header_changes_the_address_of_an_untrusted_peer(
            lines in proptest::collection::vec("[ -~]{0,64}", 0..4),
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(client("10.0.0.0/8", "9.9.9.9", &lines), "9.9.9.9");
        }

        #[test]
        fn the_address_that_a_trusted_proxy_appends_counts_whatever_stands_before_it(
            claimed in "[ -~]{0,64}",
            seen in any::<[u8; 4]>().prop_map(IpAddr::from),
        ) {
            prop_assume!(!trusted("10.0.0.0/8").contains(seen));
            let line = format!("{claimed}, {seen}");
            prop_assert_eq!(client("10.0.0.0/8", "10.0.0.1", &[&line]), seen.to_string());
        }
    }
}

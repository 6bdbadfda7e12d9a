//! How many requests a caller may make: `RATE_LIMIT_*`. An allowance refills evenly over its window
//! (GCRA), so a caller who has used it up waits for the next request's share, not for the end of
//! the window. Each gateway counts for itself in memory. Because of that a caller gets up to N
//! times as much from N gateways.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use contract::Id;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota, RateLimiter};
use metrics::counter;
use runtime::CancellationToken;
use runtime::service::settings::Settings;

use super::address::{ClientAddress, network};
use crate::api::problem::Problem;
use crate::auth::Caller;

/// The keys that one limit counts apart, about 100 bytes each. Beyond them new callers share one
/// allowance.
const MAX_KEYS: usize = 100_000;
/// The time between two evictions of keys whose allowance is whole again.
const EVICT_EVERY: Duration = Duration::from_secs(60);
/// The largest limit that can be set.
const MAX_REQUESTS: u32 = 10_000_000;

/// The requests that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RateLimitKey {
    /// Of one member of staff, from any address.
    User(Id),
    /// Of all internal services, because one API key carries the messages of all companies.
    Services,
    /// From one address, see [`network`].
    Address(IpAddr),
    /// Of all callers beyond [`MAX_KEYS`].
    Overflow,
}

/// `RATE_LIMIT_*`: requests per window, `None` without a limit.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// `RATE_LIMIT_WINDOW`
    window: Duration,
    /// `RATE_LIMIT_MAX`: of each user, and of each address without a valid token, under `/api/v1`
    /// but for what `RATE_LIMIT_AUTH_MAX` counts.
    max: Option<NonZeroU32>,
    /// `RATE_LIMIT_SERVICE_MAX`: of the internal services together, there.
    service_max: Option<NonZeroU32>,
    /// `RATE_LIMIT_AUTH_MAX`: of each address, to register, log in, refresh and log out.
    auth_max: Option<NonZeroU32>,
}

impl RateLimits {
    /// Reads them.
    pub fn read(settings: &mut Settings) -> RateLimits {
        const DAY: Duration = Duration::from_secs(86_400);
        RateLimits {
            window: settings
                .named(
                    "RATE_LIMIT_WINDOW",
                    "Window of the rate limits. An allowance refills evenly over it. Each gateway \
                     counts for itself, so with two of them a caller may get up to twice as much.",
                )
                .duration(Duration::from_secs(900), Duration::from_secs(1)..=DAY),
            max: NonZeroU32::new(
                settings
                    .named(
                        "RATE_LIMIT_MAX",
                        "Requests a window of each user, and of each address without a valid \
                         token, to all but what `RATE_LIMIT_AUTH_MAX` counts. 0 is no limit.",
                    )
                    .number(300, 0..=MAX_REQUESTS),
            ),
            service_max: NonZeroU32::new(
                settings
                    .named(
                        "RATE_LIMIT_SERVICE_MAX",
                        "The same of all internal services together: one key carries the messages \
                         of all companies. 0 is no limit.",
                    )
                    .number(60_000, 0..=MAX_REQUESTS),
            ),
            auth_max: NonZeroU32::new(
                settings
                    .named(
                        "RATE_LIMIT_AUTH_MAX",
                        "Requests a window of each address to register, log in, refresh and log \
                         out. 0 is no limit.",
                    )
                    .number(100, 0..=MAX_REQUESTS),
            ),
        }
    }
}

/// The counts of this gateway.
#[derive(Clone)]
pub struct RateLimiters {
    users: Option<Arc<Limit>>,
    /// Callers without a valid token. They have a limit of their own. Otherwise many of them would
    /// leave no key for users.
    strangers: Option<Arc<Limit>>,
    services: Option<Arc<Limit>>,
    auth: Option<Arc<Limit>>,
}

impl RateLimiters {
    pub fn new(limits: &RateLimits) -> RateLimiters {
        let limit = |name, max: Option<NonZeroU32>| {
            max.map(|max| {
                Arc::new(Limit::new(
                    name,
                    max,
                    limits.window,
                    MAX_KEYS,
                    MonotonicClock,
                ))
            })
        };
        RateLimiters {
            users: limit("users", limits.max),
            strangers: limit("strangers", limits.max),
            services: limit("services", limits.service_max),
            auth: limit("auth", limits.auth_max),
        }
    }

    /// Evicts idle keys from time to time. Runs until `stop`.
    pub async fn evict_idle(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(EVICT_EVERY);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            for limit in [&self.users, &self.strangers, &self.services, &self.auth]
                .into_iter()
                .flatten()
            {
                limit.evict_idle();
            }
        }
    }
}

/// A layer for all other routes: counts by the caller that [`crate::auth::identify`] has found.
pub async fn by_caller(
    State(limiters): State<RateLimiters>,
    request: Request,
    next: Next,
) -> Response {
    let (limit, key) = match request.extensions().get::<Result<Caller, Problem>>() {
        Some(Ok(Caller::Staff { user, .. })) => (&limiters.users, RateLimitKey::User(*user)),
        Some(Ok(Caller::Service)) => (&limiters.services, RateLimitKey::Services),
        Some(Err(_)) | None => (&limiters.strangers, address_of(&request)),
    };
    limited(limit.as_deref(), key, request, next).await
}

/// A layer for the routes where a login begins, goes on and ends: counts by address.
pub async fn by_address(
    State(limiters): State<RateLimiters>,
    request: Request,
    next: Next,
) -> Response {
    let key = address_of(&request);
    limited(limiters.auth.as_deref(), key, request, next).await
}

fn address_of(request: &Request) -> RateLimitKey {
    let address = request
        .extensions()
        .get()
        .map_or(Ipv4Addr::UNSPECIFIED.into(), |ClientAddress(address)| {
            *address
        });
    RateLimitKey::Address(network(address))
}

async fn limited(
    limit: Option<&Limit>,
    key: RateLimitKey,
    request: Request,
    next: Next,
) -> Response {
    let Some(limit) = limit else {
        return next.run(request).await;
    };
    let allowance = limit.count(key);
    let mut response = match allowance.refused_for {
        None => next.run(request).await,
        Some(wait) => {
            counter!("http_rate_limited_total", "limit" => limit.name).increment(1);
            Problem::RateLimited {
                after: whole_seconds(wait),
            }
            .into_response()
        }
    };
    limit.describe(allowance, response.headers_mut());
    response
}

/// One limit, and how much of it each key has used.
struct Limit<C: Clock = MonotonicClock> {
    name: &'static str,
    max: NonZeroU32,
    window: Duration,
    limiter: RateLimiter<RateLimitKey, Keys, C, StateInformationMiddleware>,
}

/// What a key has left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowance {
    remaining: u32,
    /// The time until the next request is allowed, if this one was not.
    refused_for: Option<Duration>,
}

impl<C: Clock> Limit<C> {
    fn new(
        name: &'static str,
        max: NonZeroU32,
        window: Duration,
        max_keys: usize,
        clock: C,
    ) -> Limit<C> {
        // At least 100 ns: the shortest window over the largest limit.
        let quota = Quota::with_period(window / max.get())
            .unwrap_or(Quota::per_second(max))
            .allow_burst(max);
        let keys = Keys {
            known: DashMapStateStore::default(),
            max: max_keys,
        };
        Limit {
            name,
            max,
            window,
            limiter: RateLimiter::new(quota, keys, clock),
        }
    }

    fn count(&self, key: RateLimitKey) -> Allowance {
        match self.limiter.check_key(&key) {
            Ok(state) => Allowance {
                remaining: state.remaining_burst_capacity(),
                refused_for: None,
            },
            Err(until) => Allowance {
                remaining: 0,
                refused_for: Some(until.wait_time_from(self.limiter.clock().now())),
            },
        }
    }

    /// Sets the headers that express-rate-limit calls `standardHeaders`. `ratelimit-reset` is the
    /// time until the whole allowance is back.
    fn describe(&self, allowance: Allowance, headers: &mut HeaderMap) {
        let max = self.max.get();
        let used = max.saturating_sub(allowance.remaining);
        let reset = whole_seconds(self.window.mul_f64(f64::from(used) / f64::from(max)));
        headers.insert("ratelimit-limit", max.into());
        headers.insert("ratelimit-remaining", allowance.remaining.into());
        headers.insert("ratelimit-reset", reset.into());
        if let Ok(policy) =
            HeaderValue::from_str(&format!("{max};w={}", whole_seconds(self.window)))
        {
            headers.insert("ratelimit-policy", policy);
        }
    }

    fn evict_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What each key has used. When there are `max` keys, those that are known keep their own count.
struct Keys {
    known: DashMapStateStore<RateLimitKey>,
    max: usize,
}

impl StateStore for Keys {
    type Key = RateLimitKey;

    fn measure_and_replace<T, F, E>(&self, key: &RateLimitKey, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let has_room = self.known.contains_key(key) || self.known.len() < self.max;
        self.known.measure_and_replace(
            if has_room {
                key
            } else {
                &RateLimitKey::Overflow
            },
            f,
        )
    }
}

impl ShrinkableKeyedStateStore<RateLimitKey> for Keys {
    fn retain_recent(&self, drop_below: Nanos) {
        self.known.retain_recent(drop_below);
    }

    fn shrink_to_fit(&self) {
        self.known.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.known.len()
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(900);

    fn limit(max: u32, max_keys: usize) -> (Limit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (
            Limit::new(
                "test",
                NonZeroU32::new(max).unwrap(),
                WINDOW,
                max_keys,
                clock.clone(),
            ),
            clock,
        )
    }

    fn address(n: u8) -> RateLimitKey {
        RateLimitKey::Address(Ipv4Addr::new(192, 0, 2, n).into())
    }

    #[test]
    fn the_301st_request_of_a_window_waits_for_the_next_share() {
        let (limit, clock) = limit(300, 10);
        let user = RateLimitKey::User("d".repeat(24).parse().unwrap());
        for left in (0..300).rev() {
            assert_eq!(
                limit.count(user),
                Allowance {
                    remaining: left,
                    refused_for: None
                }
            );
        }
        let refused = Allowance {
            remaining: 0,
            refused_for: Some(Duration::from_secs(3)),
        };
        assert_eq!(limit.count(user), refused);
        assert_eq!(limit.count(user), refused);
        assert_eq!(limit.count(address(1)).remaining, 299);
        clock.advance(Duration::from_secs(3));
        assert_eq!(
            limit.count(user),
            Allowance {
                remaining: 0,
                refused_for: None
            }
        );
        assert_eq!(limit.count(user), refused);
        clock.advance(WINDOW);
        assert_eq!(limit.count(user).remaining, 299);
    }

    #[test]
    fn the_headers_say_what_the_caller_has_left() {
        let (limit, clock) = limit(300, 10);
        let described = |allowance| {
            let mut headers = HeaderMap::new();
            limit.describe(allowance, &mut headers);
            ["limit", "remaining", "reset", "policy"].map(|name| {
                headers[&format!("ratelimit-{name}")]
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
        };
        assert_eq!(
            described(limit.count(address(1))),
            ["300", "299", "3", "300;w=900"]
        );
        clock.advance(Duration::from_millis(500));
        while limit.count(address(1)).refused_for.is_none() {}
        assert_eq!(
            described(limit.count(address(1))),
            ["300", "0", "900", "300;w=900"]
        );
    }

    #[test]
    fn new_callers_share_one_allowance_when_there_is_no_key_left() {
        let (limit, clock) = limit(2, 3);
        for n in 0..3 {
            assert_eq!(limit.count(address(n)).remaining, 1);
        }
        // Two new callers use up the shared allowance. Known ones still have their own.
        assert_eq!(limit.count(address(10)).remaining, 1);
        assert_eq!(limit.count(address(11)).remaining, 0);
        assert!(limit.count(address(12)).refused_for.is_some());
        assert_eq!(limit.count(address(0)).remaining, 0);
        assert_eq!(limit.limiter.len(), 4);
        // Idle keys are evicted, and then there is room for new ones.
        clock.advance(2 * WINDOW);
        limit.evict_idle();
        assert_eq!(limit.limiter.len(), 0);
        assert_eq!(limit.count(address(12)).remaining, 1);
    }

    #[test]
    fn zero_switches_a_limit_off() {
        let limits = |max: &str| {
            let mut settings = Settings::of([("RATE_LIMIT_MAX".to_owned(), max.to_owned())]);
            let limits = RateLimits::read(&mut settings);
            settings.finish().unwrap();
            RateLimiters::new(&limits)
        };
        assert!(
            limits("0").users.is_none()
                && limits("0").strangers.is_none()
                && limits("0").auth.is_some()
        );
        assert!(limits("1").users.is_some());
    }
}

//! The settings of the service, read once at start. Limits that no operator should have to tune are
//! constants in the modules that use them.

use std::time::Duration;

use runtime::net::access_token;
use runtime::net::origins::Origins;
use runtime::service::settings::{Common, Settings};
use secrecy::SecretString;

/// Default of `REALTIME_PORT`.
const DEFAULT_PORT: u16 = 4001;
/// Default of `MAX_SOCKETS`.
const DEFAULT_SOCKETS: usize = 20_000;
/// Default of `MAX_SOCKETS_PER_USER`: several devices with several pages each.
const DEFAULT_SOCKETS_PER_USER: usize = 50;
/// Default of `SOCKET_QUEUE_BYTES`: several of the largest events, or some thousands of usual ones.
const DEFAULT_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Default of `SOCKET_ROOMS`.
const DEFAULT_ROOMS: usize = 1_000;
/// Default of `SOCKET_REPLAY_EVENTS`. For more events a fetch by the client costs less.
const DEFAULT_REPLAY_EVENTS: usize = 10_000;
/// Default of `SOCKET_FRAME_BYTES`.
const DEFAULT_FRAME_BYTES: usize = 64 * 1024;
/// Default of `SOCKET_FRAMES_PER_SECOND`. Typing and joining need a few.
const DEFAULT_FRAMES_PER_SECOND: u32 = 20;
/// Default of `SOCKET_HANDSHAKE_TIMEOUT`.
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(10);

/// The limits of a node and of each socket.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `MAX_SOCKETS`: open sockets of a node. The next one gets 503.
    pub sockets: usize,
    /// `MAX_SOCKETS_PER_USER`: open sockets of one user on a node. The next one gets 429.
    pub sockets_per_user: usize,
    /// `SOCKET_QUEUE_BYTES`: bytes that may wait for a socket. Beyond them, the socket is closed
    /// with 4008.
    pub queue_bytes: usize,
    /// `SOCKET_ROOMS`: conversations that a socket can have joined. A further join is refused.
    pub rooms: usize,
    /// `SOCKET_REPLAY_EVENTS`: missed events that a socket is given. Beyond them, the client is
    /// told to fetch by `resync`.
    pub replay_events: usize,
    /// `SOCKET_FRAME_BYTES`: the largest frame of a client, in bytes. A larger one closes the
    /// socket with 1009.
    pub frame_bytes: usize,
    /// `SOCKET_FRAMES_PER_SECOND`: frames of a client a second, in the long run. Further frames are
    /// ignored, and the client is told so. See `subscriber::rate_limit` for how many at once.
    pub frames_per_second: u32,
    /// `SOCKET_HANDSHAKE_TIMEOUT`: longest time from the connection to the open socket. Beyond it,
    /// the connection is closed.
    pub handshake: Duration,
}

/// The settings of the service.
#[derive(Clone)]
pub struct Config {
    /// The settings of every service.
    pub common: Common,
    /// `REALTIME_PORT`
    pub port: u16,
    /// `JWT_ACCESS_SECRET`: the secret by which access tokens are checked. The gateway signs with
    /// the same one.
    pub access_secret: SecretString,
    /// `CORS_ORIGINS`: the pages of other origins that may open sockets.
    pub origins: Origins,
    /// The limits of the node and of each socket.
    pub limits: Limits,
}

impl Config {
    /// Reads the settings; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        let common = Common::read(settings, "realtime");
        Config {
            port: settings
                .named("REALTIME_PORT", "Port of the sockets, health and metrics.")
                .port(DEFAULT_PORT),
            access_secret: access_token::read_secret(settings),
            origins: Origins::read(settings, common.environment),
            limits: Limits::read(settings),
            common,
        }
    }
}

impl Limits {
    fn read(settings: &mut Settings) -> Limits {
        let handshake = Duration::from_millis(100)..=Duration::from_secs(60);
        Limits {
            sockets: settings
                .named(
                    "MAX_SOCKETS",
                    "Sockets that one realtime node holds open. The next one gets 503. For more \
                     than three nodes of 20000 raise `maxconn` in deploy/haproxy.cfg and `nofile` \
                     in docker-compose.yml too.",
                )
                .number(DEFAULT_SOCKETS, 1..=1_000_000),
            sockets_per_user: settings
                .named(
                    "MAX_SOCKETS_PER_USER",
                    "Of these, sockets of one user. The next one gets 429.",
                )
                .number(DEFAULT_SOCKETS_PER_USER, 1..=1_000_000),
            // At least one of the largest events, as JSON with its escapes.
            queue_bytes: settings
                .named(
                    "SOCKET_QUEUE_BYTES",
                    "Bytes that may wait for a socket. Beyond them the socket is closed with 4008.",
                )
                .number(DEFAULT_QUEUE_BYTES, 1024 * 1024..=1024 * 1024 * 1024),
            rooms: settings
                .named(
                    "SOCKET_ROOMS",
                    "Conversations that a socket can have joined.",
                )
                .number(DEFAULT_ROOMS, 1..=100_000),
            replay_events: settings
                .named(
                    "SOCKET_REPLAY_EVENTS",
                    "Events that a socket is given of what its client missed. Beyond them the \
                     client gets `resync` and has to fetch.",
                )
                .number(DEFAULT_REPLAY_EVENTS, 0..=1_000_000),
            frame_bytes: settings
                .named("SOCKET_FRAME_BYTES", "Largest frame of a client, in bytes.")
                .number(DEFAULT_FRAME_BYTES, 1_024..=1024 * 1024),
            frames_per_second: settings
                .named(
                    "SOCKET_FRAMES_PER_SECOND",
                    "Frames that a client may send a second; three seconds' worth at once, and a \
                     join of each conversation.",
                )
                .number(DEFAULT_FRAMES_PER_SECOND, 1..=10_000),
            handshake: settings
                .named(
                    "SOCKET_HANDSHAKE_TIMEOUT",
                    "Time from the connection to the open socket.",
                )
                .duration(DEFAULT_HANDSHAKE, handshake),
        }
    }
}

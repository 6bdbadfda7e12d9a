//! Settings of the service, read once at start. Limits that nobody should have to tune are
//! constants beside their use.

use std::time::Duration;

use runtime::net::access_token;
use runtime::net::origins::Origins;
use runtime::service::settings::{Common, Settings};
use secrecy::SecretString;

/// Port where none is set.
const DEFAULT_PORT: u16 = 4001;
/// Sockets of one node where none is set.
const DEFAULT_SOCKETS: usize = 20_000;
/// Sockets of one user on a node where none is set: several devices with several pages each.
const DEFAULT_SOCKETS_PER_USER: usize = 50;
/// Bytes that may wait for one socket: several of the largest events, some thousands of usual ones.
const DEFAULT_QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Conversations that one socket can have joined.
const DEFAULT_ROOMS: usize = 1_000;
/// Events that a socket is given of what its client missed; past that a fetch costs less.
const DEFAULT_REPLAY_EVENTS: usize = 10_000;
/// Largest frame of a client, in bytes.
const DEFAULT_FRAME_BYTES: usize = 64 * 1024;
/// Frames of a client a second. Typing and joining need a few.
const DEFAULT_FRAMES_PER_SECOND: u32 = 20;
/// From the connection to the open socket.
const DEFAULT_HANDSHAKE: Duration = Duration::from_secs(10);

/// What one node and one socket may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `MAX_SOCKETS`: open sockets of this node; the next one gets 503.
    pub sockets: usize,
    /// `MAX_SOCKETS_PER_USER`: of them, of one user; the next one gets 429.
    pub sockets_per_user: usize,
    /// `SOCKET_QUEUE_BYTES`: what may wait for a socket; then it is closed with 4008.
    pub queue_bytes: usize,
    /// `SOCKET_ROOMS`: conversations that a socket can have joined.
    pub rooms: usize,
    /// `SOCKET_REPLAY_EVENTS`: what a socket is given of what its client missed; beyond it
    /// `resync`.
    pub replay_events: usize,
    /// `SOCKET_FRAME_BYTES`: largest frame of a client; a larger one closes with 1009.
    pub frame_bytes: usize,
    /// `SOCKET_FRAMES_PER_SECOND`: of a client, in the long run; what is more is ignored, and said.
    /// See `conduct` for how many at once.
    pub frames_per_second: u32,
    /// `SOCKET_HANDSHAKE_TIMEOUT`: from the connection to the open socket.
    pub handshake: Duration,
}

/// What the service needs to know.
#[derive(Clone)]
pub struct Config {
    /// What every service reads.
    pub common: Common,
    /// `REALTIME_PORT`
    pub port: u16,
    /// `JWT_ACCESS_SECRET`: checks access tokens; the gateway signs with the same.
    pub access_secret: SecretString,
    /// `CORS_ORIGINS`: the pages of other origins that may open sockets.
    pub origins: Origins,
    /// Bounds.
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

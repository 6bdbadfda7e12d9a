//! Settings of the service, read once at start. Limits that nobody should have to tune are
//! constants beside their use.

use std::time::Duration;

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
    /// `CORS_ORIGINS`: the pages that may open sockets; empty or `*` means any.
    pub origins: Vec<String>,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// Reads it; problems stay in `settings`.
    pub fn read(settings: &mut Settings) -> Config {
        Config {
            common: Common::read(settings, "realtime"),
            port: settings.number("REALTIME_PORT", DEFAULT_PORT, 1..=u16::MAX),
            access_secret: settings.secret("JWT_ACCESS_SECRET"),
            origins: settings.list("CORS_ORIGINS"),
            limits: Limits::read(settings),
        }
    }
}

impl Limits {
    fn read(settings: &mut Settings) -> Limits {
        let handshake = Duration::from_millis(100)..=Duration::from_secs(60);
        Limits {
            sockets: settings.number("MAX_SOCKETS", DEFAULT_SOCKETS, 1..=1_000_000),
            sockets_per_user: settings.number(
                "MAX_SOCKETS_PER_USER",
                DEFAULT_SOCKETS_PER_USER,
                1..=1_000_000,
            ),
            // At least one of the largest events, as JSON with its escapes.
            queue_bytes: settings.number(
                "SOCKET_QUEUE_BYTES",
                DEFAULT_QUEUE_BYTES,
                1024 * 1024..=1024 * 1024 * 1024,
            ),
            rooms: settings.number("SOCKET_ROOMS", DEFAULT_ROOMS, 1..=100_000),
            replay_events: settings.number(
                "SOCKET_REPLAY_EVENTS",
                DEFAULT_REPLAY_EVENTS,
                0..=1_000_000,
            ),
            frame_bytes: settings.number(
                "SOCKET_FRAME_BYTES",
                DEFAULT_FRAME_BYTES,
                1_024..=1024 * 1024,
            ),
            frames_per_second: settings.number(
                "SOCKET_FRAMES_PER_SECOND",
                DEFAULT_FRAMES_PER_SECOND,
                1..=10_000,
            ),
            handshake: settings.duration("SOCKET_HANDSHAKE_TIMEOUT", DEFAULT_HANDSHAKE, handshake),
        }
    }
}

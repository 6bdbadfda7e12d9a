//! The five services as the runner sees them: names, ports, and the environment that each service
//! is given. Does not know how a service works.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use runtime::service::settings::{Settings, Spec};

use crate::stack::run_file::Login;
use crate::stack::secrets::Secrets;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    Gateway,
    Persister,
    Forwarder,
    Scheduler,
    Realtime,
}

impl Service {
    pub const ALL: [Service; 5] = [
        Service::Gateway,
        Service::Persister,
        Service::Forwarder,
        Service::Scheduler,
        Service::Realtime,
    ];

    /// The name of the service's crate, NATS user and subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Service::Gateway => "gateway",
            Service::Persister => "persister",
            Service::Forwarder => "forwarder",
            Service::Scheduler => "scheduler",
            Service::Realtime => "realtime",
        }
    }

    /// The service that a program of this path is named after. The image has one program, and a
    /// link to it for each service.
    pub fn of_program(path: &OsStr) -> Option<Service> {
        let name = Path::new(path).file_name()?;
        Service::ALL.into_iter().find(|s| name == s.name())
    }

    /// The variable that sets the port, and the default.
    pub fn port(self) -> (&'static str, u16) {
        match self {
            Service::Gateway => ("PORT", 4000),
            Service::Realtime => ("REALTIME_PORT", 4001),
            Service::Persister => ("PERSISTER_PORT", 4010),
            Service::Forwarder => ("FORWARDER_PORT", 4020),
            Service::Scheduler => ("SCHEDULER_PORT", 4030),
        }
    }

    /// Runs the service in this process until SIGTERM.
    pub fn main(self) -> ExitCode {
        match self {
            Service::Gateway => gateway::main(),
            Service::Persister => persister::main(),
            Service::Forwarder => forwarder::main(),
            Service::Scheduler => scheduler::main(),
            Service::Realtime => realtime::main(),
        }
    }

    /// The settings that the service reads.
    pub fn settings(self) -> Vec<Spec> {
        let mut settings = Settings::of([]);
        match self {
            Service::Gateway => drop(gateway::Config::read(&mut settings)),
            Service::Persister => drop(persister::Config::read(&mut settings)),
            Service::Forwarder => drop(forwarder::Config::read(&mut settings)),
            Service::Scheduler => drop(scheduler::Config::read(&mut settings)),
            Service::Realtime => drop(realtime::Config::read(&mut settings)),
        }
        settings.specs().to_vec()
    }

    /// The whole environment of a replica: the variables that every process needs, the settings
    /// that the user made for this service, and the secrets of this service and of no other.
    pub fn environment(self, port: u16, source: &EnvironmentSource) -> BTreeMap<String, String> {
        let mut environment = base(&source.user);
        let own = self.settings();
        let passed = |name: &str| {
            let is_own = own.iter().any(|setting| setting.name == name);
            name == SETTINGS_FILE || is_own && !NEVER_PASSED.contains(&name)
        };
        environment.extend(
            source
                .user
                .iter()
                .filter(|(name, _)| passed(name))
                .map(|(n, v)| (n.clone(), v.clone())),
        );
        let mut set =
            |name: &str, value: &str| drop(environment.insert(name.to_owned(), value.to_owned()));
        set("LOG_DIR", &source.log_dir);
        set("HOST", "127.0.0.1");
        set(self.port().0, &port.to_string());
        set("NATS_URL", &source.nats_url);
        if let Some(login) = source.nats_logins.get(self.name()) {
            set("NATS_USER", &login.user);
            set("NATS_PASSWORD", &login.password);
        }
        let secrets = source.secrets;
        match self {
            Service::Gateway => {
                set("JWT_ACCESS_SECRET", &secrets.jwt_access);
                set("JWT_REFRESH_SECRET", &secrets.jwt_refresh);
                set("INTERNAL_SERVICE_API_KEY", &secrets.internal_api_key);
                set("ENCRYPTION_KEYS", &secrets.encryption_keys);
            }
            Service::Persister => set("MONGODB_URI", &source.mongodb_uri),
            Service::Forwarder => {
                set("ENCRYPTION_KEYS", &secrets.encryption_keys);
                set("META_BOT_BASE_URL", &source.bot_url);
                set("INTERNAL_SERVICE_API_KEY", &secrets.internal_api_key);
            }
            Service::Scheduler => {
                set("ENCRYPTION_KEYS", &secrets.encryption_keys);
                set("META_BOT_BASE_URL", &source.bot_url);
            }
            Service::Realtime => set("JWT_ACCESS_SECRET", &secrets.jwt_access),
        }
        environment
    }
}

/// The values from which the environments of the services are made.
pub struct EnvironmentSource<'a> {
    /// The user's own environment.
    pub user: BTreeMap<String, String>,
    /// `LOG_DIR`
    pub log_dir: String,
    /// `NATS_URL`
    pub nats_url: String,
    /// NATS login by service.
    pub nats_logins: BTreeMap<String, Login>,
    /// `MONGODB_URI`
    pub mongodb_uri: String,
    /// `META_BOT_BASE_URL`
    pub bot_url: String,
    pub secrets: &'a Secrets,
}

/// Variables that any process may need. The last one tells a child of `cargo llvm-cov` where to
/// write its coverage.
const EVERY_PROCESS: [&str; 6] = [
    "PATH",
    "HOME",
    "TZ",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];
/// The variable that names the settings file.
const SETTINGS_FILE: &str = "PETBUDDY_CONFIG";
/// Settings that no service takes from the user's environment. The runner chooses the login of each
/// service; the user's own one may be that of the operator. Other settings that the runner chooses
/// replace those of the user.
const NEVER_PASSED: [&str; 2] = ["NATS_USER", "NATS_PASSWORD"];

/// The environment of a child that is no service.
pub fn base(user: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    user.iter()
        .filter(|(name, _)| EVERY_PROCESS.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::state_dir::tests::Scratch;

    #[test]
    fn a_program_named_after_a_service_is_that_service() {
        let of = |path: &str| Service::of_program(OsStr::new(path));
        for service in Service::ALL {
            assert_eq!(of(service.name()), Some(service));
        }
        assert_eq!(of("/usr/local/bin/gateway"), Some(Service::Gateway));
        for path in [
            "petbuddy",
            "target/debug/petbuddy",
            "gateway/petbuddy",
            "gateway-2",
            "",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_service_gets_its_own_secrets_and_settings_only() {
        let scratch = Scratch::new("services");
        let (secrets, _) = Secrets::load(&scratch.0.join("secrets.json")).unwrap();
        let user = [
            ("PATH", "/bin"),
            ("RATE_LIMIT_MAX", "9"),
            ("FACEBOOK_APP_SECRET", "f"),
            ("AWS_SECRET", "a"),
            ("PERSISTER_PORT", "1"),
        ];
        let source = EnvironmentSource {
            user: user
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect(),
            log_dir: "logs".into(),
            nats_url: "nats://127.0.0.1:4222".into(),
            nats_logins: Login::by_user(&secrets.nats),
            mongodb_uri: "mongodb://127.0.0.1/petbuddy".into(),
            bot_url: "http://127.0.0.1:5001".into(),
            secrets: &secrets,
        };
        let of = |service: Service| service.environment(7, &source);
        let who_has = |name: &str| {
            Service::ALL
                .into_iter()
                .filter(|s| of(*s).contains_key(name))
                .collect::<Vec<_>>()
        };
        assert_eq!(who_has("MONGODB_URI"), [Service::Persister]);
        assert_eq!(who_has("JWT_REFRESH_SECRET"), [Service::Gateway]);
        assert_eq!(
            who_has("JWT_ACCESS_SECRET"),
            [Service::Gateway, Service::Realtime]
        );
        assert_eq!(
            who_has("INTERNAL_SERVICE_API_KEY"),
            [Service::Gateway, Service::Forwarder]
        );
        assert_eq!(
            who_has("ENCRYPTION_KEYS"),
            [Service::Gateway, Service::Forwarder, Service::Scheduler]
        );
        assert_eq!(who_has("FACEBOOK_APP_SECRET"), [Service::Scheduler]);
        assert_eq!(who_has("RATE_LIMIT_MAX"), [Service::Gateway]);
        assert_eq!(who_has("AWS_SECRET"), []);
        assert_eq!(who_has("PATH"), Service::ALL);
        assert_eq!(of(Service::Persister)["PERSISTER_PORT"], "7");
        for service in Service::ALL {
            assert_eq!(of(service)["NATS_PASSWORD"], secrets.nats[service.name()]);
        }
    }
}

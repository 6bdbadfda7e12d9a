//! `petbuddy stub-bot`: the stand-in for the Meta bot as a process of its own. The bot itself is
//! `stack::stub_bot`.

use std::process::ExitCode;

use crate::cli::exit_code;
use crate::failure::Failure;
use crate::stack::stub_bot::{DEFAULT_PORT, serve};

/// Serves on `BOT_PORT` of the loopback address until SIGTERM or Ctrl-C.
pub async fn main() -> ExitCode {
    exit_code::of(run().await)
}

async fn run() -> Result<(), Failure> {
    let text = std::env::var("BOT_PORT").unwrap_or_default();
    let port = match text.as_str() {
        "" => DEFAULT_PORT,
        text => text
            .parse()
            .map_err(|_| Failure::Settings(format!("BOT_PORT must be a port, not `{text}`")))?,
    };
    serve(port)
        .await
        .map_err(|e| Failure::Other(format!("the stub bot cannot serve on port {port}: {e}")))
}

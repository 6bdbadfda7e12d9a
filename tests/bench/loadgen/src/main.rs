//! Load generator for a messaging backend: requests over HTTP, events over WebSocket. A run plays
//! one scenario and prints its result as one line of JSON. It neither starts nor stops a server.

mod fanout;
mod http;
mod idle;
mod ingest;
mod latency;
mod message;
mod process;
mod reads;
mod token;
mod websocket;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

/// An error that ends the run.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every scenario")]
pub struct Common {
    /// Address of the server under test
    #[arg(long, global = true, default_value = "http://127.0.0.1:4100")]
    pub base_url: String,
    /// Secret that signs the access token (HS256)
    #[arg(long, global = true, env = "JWT_ACCESS_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Company of the token and of every message
    #[arg(long, global = true, default_value = "aaaaaaaaaaaaaaaaaaaaaaaa")]
    pub company: String,
    /// User of the token
    #[arg(long, global = true, default_value = "bbbbbbbbbbbbbbbbbbbbbbbb")]
    pub user: String,
    /// Role of the token
    #[arg(long, global = true, default_value = "manager")]
    pub role: String,
    /// Processes whose memory and CPU time are reported, with commas
    #[arg(long, global = true, value_delimiter = ',')]
    pub server_pid: Vec<i32>,
    /// Worker threads of the generator
    #[arg(long, global = true, default_value_t = 2)]
    pub threads: usize,
    /// Text that is copied into the result
    #[arg(long, global = true, default_value = "")]
    pub label: String,
}

#[derive(Subcommand)]
enum Scenario {
    /// Creates messages: in a closed loop, or at a fixed rate with --rate
    Ingest(ingest::Options),
    /// Creates messages at a fixed rate while sockets listen: latency from POST to frame, losses
    Fanout(fanout::Options),
    /// Adds idle sockets step by step: memory of --server-pid
    Idle(idle::Options),
    /// Reads a conversation, single messages and the list of conversations in a closed loop
    Reads(reads::Options),
    /// Prints an access token
    Mint,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(output) => {
            println!("{output}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<String> {
    process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cli.common.threads.max(1))
        .enable_all()
        .build()?;
    let result: Result<Value> = runtime.block_on(async {
        match &cli.scenario {
            Scenario::Ingest(options) => ingest::run(&cli.common, options).await,
            Scenario::Fanout(options) => fanout::run(&cli.common, options).await,
            Scenario::Idle(options) => idle::run(&cli.common, options).await,
            Scenario::Reads(options) => reads::run(&cli.common, options).await,
            Scenario::Mint => Ok(Value::String(token::mint(&cli.common)?)),
        }
    });
    // Open sockets and abandoned requests must not delay the end of the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    Ok(match result? {
        Value::String(text) => text,
        object => object.to_string(),
    })
}

//! The gateway's process. Everything is in the library.

fn main() -> std::process::ExitCode {
    gateway::main()
}

//! The binary of the gateway. The code is in the library.

fn main() -> std::process::ExitCode {
    gateway::main()
}

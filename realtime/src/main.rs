//! The binary `realtime`: the service of the crate, on its own.

fn main() -> std::process::ExitCode {
    realtime::main()
}

//! The binary `realtime`: runs the service of this crate and nothing else.

fn main() -> std::process::ExitCode {
    realtime::main()
}

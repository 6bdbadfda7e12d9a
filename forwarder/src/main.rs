//! The forwarder as a process of its own.

fn main() -> std::process::ExitCode {
    forwarder::main()
}

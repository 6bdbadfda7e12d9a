//! The scheduler as a process of its own.

fn main() -> std::process::ExitCode {
    scheduler::main()
}

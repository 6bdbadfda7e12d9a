//! The persister's process. Everything is in the library.

fn main() -> std::process::ExitCode {
    persister::main()
}

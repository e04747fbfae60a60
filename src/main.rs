//! argv → `service::run` → exit code, nothing else.

fn main() -> std::process::ExitCode {
    evenkeel::service::run().into()
}

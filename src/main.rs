//! argv → `service::run` → exit code, nothing else.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(1)
}

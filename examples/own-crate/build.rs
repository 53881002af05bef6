//! Checks the migrations, and has cargo build anew when one is added or changed.

fn main() -> std::process::ExitCode {
    schemad_build::check("migrations")
}

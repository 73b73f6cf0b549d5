//! The program. Everything is in the library, so that tests can use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    migrate_llm_cache::app::main(std::env::args_os().collect()).into()
}

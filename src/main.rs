//! Parse, run, exit code: nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    migrate_llm_cache::app::main(std::env::args_os().collect()).into()
}

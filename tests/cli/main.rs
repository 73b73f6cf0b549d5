//! The program as its users meet it: exit code, standard output and standard error together.
//!
//! The snapshots are made anew with `INSTA_UPDATE=always cargo test --test cli`; then look at the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

#[macro_use]
mod scene;

mod archives;
mod buckets;
mod documents;
mod exit_codes;
mod generate;
mod interactive;
mod job_file;
mod json_files;
mod layout;
mod limits;
mod logs;
mod metrics;
mod mistakes;
mod output;
mod own_files;
mod precedence;
mod push;
mod secrets;
mod servers;
mod shards;
mod signals;
mod sources;
#[path = "../support/mod.rs"]
mod support;
mod terminal;

//! Moves LightRAG's LLM response cache between its key-value storages.
//!
//! # Overview
//! * [`app`]: the process: arguments, logging, the report and the exit code, whatever happens.
//! * [`config`]: flags, job file, environment; resolved into settings.
//! * [`interactive`]: asks for what flags and job file leave open.
//! * [`engine`]: one run: preflight, plan, pipeline, verification, checkpoint, rejects, retries.
//! * [`storage`]: the contract between engine and storages, and a folder for each kind of storage.
//! * [`report`]: events, the report, terminal output, metrics, logs.
//! * [`model`]: records, workspaces, policies, errors, exit codes; pure types.
//! * [`system`]: what differs by operating system: atomic files, signals.
//!
//! Imports point one way: app → interactive → engine → storage → model; app, interactive → config → storage;
//! engine → report → model. `tests/cli/layout.rs` checks that.
//!
//! A record travels source → batch → target → durable → checkpoint → report.
//!
//! A new storage is a folder in [`storage`] and a line in its registry. A new flag is an entry in the table of
//! `config/options.rs`, and the use of its value. A new exit code is a line in [`model::ExitCode`] and, where an error leads
//! to it, one in [`model::ErrorKind`].

// What only some storages use is unused in a build without them.
#![cfg_attr(
    not(all(
        feature = "redis",
        feature = "postgres",
        feature = "mongo",
        feature = "opensearch"
    )),
    allow(dead_code, unused_imports)
)]

pub mod app;
pub mod config;
pub mod engine;
pub mod interactive;
pub mod model;
pub mod report;
pub mod storage;
pub mod system;

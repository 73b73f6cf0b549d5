//! Moves LightRAG's LLM response cache between its key-value storages.
//!
//! # Overview
//! * [`app`]: the process: arguments, logging, the report and the exit code.
//! * [`config`]: flags, job file, environment; resolved into settings.
//! * [`interactive`]: guided mode, which asks for settings that are not given.
//! * [`engine`]: one run: preflight, plan, pipeline, verification, checkpoint, rejects, retries.
//! * [`storage`]: the interface between engine and storages, and a module for each kind of storage.
//! * [`report`]: events, the report, terminal output, metrics, logs.
//! * [`model`]: records, workspaces, policies, errors, exit codes; types without I/O.
//! * [`system`]: operating system services: atomic files, limits, signals.
//!
//! Imports point one way: app → interactive → engine → storage → model; app, interactive → config → storage;
//! engine → report → model. `tests/cli/layout.rs` checks this.
//!
//! A record passes through source → batch → target → durable → checkpoint → report.
//!
//! To add a storage, add a module to [`storage`] and a line to its registry. To add a flag, add an entry to the table in
//! `config/options.rs` and use its value. To add an exit code, add it to [`model::ExitCode`] and, if an error causes it, to
//! [`model::ErrorKind`].

// Code that only some storages use is unused in a build without them.
#![cfg_attr(
    not(all(
        feature = "archive",
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

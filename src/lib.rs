//! Moves LightRAG's LLM response cache between its key-value storages.
//!
//! # The house
//! * [`app`]: the program around a run; every path out ends there.
//! * [`interactive`]: asks a person for what flags and job file leave open.
//! * [`config`]: flags, job file and environment become settings.
//! * [`run`]: one run: connect, check, count, tell the plan, move.
//! * [`pipeline`]: the one straight way of a record: source → batch → target → durable → account.
//! * [`storage`]: the seam between pipeline and storages, and a room for each storage.
//! * [`verify`]: compares two storages, record by record.
//! * [`checkpoint`], [`rejects`]: what a run keeps for later ones; [`atomic_file`] replaces such files.
//! * [`retry`]: bounds requests in time and tries them again.
//! * [`record`]: what travels.
//! * [`report`]: what comes out.
//! * [`error`], [`exit`]: what can go wrong, and the number it ends with.
//! * [`shutdown`], [`logging`]: signals, logs.
//!
//! A new storage is a folder in [`storage`] and a line in its registry. A new flag is a field in `config::Args`, one
//! in [`config::JobFile`], and the decision between them in [`config::Settings`]. A new exit code is a line in
//! [`exit::ExitCode`] and, where an error brings it, one in [`error::ErrorKind`].

pub mod app;
pub mod atomic_file;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod exit;
pub mod interactive;
pub mod logging;
pub mod pipeline;
pub mod record;
pub mod rejects;
pub mod report;
pub mod retry;
pub mod run;
pub mod shutdown;
pub mod storage;
pub mod verify;

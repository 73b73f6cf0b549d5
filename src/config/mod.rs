//! Resolves flags, job file and environment into settings.
//!
//! `options` is the table of all options. `cli` and `job` read them, `env` reads LightRAG's configuration; `resolve`,
//! `endpoint` and `workspaces` apply the precedence. `own_files` checks that a run writes no file over another. Storages list their settings in tables of
//! [`Field`](crate::model::Field)s and receive [`Values`](crate::model::Values), each with its origin for error messages.

mod cli;
pub mod configparser;
pub mod dotenv;
mod endpoint;
mod env;
mod generate;
mod job;
mod job_text;
mod lightrag;
mod options;
mod own_files;
mod resolve;
mod schema;
mod shard;
mod value;
mod workspaces;

pub use cli::{Color, OutputFormat, Parsed, parse_args};
pub(crate) use endpoint::unquoted;
pub use env::Environment;
pub(crate) use env::{CONFIG_INI, DOT_ENV};
pub use job::JobFile;
pub use job_text::{command_line, job_text};
pub use lightrag::resolve as resolve_lightrag;
pub use options::{BatchOptions, Entry, JobField, LightRagOptions, Options, entries};
pub use own_files::OwnFiles;
pub use resolve::OutputSettings;
pub use value::{BatchBytes, ListSpec, Scalar, StorageSpec, Text, WorkspacesSpec};
pub use workspaces::configured_workspace;

//! From flags, job file and environment to settings.
//!
//! `options` is the one table of what a run can be told, by flags and by the job file. `cli` and `job` read them, `env` what
//! LightRAG's configuration says; `resolve`, `endpoint` and `workspaces` decide which of them counts. Storages name their
//! settings in tables of [`Field`](crate::model::Field)s and receive [`Values`](crate::model::Values), each of which knows
//! where it came from, so that every complaint can say so.

mod cli;
pub mod configparser;
pub mod dotenv;
mod endpoint;
mod env;
mod generate;
mod job;
mod lightrag;
mod options;
mod resolve;
mod value;
mod workspaces;

pub use cli::{Color, OutputFormat, Parsed, parse_args};
pub use env::Environment;
pub(crate) use env::{CONFIG_INI, DOT_ENV};
pub use job::JobFile;
pub use lightrag::resolve as resolve_lightrag;
pub use options::{BatchOptions, Entry, JobField, LightRagOptions, Options, entries};
pub use resolve::OutputSettings;
pub use value::{BatchBytes, IdentitySpec, ListSpec, Scalar, StorageSpec, Text, WorkspacesSpec};
pub use workspaces::configured_workspace;

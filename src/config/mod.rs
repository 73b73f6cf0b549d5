//! From flags, job file and environment to settings.
//!
//! `cli` and `job` only read what the user wrote, `env` only what LightRAG's configuration says; `resolve` alone
//! decides which of them counts. Storages name their settings in tables of [`Field`](crate::model::Field)s and receive [`Values`](crate::model::Values), each
//! of which knows where it came from, so that every complaint can say so.

mod cli;
pub mod configparser;
pub mod dotenv;
mod env;
mod generate;
mod job;
mod lightrag;
mod resolve;

pub use cli::{Args, Color, OutputFormat, Parsed, parse_args};
pub use env::Environment;
pub(crate) use env::{CONFIG_INI, DOT_ENV};
pub use job::JobFile;
pub use lightrag::resolve as resolve_lightrag;
pub use resolve::{OutputSettings, configured_workspace};

//! One run: preflight, plan, the pipeline, verification, and what is kept for later runs.

pub mod checkpoint;
mod foretell;
pub mod hits;
pub mod pipeline;
pub mod rejects;
pub mod retry;
pub mod run;
pub mod verify;

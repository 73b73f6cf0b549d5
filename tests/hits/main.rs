//! Whether what the program says of hits is what LightRAG does: every release makes its own keys and prompts, and the
//! newest one ingests documents with a model that counts its calls.
//!
//! The releases come from PyPI, once (`scripts/lightrag_releases.py`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod keys;
mod lightrag;
mod prompts;
mod rekey;
#[path = "../support/mod.rs"]
mod support;

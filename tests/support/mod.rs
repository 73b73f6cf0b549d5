//! What the tests share: places on the real servers, records of every shape, the program and LightRAG as judge.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test program uses its own part, and a test may panic"
)]

pub mod http;
pub mod mongo_server;
pub mod name_server;
pub mod oracle;
pub mod place;
pub mod proxy;
pub mod records;
pub mod state;
pub mod terminal;
pub mod tool;

//! The engine between two storages in memory: no server, no sleep, and the same run each time.
//!
//! `world` builds the two storages and runs jobs between them; the other files are the tests. Which deliberate mistakes in the
//! engine each of them catches is listed in `tests/faults/MUTATIONS.md`.

mod checkpoints;
mod faults;
mod hits;
mod lies;
mod limits;
mod moving;
mod numbers;
mod preparing;
mod verifying;
mod world;

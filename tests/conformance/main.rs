//! One suite that every storage passes on every server of it, as source and as target. A new one is one line at the end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod cases;
mod client_addresses;
mod json_shapes;
mod mongo_answers;
mod mongo_batches;
mod mongo_services;
mod opensearch_answers;
mod opensearch_order;
mod opensearch_setups;
mod postgres_connection;
mod postgres_heap;
mod postgres_table;
mod redis_commands;
#[path = "../support/mod.rs"]
mod support;

macro_rules! conforms {
    (@ $server:ident: $($case:ident)*) => {
        mod $server {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::cases::$case(super::support::place::Place::new(stringify!($server))).await;
                }
            )*
        }
    };
    ($server:ident) => {
        conforms! { @ $server:
            a_workspace_that_is_not_there_is_empty_and_stays_so
            a_scan_gives_every_record_once_at_every_page_size
            a_scan_goes_on_at_every_cursor
            what_is_replaced_during_a_scan_is_not_missed
            a_page_goes_beyond_its_bytes_by_one_record_at_most
            a_selection_is_kept_to
            shards_are_disjoint_and_complete
            records_are_got_by_key_in_order
            what_was_written_is_found_at_once
            an_upsert_replaces_the_whole_record_and_may_be_repeated
            a_record_that_comes_again_replaces_the_first
            a_creation_leaves_what_is_there
            workspaces_are_kept_apart
            workspaces_that_were_gathered_are_counted_and_read_like_others
            no_shape_of_a_record_is_lost_or_changed_silently
            thousands_of_records_are_moved_in_pages
            writes_at_once_and_a_flush_beside_them_lose_nothing
            a_write_that_nobody_waits_for_may_be_repeated
            a_page_that_nobody_waits_for_is_not_lost
        }
    };
}

conforms!(json);
conforms!(redis);
conforms!(postgres);
conforms!(mongo);
conforms!(opensearch);
conforms!(archive);

// Further servers of the same storages.
conforms!(valkey);
conforms!(pgbouncer_session);
conforms!(pgbouncer_transaction);
conforms!(ferretdb);
conforms!(opensearch218);
conforms!(opensearch_path);

// Storages that several processes may write to. Each round needs a place where nothing was created before.
macro_rules! created_at_once {
    ($($server:ident)*) => {
        mod created_at_once {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $server() {
                    for _ in 0..5 {
                        let place = super::support::place::Place::alone(stringify!($server));
                        super::cases::many_create_at_once_what_they_write_to(place).await;
                    }
                }
            )*
        }
    };
}

created_at_once!(redis postgres mongo ferretdb opensearch opensearch218);

#[test]
fn every_server_has_the_suite() {
    let lines = include_str!("main.rs");
    for server in &support::place::SERVERS {
        let line = format!("\nconforms!({});\n", server.name);
        assert!(lines.contains(&line), "{} is left out", server.name);
    }
}

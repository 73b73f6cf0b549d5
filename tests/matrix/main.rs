//! Every source × target, judged by LightRAG: what it reads at the source, it reads at the target.
//!
//! A test is named `source::to::target`. A new storage is a line and a column in the square below; a further server of one
//! goes there and back from JSON.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    reason = "a test may panic, and what tests share is public to them alone"
)]

mod every_kind;
mod pair;
#[path = "../support/mod.rs"]
mod support;

macro_rules! matrix {
    ($($source:ident => $($target:ident)*;)*) => {
        $(
            mod $source {
                mod to {
                    $(
                        #[test]
                        fn $target() {
                            crate::pair::moves(stringify!($source), stringify!($target));
                        }
                    )*
                }

                #[test]
                fn a_dry_run_makes_nothing() {
                    crate::every_kind::a_dry_run_makes_nothing(stringify!($source));
                }

                #[test]
                fn all_workspaces_are_all_that_the_source_has() {
                    crate::every_kind::all_workspaces_are_all_that_the_source_has(stringify!($source));
                }
            }
        )*
    };
}

matrix! {
    json       => json redis postgres mongo opensearch archive
        valkey pgbouncer_session pgbouncer_transaction ferretdb opensearch218 opensearch_path;
    redis      => json redis postgres mongo opensearch archive;
    postgres   => json redis postgres mongo opensearch archive;
    mongo      => json redis postgres mongo opensearch archive;
    opensearch => json redis postgres mongo opensearch archive;
    archive    => json redis postgres mongo opensearch archive;

    valkey                => json;
    pgbouncer_session     => json;
    pgbouncer_transaction => json;
    ferretdb              => json;
    opensearch218         => json;
    opensearch_path       => json;
}

macro_rules! with_databases {
    ($($kind:ident)*) => {
        mod the_empty_workspace_comes_back {
            $(
                #[test]
                fn $kind() {
                    crate::every_kind::the_empty_workspace_comes_back(stringify!($kind));
                }
            )*
        }
    };
}

// Where a test can have a place of its own, on which the empty workspace is nobody else's.
with_databases!(json postgres mongo archive);

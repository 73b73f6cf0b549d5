//! What this storage is called, and where its settings come from.

use std::num::NonZeroUsize;

use crate::{model::Field, storage::ConnectorInfo};

/// What this storage is called, and where its settings come from.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "archive",
    title: "Archive",
    class_name: None,
    aliases: &[],
    schemes: SCHEMES,
    path_endings: &[".jsonl", ".jsonl.zst"],
    takes_other_paths: false,
    ini_section: None,
    workspace_variable: None,
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(512 << 10).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: FIELDS,
};

/// The schemes of buckets.
const SCHEMES: &[&str] = &["s3", "gs", "az"];

/// The settings in the job file.
const FIELDS: &[Field] = &[
    Field::new(
        "file",
        "the archive: a path or an address in a bucket (s3://bucket/key) that ends in .jsonl, or in .jsonl.zst to be \
         compressed",
    )
    .plain()
    .address(),
    Field::new(
        "level",
        "how hard to compress, from 1 (fastest) to 19 (smallest)",
    )
    .default("3")
    .plain(),
    Field::new(
        "endpoint",
        "address of a service that is compatible with S3, such as MinIO or Ceph; keys and region are read from AWS_*, \
         GOOGLE_* and AZURE_*",
    )
    .client_variable("AWS_ENDPOINT_URL")
    .address(),
];

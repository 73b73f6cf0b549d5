//! Names and settings of `RedisKVStorage`. Also part of a build without this storage, for its error message.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// Names and settings of this storage.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "redis",
    title: "Redis",
    class_name: Some("RedisKVStorage"),
    aliases: &[],
    schemes: &["redis", "rediss", "unix", "redis+unix"],
    path_endings: &[],
    takes_other_paths: false,
    ini_section: Some("redis"),
    workspace_variable: Some("REDIS_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: BATCH_BYTES,
    // At a round trip of 50 ms, enough for 240 MB/s.
    in_flight_bytes: NonZeroUsize::new(12 << 20).unwrap(),
    fields: FIELDS,
};

/// The bytes of keys and values per batch. More is not faster and uses more memory.
pub(super) const BATCH_BYTES: NonZeroUsize = NonZeroUsize::new(384 << 10).unwrap();

/// The settings in the job file, the environment and `config.ini`.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "uri",
        "redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:///path/to/socket[?db=number]",
    )
    .variable("REDIS_URI")
    .ini("uri")
    .default("redis://localhost:6379")
    .address(),
    Field::new("username", "user, instead of the one in the address").plain().address(),
    Field::new("password", "password, instead of the one in the address; not percent-decoded")
        .address(),
    Field::new(
        "ca_cert",
        "PEM file with the certificate authorities to trust instead of the system's",
    ),
    Field::new("client_cert", "PEM file with the client certificate"),
    Field::new("client_key", "PEM file with the private key of the client certificate, not encrypted"),
    Field::new(
        "verify_certs",
        "false to accept any certificate [default: as in the address, else true]",
    ),
    Field::new(
        "socket_timeout",
        "limit for a response, if shorter than --timeout; seconds, or a duration such as 30s",
    )
    .variable("REDIS_SOCKET_TIMEOUT")
    .plain(),
    Field::new(
        "connect_timeout",
        "limit for connecting, if shorter than --timeout; seconds, or a duration such as 10s",
    )
    .variable("REDIS_CONNECT_TIMEOUT")
    .default("10")
    .plain(),
    Field::new(
        "allow_eviction_policy",
        "true to write to a server that evicts keys when its memory is full, as LightRAG does with this setting",
    )
    .variable("REDIS_ALLOW_EVICTION_POLICY")
    .read_as(is_true)
    .default("false")
    .plain(),
];

/// LightRAG treats everything but `true` as false.
fn is_true(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(if text.trim().eq_ignore_ascii_case("true") {
        "true"
    } else {
        "false"
    }))
}

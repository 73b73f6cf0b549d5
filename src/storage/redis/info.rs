//! What `RedisKVStorage` is called, and its settings. Also compiled into a build without this
//! storage, which can then say so.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// What this storage is called, and where its settings come from.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "redis",
    title: "Redis",
    class_name: Some("RedisKVStorage"),
    aliases: &[],
    schemes: &["redis", "rediss", "unix", "redis+unix"],
    takes_paths: false,
    ini_section: Some("redis"),
    workspace_variable: Some("REDIS_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: BATCH_BYTES,
    fields: FIELDS,
};

/// The bytes of keys and values that are sent at once. More is no faster and uses memory.
pub(super) const BATCH_BYTES: NonZeroUsize = NonZeroUsize::new(384 << 10).unwrap();

/// The settings in the job file, the environment and `config.ini`.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "uri",
        "redis://[user:password@]host[:port][/database], with rediss:// for TLS, or unix:///path/to/socket[?db=number]",
    )
    .variable("REDIS_URI")
    .ini("uri")
    .default("redis://localhost:6379")
    .address(),
    Field::new("username", "the user, instead of the one in the address").plain().address(),
    Field::new("password", "the password, instead of the one in the address; taken as it is, not percent-decoded")
        .address(),
    Field::new(
        "ca_cert",
        "a file with the certificates of the authorities to trust (PEM), instead of the system's",
    ),
    Field::new("client_cert", "a file with the certificate to show to the server (PEM)"),
    Field::new("client_key", "a file with the key of that certificate (PEM, not encrypted)"),
    Field::new(
        "verify_certs",
        "false takes any certificate of the server; the default is what the address says, else true",
    ),
    Field::new(
        "socket_timeout",
        "how long an answer may take, where that is less than --timeout; seconds, or a duration such as 30s",
    )
    .variable("REDIS_SOCKET_TIMEOUT")
    .plain(),
    Field::new(
        "connect_timeout",
        "how long connecting may take, where that is less than --timeout; seconds, or a duration such as 10s",
    )
    .variable("REDIS_CONNECT_TIMEOUT")
    .default("10")
    .plain(),
    Field::new(
        "allow_eviction_policy",
        "true writes to a server that throws away keys when its memory is full, as LightRAG then does",
    )
    .variable("REDIS_ALLOW_EVICTION_POLICY")
    .read_as(is_true)
    .default("false")
    .plain(),
];

/// LightRAG takes nothing but this word for a yes.
fn is_true(text: &str) -> Option<Cow<'_, str>> {
    Some(Cow::Borrowed(if text.trim().eq_ignore_ascii_case("true") {
        "true"
    } else {
        "false"
    }))
}

//! Names and settings of `PGKVStorage`. Also part of a build without this storage, for its error message.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// Names and settings of this storage.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "postgres",
    title: "PostgreSQL",
    class_name: Some("PGKVStorage"),
    aliases: &["postgresql", "pg"],
    schemes: &["postgres", "postgresql"],
    path_endings: &[],
    takes_other_paths: false,
    ini_section: Some("postgres"),
    workspace_variable: Some("POSTGRES_WORKSPACE"),
    workspace_ini_key: Some("workspace"),
    trims_workspace: false,
    batch_bytes: NonZeroUsize::new(1 << 20).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file and the environment (LightRAG's `ClientManager.get_config`).
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "host",
        "host, or the directory of a Unix socket; or several, separated by commas",
    )
    .variable("POSTGRES_HOST")
    .ini("host")
    .read_as(host)
    .default("localhost")
    .plain()
    .address(),
    Field::new(
        "port",
        "port; one for all hosts, or one for each, separated by commas",
    )
    .variable("POSTGRES_PORT")
    .ini("port")
    .unset_by_empty()
    .default("5432")
    .plain()
    .address(),
    Field::new("user", "role to log in as")
        .variable("POSTGRES_USER")
        .ini("user")
        .default("postgres")
        .plain()
        .address(),
    Field::new("password", "password of the role, if the server asks for one")
        .variable("POSTGRES_PASSWORD")
        .client_variable("PGPASSWORD")
        .ini("password")
        .address(),
    Field::new("database", "database")
        .variable("POSTGRES_DATABASE")
        .ini("database")
        .default("postgres")
        .plain()
        .address(),
    Field::new(
        "ssl_mode",
        "disable, allow, prefer, require (encrypted, server not verified), verify-ca, verify-full",
    )
    .variable("POSTGRES_SSL_MODE")
    .client_variable(CLIENT_SSL_MODE)
    .ini("ssl_mode")
    .read_as(ssl_mode)
    .default("prefer")
    .plain()
    .address(),
    Field::new("ssl_cert", "PEM file with the client certificate")
        .variable("POSTGRES_SSL_CERT")
        .ini("ssl_cert")
        .unset_by_empty()
        .plain(),
    Field::new(
        "ssl_key",
        "PEM file with the private key of the client certificate",
    )
    .variable("POSTGRES_SSL_KEY")
    .ini("ssl_key")
    .unset_by_empty()
    .plain(),
    Field::new(
        "ssl_root_cert",
        "PEM file with the certificate authorities to trust instead of the system's",
    )
    .variable("POSTGRES_SSL_ROOT_CERT")
    .ini("ssl_root_cert")
    .unset_by_empty()
    .plain(),
    Field::new("ssl_crl", "PEM file with revoked certificates")
        .variable("POSTGRES_SSL_CRL")
        .ini("ssl_crl")
        .unset_by_empty()
        .plain(),
    Field::new(
        "server_settings",
        "settings of the session, `name=value&name=value`",
    )
    .variable("POSTGRES_SERVER_SETTINGS")
    .ini("server_options")
    .unset_by_empty(),
    Field::new(
        "statement_cache_size",
        "accepted for compatibility with LightRAG and ignored; prepared statements are not cached",
    )
    .variable("POSTGRES_STATEMENT_CACHE_SIZE")
    .ini("statement_cache_size")
    .plain(),
    Field::new("max_connections", "maximum number of open connections")
        .variable("POSTGRES_MAX_CONNECTIONS")
        .ini("max_connections")
        .plain(),
    Field::new("connect_timeout", "limit for connecting, 20s by default").plain(),
    Field::new(
        "options",
        "command-line options of the session: `-c search_path=rag`",
    ),
    Field::new(
        "application_name",
        "name shown in the server's logs and statistics",
    )
    .default("migrate-llm-cache")
    .plain(),
    Field::new(
        "target_session_attrs",
        "which of several hosts to use: any, read-write, read-only",
    )
    .default("any")
    .plain(),
    Field::new(
        "channel_binding",
        "whether to bind the login to the TLS connection: disable, prefer, require",
    )
    .default("prefer")
    .plain(),
];

/// The variable that asyncpg reads if LightRAG sets no mode.
pub(super) const CLIENT_SSL_MODE: &str = "PGSSLMODE";

/// For an empty host, asyncpg tries the usual directories of Unix sockets, then localhost.
fn host(text: &str) -> Option<Cow<'_, str>> {
    const NOWHERE: &str = "/run/postgresql,/var/run/postgresql,/tmp,/private/tmp,localhost";
    Some(Cow::Borrowed(if text.is_empty() { NOWHERE } else { text }))
}

/// LightRAG accepts the mode in upper or lower case, and treats an empty one as unset.
fn ssl_mode(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then(|| Cow::Owned(text.to_lowercase()))
}

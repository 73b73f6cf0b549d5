//! What `PGKVStorage` is called, and its settings. Also compiled into a build without this
//! storage, which can then say so.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// What this storage is called, and where its settings come from.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "postgres",
    title: "PostgreSQL",
    class_name: Some("PGKVStorage"),
    aliases: &["postgresql", "pg"],
    schemes: &["postgres", "postgresql"],
    takes_paths: false,
    ini_section: Some("postgres"),
    workspace_variable: Some("POSTGRES_WORKSPACE"),
    workspace_ini_key: Some("workspace"),
    trims_workspace: false,
    batch_bytes: NonZeroUsize::new(2 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file and the environment (LightRAG's `ClientManager.get_config`).
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "host",
        "host, or the directory of a Unix socket; several, separated by commas",
    )
    .variable("POSTGRES_HOST")
    .ini("host")
    .read_as(host)
    .default("localhost")
    .plain()
    .address(),
    Field::new("port", "port; one for all hosts, or as many as hosts")
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
    Field::new("password", "its password, where the server asks for one")
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
        "disable, allow, prefer, require (encrypted, whoever answers), verify-ca, verify-full",
    )
    .variable("POSTGRES_SSL_MODE")
    .client_variable(CLIENT_SSL_MODE)
    .ini("ssl_mode")
    .read_as(ssl_mode)
    .default("prefer")
    .plain()
    .address(),
    Field::new("ssl_cert", "PEM file with our certificate")
        .variable("POSTGRES_SSL_CERT")
        .ini("ssl_cert")
        .unset_by_empty()
        .plain(),
    Field::new("ssl_key", "PEM file with its private key")
        .variable("POSTGRES_SSL_KEY")
        .ini("ssl_key")
        .unset_by_empty()
        .plain(),
    Field::new(
        "ssl_root_cert",
        "PEM file with the authorities to trust, instead of the system's",
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
        "accepted because LightRAG knows it; no prepared statement is kept, whatever it says",
    )
    .variable("POSTGRES_STATEMENT_CACHE_SIZE")
    .ini("statement_cache_size")
    .plain(),
    Field::new("max_connections", "the most connections to open at once")
        .variable("POSTGRES_MAX_CONNECTIONS")
        .ini("max_connections")
        .plain(),
    Field::new(
        "connect_timeout",
        "how long making a connection may take, 20s if not said",
    )
    .plain(),
    Field::new(
        "options",
        "command-line options for the session: `-c search_path=rag`",
    ),
    Field::new(
        "application_name",
        "the name that the server's administrator sees",
    )
    .default("migrate-llm-cache")
    .plain(),
    Field::new(
        "target_session_attrs",
        "which of several hosts will do: any, read-write, read-only",
    )
    .default("any")
    .plain(),
    Field::new(
        "channel_binding",
        "whether the login is bound to the TLS connection: disable, prefer, require",
    )
    .default("prefer")
    .plain(),
];

/// Read by asyncpg, where LightRAG names no mode.
pub(super) const CLIENT_SSL_MODE: &str = "PGSSLMODE";

/// What asyncpg makes of an empty host: the usual folders of Unix sockets, then this machine.
fn host(text: &str) -> Option<Cow<'_, str>> {
    const NOWHERE: &str = "/run/postgresql,/var/run/postgresql,/tmp,/private/tmp,localhost";
    Some(Cow::Borrowed(if text.is_empty() { NOWHERE } else { text }))
}

/// LightRAG takes the mode in any case, and an empty one for none.
fn ssl_mode(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then(|| Cow::Owned(text.to_lowercase()))
}

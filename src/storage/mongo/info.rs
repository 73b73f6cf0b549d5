//! What `MongoKVStorage` is called, and its settings. Also compiled into a build without this
//! storage, which can then say so.

use std::num::NonZeroUsize;

use crate::{model::Field, storage::ConnectorInfo};

/// What this storage is called, and where its settings come from.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "mongo",
    title: "MongoDB",
    class_name: Some("MongoKVStorage"),
    aliases: &["mongodb"],
    schemes: &["mongodb", "mongodb+srv"],
    takes_paths: false,
    ini_section: Some("mongodb"),
    workspace_variable: Some("MONGODB_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(2 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file, the environment and `config.ini`.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "uri",
        "the server's address, as MongoDB's drivers take it: mongodb://user:password@host:27017/?authSource=admin",
    )
    .variable("MONGO_URI")
    .ini("uri")
    .default("mongodb://root:root@localhost:27017/")
    .address(),
    Field::new("database", "the database that holds LightRAG's collections")
        .variable("MONGO_DATABASE")
        .ini("database")
        .default("LightRAG")
        .plain()
        .address(),
    Field::new("tls", "whether to use TLS; otherwise as the address says"),
    Field::new(
        "tls_ca_file",
        "a file with the certificate authorities to trust, instead of the system's; turns TLS on",
    ),
    Field::new(
        "tls_certificate_key_file",
        "a file with a client's certificate and key; turns TLS on",
    ),
    Field::new(
        "tls_allow_invalid_certificates",
        "true to trust any certificate; turns TLS on",
    ),
];

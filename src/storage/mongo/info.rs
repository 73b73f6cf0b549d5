//! Names and settings of `MongoKVStorage`. Also part of a build without this storage, for its error message.

use std::num::NonZeroUsize;

use crate::{model::Field, storage::ConnectorInfo};

/// Names and settings of this storage.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "mongo",
    title: "MongoDB",
    class_name: Some("MongoKVStorage"),
    aliases: &["mongodb"],
    schemes: &["mongodb", "mongodb+srv"],
    path_endings: &[],
    takes_other_paths: false,
    ini_section: Some("mongodb"),
    workspace_variable: Some("MONGODB_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(1 << 20).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file, the environment and `config.ini`.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "uri",
        "address in the format of MongoDB's drivers: mongodb://user:password@host:27017/?authSource=admin",
    )
    .variable("MONGO_URI")
    .ini("uri")
    .default("mongodb://root:root@localhost:27017/")
    .address(),
    Field::new("database", "database with LightRAG's collections")
        .variable("MONGO_DATABASE")
        .ini("database")
        .default("LightRAG")
        .plain()
        .address(),
    Field::new("tls", "whether to use TLS [default: as in the address]"),
    Field::new(
        "tls_ca_file",
        "PEM file with the certificate authorities to trust instead of the system's; implies TLS",
    ),
    Field::new(
        "tls_certificate_key_file",
        "PEM file with the client certificate and key; implies TLS",
    ),
    Field::new(
        "tls_allow_invalid_certificates",
        "whether to accept any certificate; implies TLS",
    ),
];

//! Names and settings of `OpenSearchKVStorage`. Also part of a build without this storage, for its error message.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// Names and settings of this storage.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "opensearch",
    title: "OpenSearch",
    class_name: Some("OpenSearchKVStorage"),
    aliases: &["os"],
    schemes: &["http", "https"],
    path_endings: &[],
    takes_other_paths: false,
    ini_section: Some("opensearch"),
    workspace_variable: Some("OPENSEARCH_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(2 << 20).unwrap(),
    in_flight_bytes: NonZeroUsize::new(6 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file and the environment.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "hosts",
        "host[:port] or an address, with a path if a proxy needs one; or several separated by commas, of which the first \
         that answers is used; the default port is 9200, or 443 for https://",
    )
    .variable("OPENSEARCH_HOSTS")
    .ini("hosts")
    .default("localhost:9200")
    .address(),
    Field::new("user", "user; the default is not sent to an http:// address")
        .variable("OPENSEARCH_USER")
        .ini("user")
        .default("admin")
        .plain()
        .address(),
    Field::new("password", "password")
        .variable("OPENSEARCH_PASSWORD")
        .ini("password")
        .default("admin")
        .address(),
    Field::new("use_ssl", "whether to use TLS; overridden by the scheme of an address in a flag or the job file")
        .variable("OPENSEARCH_USE_SSL")
        .ini("use_ssl")
        .read_as(is_true)
        .default("true")
        .plain()
        .address(),
    Field::new("verify_certs", "whether to verify the server's certificate")
        .variable("OPENSEARCH_VERIFY_CERTS")
        .ini("verify_certs")
        .read_as(is_true)
        .default("false")
        .plain(),
    Field::new(
        "ca_cert",
        "PEM file with the certificate authority of the server; implies verify_certs",
    ),
    Field::new(
        "timeout",
        "limit for a request, if shorter than --timeout",
    )
    .variable("OPENSEARCH_TIMEOUT")
    .ini("timeout")
    .plain(),
    Field::new(
        "max_retries",
        "how often to resend a document that the server rejects because it is overloaded",
    )
    .variable("OPENSEARCH_MAX_RETRIES")
    .ini("max_retries")
    .default("3")
    .plain(),
    Field::new("number_of_shards", "shards of a new index")
        .variable("OPENSEARCH_NUMBER_OF_SHARDS")
        .ini("number_of_shards")
        .default("1")
        .plain(),
    Field::new("number_of_replicas", "replicas of a new index")
        .variable("OPENSEARCH_NUMBER_OF_REPLICAS")
        .ini("number_of_replicas")
        .default("0")
        .plain(),
];

/// LightRAG treats these words as true and everything else as false.
fn is_true(text: &str) -> Option<Cow<'_, str>> {
    let is_true = ["true", "1", "yes"].contains(&text.to_lowercase().as_str());
    Some(Cow::Borrowed(if is_true { "true" } else { "false" }))
}

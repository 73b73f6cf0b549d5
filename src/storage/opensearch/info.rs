//! What `OpenSearchKVStorage` is called, and its settings. Also compiled into a build without this
//! storage, which can then say so.

use std::{borrow::Cow, num::NonZeroUsize};

use crate::{model::Field, storage::ConnectorInfo};

/// What this storage is called, and where its settings come from.
pub(in crate::storage) const INFO: ConnectorInfo = ConnectorInfo {
    kind: "opensearch",
    title: "OpenSearch",
    class_name: Some("OpenSearchKVStorage"),
    aliases: &["os"],
    schemes: &["http", "https"],
    takes_paths: false,
    ini_section: Some("opensearch"),
    workspace_variable: Some("OPENSEARCH_WORKSPACE"),
    workspace_ini_key: None,
    trims_workspace: true,
    batch_bytes: NonZeroUsize::new(2 << 20).unwrap(),
    fields: FIELDS,
};

/// The settings in the job file and the environment.
pub(super) const FIELDS: &[Field] = &[
    Field::new(
        "hosts",
        "host[:port] or an address, with a path where a proxy has one, or several between commas, of which the first \
         that answers is used; without a port 9200, or 443 after https://",
    )
    .variable("OPENSEARCH_HOSTS")
    .ini("hosts")
    .default("localhost:9200")
    .address(),
    Field::new("user", "the user; the default one is not sent to an http:// address")
        .variable("OPENSEARCH_USER")
        .ini("user")
        .default("admin")
        .plain()
        .address(),
    Field::new("password", "the password")
        .variable("OPENSEARCH_PASSWORD")
        .ini("password")
        .default("admin")
        .address(),
    Field::new("use_ssl", "whether to use TLS; the scheme of an address that a flag or the job file names wins")
        .variable("OPENSEARCH_USE_SSL")
        .ini("use_ssl")
        .read_as(is_true)
        .default("true")
        .plain()
        .address(),
    Field::new("verify_certs", "whether the server must prove who it is")
        .variable("OPENSEARCH_VERIFY_CERTS")
        .ini("verify_certs")
        .read_as(is_true)
        .default("false")
        .plain(),
    Field::new(
        "ca_cert",
        "a PEM file with the certificate authority of the server; implies verify_certs",
    ),
    Field::new(
        "timeout",
        "how long a request may take, where that is shorter than --timeout",
    )
    .variable("OPENSEARCH_TIMEOUT")
    .ini("timeout")
    .plain(),
    Field::new(
        "max_retries",
        "how often a document is sent again that the server has no room for just now",
    )
    .variable("OPENSEARCH_MAX_RETRIES")
    .ini("max_retries")
    .default("3")
    .plain(),
    Field::new("number_of_shards", "shards of an index that is made")
        .variable("OPENSEARCH_NUMBER_OF_SHARDS")
        .ini("number_of_shards")
        .default("1")
        .plain(),
    Field::new("number_of_replicas", "replicas of an index that is made")
        .variable("OPENSEARCH_NUMBER_OF_REPLICAS")
        .ini("number_of_replicas")
        .default("0")
        .plain(),
];

/// What LightRAG takes for a yes; everything else is a no.
fn is_true(text: &str) -> Option<Cow<'_, str>> {
    let is_true = ["true", "1", "yes"].contains(&text.to_lowercase().as_str());
    Some(Cow::Borrowed(if is_true { "true" } else { "false" }))
}

//! Whether an index keeps what LightRAG writes, found out before the first write and without one; and what is asked of a
//! cluster once, for all of its indices.
//!
//! An index can lose documents and still answer that all is well: a mapping without `_source`, a pipeline that drops. Or
//! it refuses every one of them, for a reason unrelated to the records. Either is reported once, about the
//! index. What the login may not ask for is done without, since LightRAG does not ask for it either.

use std::collections::BTreeMap;

use opensearch::http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    client::{Answer, Block, Client, Request},
    codec::MIRRORED_ID,
    mapping::{self, Properties, USUAL_FIELDS},
};
use crate::model::{Error, ErrorKind, Result};

/// The usual limit on the size of a request (`http.max_content_length`), in bytes.
const USUAL_LARGEST_REQUEST: usize = 100 << 20;

/// The settings that send what is written through a pipeline.
const PIPELINE_SETTINGS: [&str; 2] = ["index.default_pipeline", "index.final_pipeline"];

/// The document that the trial of a write names. It is never written.
const TRIAL_KEY: &str = "migrate-llm-cache:trial";

/// What was found out about an index that can be written.
#[derive(Debug, Default)]
pub(super) struct Inspection {
    /// How many long pauses there had been when the index was inspected; `None` before that.
    pub(super) pauses: Option<u64>,
    /// The index that is meant by the name; `None` where that could not be asked, or it does not exist yet.
    pub(super) index: Option<String>,
    /// Whether the index exists.
    pub(super) exists: bool,
    /// Whether the server answers before a document is on the disk.
    pub(super) is_lazy: bool,
    /// Whether the mapping lacks the field with the key.
    pub(super) lacks_mirrored_id: bool,
    /// Whether the mapping is known to let the server look for keys.
    pub(super) can_search_keys: bool,
    pub(super) warnings: Vec<String>,
}

/// The mapping of an index, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Mappings {
    #[serde(default)]
    pub(super) properties: Properties,
    #[serde(rename = "_source", default)]
    source: SourceMapping,
    #[serde(rename = "_routing", default)]
    routing: RoutingMapping,
    #[serde(default)]
    dynamic: Value,
}

#[derive(Debug, Default, Deserialize)]
struct SourceMapping {
    enabled: Option<bool>,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    excludes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RoutingMapping {
    #[serde(default)]
    required: bool,
}

/// The settings of an index, by their full names.
type Settings = BTreeMap<String, String>;

/// An index as it was found under a name.
struct FoundIndex {
    settings: Settings,
    /// `None` where only the settings could be read, as for `mappings`.
    aliases: Option<Aliases>,
    mappings: Option<Mappings>,
}

/// The aliases of an index, by name.
type Aliases = BTreeMap<String, Alias>;

#[derive(Deserialize)]
struct Alias {
    is_write_index: Option<bool>,
}

/// What a cluster is asked once, for all indices. An error is not remembered.
#[derive(Default)]
pub(super) struct ClusterFacts {
    blocks: OnceCell<Settings>,
    largest_request: OnceCell<usize>,
}

impl ClusterFacts {
    /// The blocks of the cluster; none where the login may not read them.
    async fn blocks(&self, inspector: &Inspector<'_>) -> Result<&Settings> {
        self.blocks.get_or_try_init(|| inspector.cluster_blocks()).await
    }

    /// The largest request that every node accepts, in bytes; the usual limit if the server has not said.
    pub(super) fn largest_request(&self) -> usize {
        self.largest_request
            .get()
            .copied()
            .unwrap_or(USUAL_LARGEST_REQUEST)
    }

    /// Asks for the largest request, unless the server has said.
    pub(super) async fn learn_largest_request(&self, client: &Client) -> Result<()> {
        let learned = self
            .largest_request
            .get_or_try_init(|| ask_for_largest_request(client));
        match learned.await {
            Err(error) if error.kind() != ErrorKind::Busy => Err(error),
            // Where the server is busy, the next target asks again.
            _ => Ok(()),
        }
    }
}

/// The largest request that every node accepts, in bytes; the usual limit where the login may not ask for it.
async fn ask_for_largest_request(client: &Client) -> Result<usize> {
    #[derive(Deserialize)]
    struct Nodes {
        #[serde(default)]
        nodes: BTreeMap<String, Node>,
    }
    #[derive(Deserialize)]
    struct Node {
        http: Http,
    }
    #[derive(Deserialize)]
    struct Http {
        max_content_length_in_bytes: usize,
    }
    let query = [("filter_path", "nodes.*.http.max_content_length_in_bytes")];
    let request = Request::new(Method::Get, "/_nodes/http", "ask for the size of requests").query(&query);
    let answer = client.send(&request).await?;
    let answer = client.unless_busy(&request, answer)?;
    let nodes = match answer.is_success() {
        true => serde_json::from_slice::<Nodes>(&answer.body).ok(),
        false => None,
    };
    let sizes = nodes.into_iter().flat_map(|found| found.nodes.into_values());
    let smallest = sizes.map(|node| node.http.max_content_length_in_bytes).min();
    Ok(smallest.unwrap_or(USUAL_LARGEST_REQUEST))
}

/// Looks at an index, by its name or an alias's.
pub(super) struct Inspector<'a> {
    client: &'a Client,
    name: &'a str,
}

impl<'a> Inspector<'a> {
    pub(super) fn new(client: &'a Client, name: &'a str) -> Self {
        Self { client, name }
    }

    /// # Errors
    /// [`ErrorKind::Refused`] where the index would lose or refuse what is written, [`ErrorKind::Permission`] where the
    /// login may not write to it.
    pub(super) async fn inspect(&self) -> Result<Inspection> {
        let (found, exists) = match self.indices().await? {
            Found::Nothing => (None, false),
            Found::Hidden => (None, true),
            Found::Indices(indices) => (Some(self.only_index(indices).await?), true),
        };
        self.check_cluster(exists).await?;
        if !exists {
            return self.inspect_template().await;
        }
        let mut inspection = Inspection {
            exists,
            ..Inspection::default()
        };
        let mut has_pipeline = false;
        let mut mappings = None;
        if let Some((index, found)) = found {
            let settings = &found.settings;
            self.check_settings(&index, settings)?;
            inspection.is_lazy = is(settings, "index.translog.durability", "async");
            inspection.warnings = self.check_pipelines(settings).await?;
            has_pipeline = !pipelines(settings).is_empty();
            inspection.index = Some(index);
            mappings = found.mappings;
        }
        if mappings.is_none() {
            mappings = self.mappings().await?;
        }
        if let Some(mappings) = mappings {
            self.check_mappings(&mappings)?;
            let key_field = mappings.properties.get(MIRRORED_ID);
            inspection.lacks_mirrored_id = key_field.is_none();
            inspection.can_search_keys = key_field.is_some_and(|field| field["type"] == "keyword");
        }
        // A pipeline may send the document of the trial to another index, and make that.
        if !has_pipeline {
            self.try_to_write().await?;
        }
        Ok(inspection)
    }

    /// What an index would be like that does not exist yet, by the templates that apply to its name.
    async fn inspect_template(&self) -> Result<Inspection> {
        #[derive(Deserialize)]
        struct Simulated {
            template: Option<Template>,
        }
        #[derive(Deserialize)]
        struct Template {
            #[serde(default)]
            settings: Value,
            #[serde(default)]
            mappings: Option<Mappings>,
        }
        let path = format!("/_index_template/_simulate_index/{}", self.name);
        let answer = self.send(self.request(Method::Post, path)).await?;
        let simulated = match answer.is_success() {
            true => serde_json::from_slice::<Simulated>(&answer.body).ok(),
            false => None,
        };
        let mut inspection = Inspection::default();
        if let Some(template) = simulated.and_then(|simulated| simulated.template) {
            let mut settings = Settings::new();
            flatten("", &template.settings, &mut settings);
            self.check_settings(self.name, &settings)?;
            inspection.warnings = self.check_pipelines(&settings).await?;
            if let Some(mut mappings) = template.mappings {
                // The request that makes the index says what it is.
                mappings.dynamic = Value::Bool(true);
                self.check_mappings(&mappings)?;
            }
        }
        Ok(inspection)
    }

    /// The indices of the name. A login that may not read all of an index at once may still read its settings.
    async fn indices(&self) -> Result<Found> {
        #[derive(Deserialize)]
        struct Index {
            settings: Value,
            aliases: Option<Aliases>,
            mappings: Option<Mappings>,
        }
        let what = format!("read the settings of the index {}", self.name);
        let query = [("flat_settings", "true")];
        let path = format!("/{}", self.name);
        let mut request = Request::new(Method::Get, path, what).query(&query);
        let mut answer = self.client.send(&request).await?;
        if is_forbidden(&answer) {
            request.path.push_str("/_settings");
            answer = self.client.send(&request).await?;
        }
        if answer.lacks_index() {
            return Ok(Found::Nothing);
        }
        if is_forbidden(&answer) {
            let exists = self.client.field(self.name, MIRRORED_ID).await?.is_some();
            return Ok(if exists { Found::Hidden } else { Found::Nothing });
        }
        let answer = self.client.success(&request, answer)?;
        let indices: BTreeMap<String, Index> = self.client.parse(&request.what, &answer.body)?;
        let flat = |index: Index| {
            let mut settings = Settings::new();
            flatten("", &index.settings, &mut settings);
            FoundIndex {
                settings,
                aliases: index.aliases,
                mappings: index.mappings,
            }
        };
        let indices = indices.into_iter().map(|(name, index)| (name, flat(index)));
        Ok(Found::Indices(indices.collect()))
    }

    /// The index. It may be given by an alias, if that can be written and read by key.
    async fn only_index(&self, indices: BTreeMap<String, FoundIndex>) -> Result<(String, FoundIndex)> {
        let names: Vec<String> = indices.keys().cloned().collect();
        let mut indices = indices.into_iter();
        let (Some((name, found)), None) = (indices.next(), indices.next()) else {
            let message = format!(
                "{} at {} is an alias of {} indices ({}), but LightRAG can read by key from only one",
                self.name,
                self.client.host(),
                names.len(),
                names.join(", ")
            );
            return Err(self.refused(
                message,
                "choose another workspace, or point the alias at one index only",
            ));
        };
        if name == self.name {
            return Ok((name, found));
        }
        if name.starts_with(".ds-") {
            let message = format!(
                "{} at {} is a data stream, but LightRAG stores its cache in an index",
                self.name,
                self.client.host()
            );
            return Err(self.refused(message, "choose another workspace, or delete the data stream"));
        }
        self.check_alias(&name, &found).await?;
        Ok((name, found))
    }

    async fn check_alias(&self, index: &str, found: &FoundIndex) -> Result<()> {
        let forbids_writes = |aliases: &Aliases| {
            let alias = aliases.get(self.name);
            alias.is_some_and(|alias| alias.is_write_index == Some(false))
        };
        let is_read_only = match &found.aliases {
            Some(aliases) => forbids_writes(aliases),
            None => forbids_writes(&self.aliases_of(index).await?),
        };
        if is_read_only {
            let message = format!(
                "{} at {} is an alias that cannot be written: it has no write index",
                self.name,
                self.client.host()
            );
            let remedy =
                format!("set is_write_index of the alias to true for {index}, or choose another workspace");
            return Err(self.refused(message, &remedy));
        }
        Ok(())
    }

    /// The aliases of an index; none where the login may not read them.
    async fn aliases_of(&self, index: &str) -> Result<Aliases> {
        #[derive(Deserialize)]
        struct Index {
            aliases: Aliases,
        }
        let answer = self
            .send(self.request(Method::Get, format!("/_alias/{}", self.name)))
            .await?;
        let mut found = match answer.is_success() {
            true => serde_json::from_slice::<BTreeMap<String, Index>>(&answer.body).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        Ok(found.remove(index).map(|index| index.aliases).unwrap_or_default())
    }

    /// The blocks of the cluster; none where the login may not read them.
    async fn cluster_blocks(&self) -> Result<Settings> {
        #[derive(Deserialize)]
        struct Answered {
            #[serde(default)]
            persistent: Value,
            #[serde(default)]
            transient: Value,
        }
        // Whole objects: a filter does not see into names with dots.
        let query = [("filter_path", "*.cluster.blocks")];
        let request = self.request(Method::Get, "/_cluster/settings").query(&query);
        let answer = self.send(request).await?;
        let mut settings = Settings::new();
        if answer.is_success()
            && let Ok(answered) = serde_json::from_slice::<Answered>(&answer.body)
        {
            flatten("", &answered.persistent, &mut settings);
            flatten("", &answered.transient, &mut settings);
        }
        Ok(settings)
    }

    /// Looks for a block on the whole cluster.
    async fn check_cluster(&self, index_exists: bool) -> Result<()> {
        let found = self.client.facts.blocks(self).await?;
        let blocks = [
            "cluster.blocks.read_only",
            "cluster.blocks.read_only_allow_delete",
        ];
        let creation = (!index_exists).then_some("cluster.blocks.create_index");
        for block in blocks.into_iter().chain(creation) {
            if is(found, block, "true") {
                let message = format!(
                    "nothing can be written to the cluster at {}: {block} is set",
                    self.client.host()
                );
                return Err(self.blocked(message, block, self.name));
            }
        }
        Ok(())
    }

    /// Looks for what makes every write or every read fail.
    fn check_settings(&self, index: &str, settings: &Settings) -> Result<()> {
        if is(settings, "index.verified_before_close", "true") {
            let message = format!("the index {index} at {} is closed", self.client.host());
            return Err(self.refused(message, &format!("open it: POST /{index}/_open")));
        }
        let blocks = [
            ("index.blocks.write", "written"),
            ("index.blocks.read_only", "written"),
            ("index.blocks.read_only_allow_delete", "written"),
            ("index.blocks.read", "read, which LightRAG must"),
        ];
        for (block, what) in blocks {
            if is(settings, block, "true") {
                let message = format!(
                    "the index {index} at {} cannot be {what}: {block} is set",
                    self.client.host()
                );
                return Err(self.blocked(message, block, index));
            }
        }
        Ok(())
    }

    /// The mapping; `None` where the login may not look at it.
    pub(super) async fn mappings(&self) -> Result<Option<Mappings>> {
        #[derive(Deserialize)]
        struct Index {
            mappings: Mappings,
        }
        let what = format!("read the mapping of the index {}", self.name);
        let request = Request::new(Method::Get, format!("/{}/_mapping", self.name), what);
        let answer = self.client.send(&request).await?;
        if is_forbidden(&answer) {
            return Ok(None);
        }
        let answer = self.client.success(&request, answer)?;
        let indices: BTreeMap<String, Index> = self.client.parse(&request.what, &answer.body)?;
        Ok(indices.into_values().next().map(|index| index.mappings))
    }

    /// Looks for what keeps documents from coming back as they were written, or from being written at all.
    fn check_mappings(&self, mappings: &Mappings) -> Result<()> {
        let index = format!("the index {} at {}", self.name, self.client.host());
        let source = &mappings.source;
        let lost = match source {
            _ if source.enabled == Some(false) => Some("_source is disabled".to_owned()),
            _ if !source.includes.is_empty() => {
                Some(format!("_source includes {} only", source.includes.join(", ")))
            }
            _ if !source.excludes.is_empty() => {
                Some(format!("_source excludes {}", source.excludes.join(", ")))
            }
            _ => None,
        };
        let remake = "recreate the index with another mapping, or choose another workspace";
        if let Some(lost) = lost {
            let message =
                format!("{index} does not store what is written, so it could not be read back: {lost}");
            return Err(self.refused(message, remake));
        }
        if mappings.routing.required {
            let message = format!("{index} requires a routing, but LightRAG sets none");
            return Err(self.refused(message, remake));
        }
        let is_strict = mappings
            .dynamic
            .as_str()
            .is_some_and(|dynamic| dynamic.starts_with("strict"));
        let fields = USUAL_FIELDS.into_iter().chain([MIRRORED_ID]);
        let unknown: Vec<&str> = fields
            .filter(|field| is_strict && !mappings.properties.contains_key(*field))
            .collect();
        if !unknown.is_empty() {
            let message = format!(
                "{index} accepts only the fields of its mapping (dynamic: strict), which lacks {}",
                unknown.join(", ")
            );
            let remedy = format!(
                "add them: PUT /{}/_mapping, or choose another workspace",
                self.name
            );
            return Err(self.refused(message, &remedy));
        }
        if let Some((field, kind)) = mapping::textless_field(&mappings.properties) {
            let message =
                format!("{index} does not accept text in the field {field}, which is mapped as {kind}");
            return Err(self.refused(message, remake));
        }
        Ok(())
    }

    /// Tries what is written through pipelines, on records like LightRAG's. What may happen to others is a warning.
    async fn check_pipelines(&self, settings: &Settings) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for (setting, pipeline) in pipelines(settings) {
            let about = format!(
                "the index {} at {} sends writes through the ingest pipeline {pipeline} ({setting})",
                self.name,
                self.client.host()
            );
            let path = format!(
                "/_ingest/pipeline/{}",
                utf8_percent_encode(pipeline, NON_ALPHANUMERIC)
            );
            let found = self.send(self.request(Method::Get, path.as_str())).await?;
            let remedy = format!(
                "remove the pipeline from the index (PUT /{}/_settings {{\"{setting}\": null}}), or choose another \
                 workspace",
                self.name
            );
            if found.status == 404 {
                return Err(self.refused(format!("{about}, which does not exist"), &remedy));
            }
            let samples = samples(self.name);
            let simulate = self.request(Method::Post, format!("{path}/_simulate"));
            let simulated = self.send(simulate.json(&json!({"docs": samples}))).await?;
            if let Some(harm) = harm(&samples, &simulated) {
                return Err(self.refused(format!("{about}, which {harm}"), &remedy));
            }
            warnings.push(format!(
                "{about}: it may drop or change records; compare with --verify full"
            ));
        }
        Ok(warnings)
    }

    /// Sends a write that cannot succeed, because it names a version that no document has: the server looks whether the
    /// login may write, and whether the index can be written, before it looks for the document.
    async fn try_to_write(&self) -> Result<()> {
        let query = [("if_seq_no", "0"), ("if_primary_term", "999999999")];
        let key = utf8_percent_encode(TRIAL_KEY, NON_ALPHANUMERIC);
        let what = format!("write to the index {}", self.name);
        let request = Request::new(Method::Put, format!("/{}/_doc/{key}", self.name), what)
            .query(&query)
            .json(&json!({}));
        let answer = self.client.send(&request).await?;
        let cause = answer.cause();
        let is_about_the_index = matches!(answer.status, 401 | 403)
            || cause.block().is_some_and(|block| !block.is_passing)
            || cause.text().contains("no write index");
        if answer.is_success() || !is_about_the_index {
            return Ok(());
        }
        self.client.success(&request, answer).map(drop)
    }

    fn request(&self, method: Method, path: impl Into<String>) -> Request<'static> {
        Request::new(method, path, format!("look at the index {}", self.name))
    }

    /// Sends a request whose refusal decides nothing.
    ///
    /// # Errors
    /// There was no answer, or the server is busy: then it is not known yet whether the index is fit.
    async fn send(&self, request: Request<'_>) -> Result<Answer> {
        let answer = self.client.send(&request).await?;
        if answer.is_success() {
            return Ok(answer);
        }
        tracing::debug!("{}: {}", request.path, answer.cause().text());
        self.client.unless_busy(&request, answer)
    }

    fn refused(&self, message: String, remedy: &str) -> Error {
        Error::new(ErrorKind::Refused, message).with_remedy(remedy)
    }

    fn blocked(&self, message: String, setting: &'static str, index: &str) -> Error {
        let remedy = Block::of_setting(setting).remedy(index);
        self.refused(message, &remedy.unwrap_or_default())
    }
}

/// What there is under a name.
enum Found {
    Nothing,
    /// An index whose settings the login may not look at.
    Hidden,
    Indices(BTreeMap<String, FoundIndex>),
}

/// Whether the login lacks the permission. A block on the index is another matter.
pub(super) fn is_forbidden(answer: &Answer) -> bool {
    answer.status == 403 && answer.cause().block().is_none()
}

fn is(settings: &Settings, name: &str, value: &str) -> bool {
    settings.get(name).is_some_and(|found| found == value)
}

/// The pipelines of an index, each with the setting that names it.
fn pipelines(settings: &Settings) -> Vec<(&'static str, &str)> {
    let named = PIPELINE_SETTINGS
        .into_iter()
        .filter_map(|setting| Some((setting, settings.get(setting)?.as_str())));
    named.filter(|(_, pipeline)| *pipeline != "_none").collect()
}

/// Brings settings into the form in which a name is a path: some requests answer with it, others with objects.
fn flatten(prefix: &str, value: &Value, settings: &mut Settings) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = match prefix {
                    "" => name.clone(),
                    _ => format!("{prefix}.{name}"),
                };
                flatten(&name, value, settings);
            }
        }
        Value::Null => {}
        Value::String(text) => drop(settings.insert(prefix.to_owned(), text.clone())),
        other => drop(settings.insert(prefix.to_owned(), other.to_string())),
    }
}

/// Documents like LightRAG's, as a simulation takes them.
fn samples(index: &str) -> Vec<Value> {
    let sample = |cache_type: &str, chunk: Value| {
        let key = format!("default:{cache_type}:0123456789abcdef0123456789abcdef");
        let source = json!({
            "return": "entity<|#|>LightRAG<|#|>concept<|#|>A system.\n<|COMPLETE|>",
            "original_prompt": "---Task---\nExtract the entities of the text.",
            "cache_type": cache_type,
            "chunk_id": chunk,
            "queryparam": null,
            "create_time": 1_700_000_000,
            "update_time": 1_700_000_000,
            MIRRORED_ID: key,
        });
        json!({"_index": index, "_id": key, "_source": source})
    };
    vec![
        sample("extract", json!("chunk-0123456789abcdef0123456789abcdef")),
        sample("summary", Value::Null),
    ]
}

/// Whether a request was refused because no node runs pipelines.
fn lacks_ingest_nodes(answer: &Answer) -> bool {
    answer.cause().text().contains("no ingest nodes")
}

/// What a pipeline does to a sample that no record should suffer.
fn harm(samples: &[Value], simulated: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Simulated {
        docs: Vec<Option<Processed>>,
    }
    #[derive(Deserialize)]
    struct Processed {
        doc: Option<Value>,
        error: Option<super::client::Cause>,
    }
    if !simulated.is_success() {
        return lacks_ingest_nodes(simulated)
            .then(|| "no node of the cluster runs: none has the ingest role".to_owned());
    }
    let simulated: Simulated = serde_json::from_slice(&simulated.body).ok()?;
    samples
        .iter()
        .zip(simulated.docs)
        .find_map(|(sample, processed)| {
            let Some(processed) = processed else {
                return Some("drops a record like LightRAG's".to_owned());
            };
            if let Some(error) = processed.error {
                return Some(format!("fails on a record like LightRAG's: {}", error.text()));
            }
            let doc = processed.doc?;
            if doc["_index"] != sample["_index"] {
                return Some(format!("sends records to the index {}", doc["_index"]));
            }
            if doc["_id"] != sample["_id"] {
                return Some("changes the keys of records".to_owned());
            }
            let fields = sample["_source"].as_object()?;
            let changed = fields
                .iter()
                .find(|(name, value)| doc["_source"].get(name.as_str()) != Some(*value));
            changed.map(|(name, _)| format!("changes the field {name} of records"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        Answer::new(status, body.to_string())
    }

    #[test]
    fn a_pipeline_harms_that_drops_reroutes_or_changes() {
        let samples = samples("i");
        let processed = |change: &dyn Fn(&mut Value)| {
            let docs = samples.iter().map(|sample| {
                let mut doc = sample.clone();
                change(&mut doc);
                json!({"doc": doc})
            });
            let docs: Vec<Value> = docs.collect();
            harm(&samples, &answer(200, json!({"docs": docs})))
        };
        assert_eq!(processed(&|_| {}), None);
        assert_eq!(processed(&|doc| doc["_source"]["ingested"] = json!(1)), None);
        let texts = [
            processed(&|doc| doc["_index"] = json!("other")),
            processed(&|doc| doc["_id"] = json!("other")),
            processed(&|doc| doc["_source"]["return"] = json!("")),
            harm(&samples, &answer(200, json!({"docs": [null, null]}))),
            harm(
                &samples,
                &answer(200, json!({"docs": [{"error": {"type": "t", "reason": "why"}}]})),
            ),
        ];
        let texts = texts.map(Option::unwrap);
        assert_eq!(
            texts,
            [
                "sends records to the index \"other\"",
                "changes the keys of records",
                "changes the field return of records",
                "drops a record like LightRAG's",
                "fails on a record like LightRAG's: why",
            ]
        );
        assert_eq!(harm(&samples, &answer(403, json!({}))), None);
        let reason =
            "There are no ingest nodes in this cluster, unable to forward request to an ingest node.";
        let error = json!({"error": {"type": "illegal_state_exception", "reason": reason}});
        let text = harm(&samples, &answer(500, error)).unwrap();
        assert!(text.contains("ingest role"), "{text}");
    }

    #[test]
    fn settings_are_read_in_both_forms() {
        let mut settings = Settings::new();
        flatten(
            "",
            &json!({"index": {"blocks": {"write": "true"}}, "a.b": true, "c": null}),
            &mut settings,
        );
        assert!(is(&settings, "index.blocks.write", "true") && is(&settings, "a.b", "true"));
        assert_eq!(settings.len(), 2);
        let named = json!({"index.default_pipeline": "p", "index.final_pipeline": "_none"});
        let mut settings = Settings::new();
        flatten("", &named, &mut settings);
        assert_eq!(pipelines(&settings), [("index.default_pipeline", "p")]);
    }
}

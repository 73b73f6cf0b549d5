//! Hits: which records LightRAG will find.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Identity, Rekey};

/// Records by whether LightRAG will find them. Each counts once; copies are separate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HitCounts {
    /// All examined records.
    pub records: u64,
    /// Found by LightRAG as configured.
    pub will_hit: u64,
    /// Made for the same model at another host.
    pub other_host: u64,
    /// Made for another binding or model.
    pub other_model: u64,
    /// Made with the key scheme of another LightRAG release.
    pub older_scheme: u64,
    /// Answers to a prompt that this LightRAG no longer uses.
    pub older_prompt: u64,
    /// Answers to a prompt of no release: found if the user's template is unchanged.
    pub unknown_prompt: u64,
    /// Keys that could not be recomputed.
    pub unexplained: u64,
    /// Records that `--rekey` copies.
    pub to_rekey: u64,
    /// Those of them that are answers to a prompt of no release: found if the user's template is unchanged.
    #[serde(default)]
    pub to_rekey_unknown_prompt: u64,
    /// Copies that were added under the key that LightRAG will look up.
    pub rekeyed: u64,
    /// Copies that were not added because source or target have a record with that key.
    pub rekey_existing: u64,
    /// Copies that the target cannot store.
    pub rekey_rejected: u64,
}

impl HitCounts {
    /// Adds other counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.will_hit += other.will_hit;
        self.other_host += other.other_host;
        self.other_model += other.other_model;
        self.older_scheme += other.older_scheme;
        self.older_prompt += other.older_prompt;
        self.unknown_prompt += other.unknown_prompt;
        self.unexplained += other.unexplained;
        self.to_rekey += other.to_rekey;
        self.to_rekey_unknown_prompt += other.to_rekey_unknown_prompt;
        self.rekeyed += other.rekeyed;
        self.rekey_existing += other.rekey_existing;
        self.rekey_rejected += other.rekey_rejected;
    }
}

/// How some keys were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyOrigin {
    /// The LightRAG releases with this key scheme: `1.5.0-1.5.4`.
    pub releases: String,
    /// The model that the keys were made for; null if it is not part of them.
    pub identity: Option<Identity>,
    /// The number of records with such keys.
    pub records: u64,
}

/// Whether LightRAG will find the records of a workspace, or of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hits {
    /// All types together.
    pub total: HitCounts,
    /// Keyed by the type in the records' keys.
    pub by_cache_type: BTreeMap<String, HitCounts>,
    /// How their keys were made, as far as known.
    pub identities: Vec<KeyOrigin>,
}

impl Hits {
    /// Adds those of other records.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total.add(&other.total);
        for (cache_type, counts) in &other.by_cache_type {
            self.by_cache_type
                .entry(cache_type.clone())
                .or_default()
                .add(counts);
        }
        for origin in &other.identities {
            let known = self
                .identities
                .iter_mut()
                .find(|known| known.releases == origin.releases && known.identity == origin.identity);
            match known {
                Some(known) => known.records += origin.records,
                None => self.identities.push(origin.clone()),
            }
        }
        self.identities
            .sort_by_key(|origin| std::cmp::Reverse(origin.records));
    }
}

/// The LightRAG whose hits are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskingLightRag {
    /// The release.
    pub version: String,
    /// The model for extraction.
    #[serde(flatten)]
    pub identity: Identity,
    /// Whether it extracts entities as JSON.
    pub json_extraction: bool,
    /// The origin of each setting.
    pub origins: Vec<String>,
    /// Whether binding, model and host are LightRAG's defaults, since none of them is configured.
    #[serde(default)]
    pub is_default: bool,
    /// Which records are copied.
    pub rekey: Rekey,
}

/// The hits of a LightRAG.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForetoldHits {
    /// Whose release, model and host decide.
    pub lightrag: AskingLightRag,
    /// The records that it will find.
    #[serde(flatten)]
    pub hits: Hits,
}

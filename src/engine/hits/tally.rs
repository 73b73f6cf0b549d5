//! What a run found out about keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{identity::Identity, scheme::Scheme};

/// What LightRAG will do with a record. The first that applies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing that was tried explains the key.
    Unexplained,
    /// The prompt is one that this LightRAG no longer asks.
    OlderPrompt,
    /// The key was made for another model.
    OtherModel,
    /// The key was made for the same model at another host.
    OtherHost,
    /// The key was made under another LightRAG's scheme.
    OlderScheme,
    /// The prompt is of no release: a hit if the user's template is unchanged.
    UnknownPrompt,
    /// LightRAG asks this prompt under this key.
    WillHit,
}

/// Records by what LightRAG will do with them. Each counts once, copies apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HitCounts {
    /// All that were examined.
    pub records: u64,
    /// Found by LightRAG as it is configured.
    pub will_hit: u64,
    /// Made for the same model at another host.
    pub other_host: u64,
    /// Made for another binding or model.
    pub other_model: u64,
    /// Made under the scheme of another LightRAG.
    pub older_scheme: u64,
    /// Answers to a prompt that this LightRAG no longer asks.
    pub older_prompt: u64,
    /// Answers to a prompt of no release: found if the user's template is unchanged.
    pub unknown_prompt: u64,
    /// Keys that nothing explains.
    pub unexplained: u64,
    /// Copies that were added under the key that LightRAG asks for.
    pub rekeyed: u64,
}

impl HitCounts {
    pub(super) fn count(&mut self, verdict: Verdict) {
        self.records += 1;
        *match verdict {
            Verdict::Unexplained => &mut self.unexplained,
            Verdict::OlderPrompt => &mut self.older_prompt,
            Verdict::OtherModel => &mut self.other_model,
            Verdict::OtherHost => &mut self.other_host,
            Verdict::OlderScheme => &mut self.older_scheme,
            Verdict::UnknownPrompt => &mut self.unknown_prompt,
            Verdict::WillHit => &mut self.will_hit,
        } += 1;
    }

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
        self.rekeyed += other.rekeyed;
    }
}

/// How keys were made: under which scheme, for which model.
pub(crate) type Origin = (Scheme, Option<Identity>);

/// What was found out about some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// By the type in their keys.
    pub(crate) by_type: BTreeMap<String, HitCounts>,
    /// How their keys were made, where that was found, with how many records.
    pub(crate) origins: BTreeMap<Origin, u64>,
}

impl Tally {
    /// Adds another tally.
    pub(crate) fn add(&mut self, other: &Self) {
        for (cache_type, counts) in &other.by_type {
            match self.by_type.get_mut(cache_type) {
                Some(all) => all.add(counts),
                None => {
                    self.by_type.insert(cache_type.clone(), counts.clone());
                }
            }
        }
        for (origin, records) in &other.origins {
            *self.origins.entry(origin.clone()).or_default() += records;
        }
    }

    /// All types together.
    pub(crate) fn total(&self) -> HitCounts {
        let mut total = HitCounts::default();
        for counts in self.by_type.values() {
            total.add(counts);
        }
        total
    }
}

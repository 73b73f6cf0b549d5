//! Candidates that may explain a key: schemes, options and identities, the most frequent first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::{
    md5,
    scheme::{Hash, PromptHasher, Scheme},
};
use crate::model::Identity;

/// What LightRAG uses a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Extraction, summaries, tables and equations.
    Extract,
    /// Images.
    Vlm,
}

/// An identity as LightRAG hashes it: compact JSON with sorted keys, not escaped to ASCII.
fn hashed(identity: &Identity, role: Role) -> String {
    #[derive(Serialize)]
    struct Sorted<'a> {
        binding: &'a Option<String>,
        host: &'a Option<String>,
        model: &'a Option<String>,
        role: &'static str,
    }
    let sorted = Sorted {
        binding: &identity.binding,
        host: &identity.host,
        model: &identity.model,
        role: match role {
            Role::Extract => "extract",
            Role::Vlm => "vlm",
        },
    };
    // Strings and nulls can always be serialized.
    serde_json::to_string(&sorted).unwrap_or_default()
}

/// How LightRAG requests an answer in JSON.
const JSON_OBJECT: &str = r#"{"type":"json_object"}"#;

/// What explains a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    pub(super) scheme: Scheme,
    /// Whether an answer in JSON was requested, if the key includes that.
    pub(super) json: Option<bool>,
    /// The number of the identity, if the key includes one.
    pub(super) identity: Option<usize>,
}

/// The texts that are hashed after the prompt of a chat: extraction, summaries, title blocks.
fn chat_texts<'a>(response_format: &'a str, identity: &'a str) -> [&'a str; 4] {
    [
        "\n<response_format>\n",
        response_format,
        "\n<llm_identity>\n",
        identity,
    ]
}

/// The object of an analysis, which determines the texts that are hashed after its prompt.
pub(super) struct Analysis<'a> {
    /// `drawing`, `table` or `equation`.
    pub(super) kind: &'a str,
    /// What is hashed of the images.
    pub(super) images: &'a str,
}

impl Analysis<'_> {
    fn texts<'a>(&'a self, identity: &'a str) -> [&'a str; 6] {
        ["", "", identity, JSON_OBJECT, self.images, self.kind]
    }

    fn role(&self) -> Role {
        if self.kind == "drawing" {
            Role::Vlm
        } else {
            Role::Extract
        }
    }
}

/// How the hash in the key of a chat or an analysis is computed.
pub(super) fn chat_hash(hasher: &mut PromptHasher, scheme: Scheme, json: bool, identity: &Identity) -> Hash {
    let mut suffix = Vec::new();
    if scheme.has_identity() {
        let response_format = if json { JSON_OBJECT } else { "" };
        let identity = hashed(identity, Role::Extract);
        scheme.append(&chat_texts(response_format, &identity), &mut suffix);
    }
    hasher.hash(scheme, &suffix)
}

pub(super) fn analysis_hash(
    hasher: &mut PromptHasher,
    scheme: Scheme,
    analysis: &Analysis<'_>,
    identity: &Identity,
) -> Hash {
    let mut suffix = Vec::new();
    let identity = hashed(identity, analysis.role());
    scheme.append(&analysis.texts(&identity), &mut suffix);
    hasher.hash(scheme, &suffix)
}

/// One way to make a key, with the texts that follow the prompt.
#[derive(Debug)]
struct Candidate {
    explanation: Explanation,
    suffix: Vec<u8>,
}

/// All that may explain a key.
#[derive(Debug)]
pub(super) struct Candidates {
    identities: Vec<Identity>,
    chats: Vec<Candidate>,
    /// The number of keys that each candidate explained.
    found: Mutex<Vec<u64>>,
}

impl Candidates {
    /// The candidates for these identities, the most likely first.
    pub(super) fn new(identities: Vec<Identity>) -> Self {
        let mut chats = Vec::new();
        for scheme in [Scheme::LengthPrefixed, Scheme::PromptAlone, Scheme::Joined] {
            if !scheme.has_identity() {
                chats.push(Candidate {
                    explanation: Explanation {
                        scheme,
                        json: None,
                        identity: None,
                    },
                    suffix: Vec::new(),
                });
                continue;
            }
            for (number, identity) in identities.iter().enumerate() {
                let identity = hashed(identity, Role::Extract);
                for json in [false, true] {
                    let mut suffix = Vec::new();
                    let response_format = if json { JSON_OBJECT } else { "" };
                    scheme.append(&chat_texts(response_format, &identity), &mut suffix);
                    chats.push(Candidate {
                        explanation: Explanation {
                            scheme,
                            json: Some(json),
                            identity: Some(number),
                        },
                        suffix,
                    });
                }
            }
        }
        Self {
            found: Mutex::new(vec![0; chats.len()]),
            identities,
            chats,
        }
    }

    pub(super) fn identity(&self, number: usize) -> Option<&Identity> {
        self.identities.get(number)
    }

    /// The order of candidates for a chat: those that explained most keys come first.
    pub(super) fn order(&self) -> Order {
        let found = self.found().clone();
        let mut order: Vec<usize> = (0..found.len()).collect();
        // A stable sort keeps the most likely of the unused candidates first.
        order.sort_by_key(|candidate| std::cmp::Reverse(found[*candidate]));
        Order {
            found: vec![0; order.len()],
            order,
        }
    }

    /// Counts the candidates that explained keys.
    pub(super) fn remember(&self, order: &Order) {
        for (all, more) in self.found().iter_mut().zip(&order.found) {
            *all += more;
        }
    }

    fn found(&self) -> MutexGuard<'_, Vec<u64>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks in step whether the likeliest candidate explains the keys of chats: its number, for each that it explains. What
    /// the others need for further candidates is made ready.
    pub(super) fn explain_likeliest(
        &self,
        chats: &mut [(&mut PromptHasher, Hash)],
        order: &Order,
    ) -> Vec<Option<usize>> {
        let Some(&number) = order.order.first() else {
            return vec![None; chats.len()];
        };
        let candidate = &self.chats[number];
        let scheme = candidate.explanation.scheme;
        let mut hashers: Vec<&mut PromptHasher> = chats.iter_mut().map(|(hasher, _)| &mut **hasher).collect();
        PromptHasher::begin_all(&mut hashers, scheme);
        let endings = hashers
            .iter_mut()
            .map(|hasher| hasher.ending(scheme, &candidate.suffix));
        let hashes = md5::finish(endings.collect());
        let explained = chats.iter().zip(hashes).map(|((_, key), hash)| *key == hash);
        let explained: Vec<bool> = explained.collect();
        let others = chats
            .iter_mut()
            .zip(&explained)
            .filter(|(_, explained)| !**explained);
        let mut others: Vec<&mut PromptHasher> = others.map(|((hasher, _), _)| &mut **hasher).collect();
        for scheme in [Scheme::LengthPrefixed, Scheme::PromptAlone] {
            PromptHasher::begin_all(&mut others, scheme);
        }
        explained
            .into_iter()
            .map(|explained| explained.then_some(number))
            .collect()
    }

    /// The candidate that explains the key of a chat.
    pub(super) fn explain_chat(
        &self,
        hasher: &mut PromptHasher,
        key: Hash,
        order: &mut Order,
    ) -> Option<Explanation> {
        for numbers in order.order.chunks(md5::LANES) {
            let endings = numbers.iter().map(|number| {
                let candidate = &self.chats[*number];
                hasher.ending(candidate.explanation.scheme, &candidate.suffix)
            });
            let hashes = md5::finish(endings.collect());
            if let Some(at) = hashes.iter().position(|hash| *hash == key) {
                let number = numbers[at];
                return Some(self.explained(order, number));
            }
        }
        None
    }

    /// The explanation by a candidate, which is tried first from here on: the next record is mostly like this one.
    pub(super) fn explained(&self, order: &mut Order, number: usize) -> Explanation {
        order.found[number] += 1;
        if let Some(at) = order.order.iter().position(|other| *other == number) {
            order.order[..=at].rotate_right(1);
        }
        self.chats[number].explanation
    }

    /// The candidate that explains the key of an analysis.
    pub(super) fn explain_analysis(
        &self,
        hasher: &mut PromptHasher,
        key: Hash,
        analysis: &Analysis<'_>,
    ) -> Option<Explanation> {
        let ways = (0..self.identities.len())
            .flat_map(|number| [Scheme::LengthPrefixed, Scheme::Joined].map(|scheme| (number, scheme)));
        let ways: Vec<(usize, Scheme)> = ways.collect();
        let endings = ways.iter().map(|(number, scheme)| {
            let mut suffix = Vec::new();
            let identity = hashed(&self.identities[*number], analysis.role());
            scheme.append(&analysis.texts(&identity), &mut suffix);
            hasher.ending(*scheme, &suffix)
        });
        let hashes = md5::finish(endings.collect());
        let at = hashes.iter().position(|hash| *hash == key)?;
        let (identity, scheme) = ways[at];
        Some(Explanation {
            scheme,
            json: Some(true),
            identity: Some(identity),
        })
    }
}

/// The order in which one worker tries candidates, and what it has found so far.
#[derive(Debug)]
pub(super) struct Order {
    order: Vec<usize>,
    found: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_hashed_as_python_writes_it() {
        let identity = Identity {
            binding: Some("open\"ai".to_owned()),
            model: Some("模型\\\u{7f}\u{1f}".to_owned()),
            host: None,
        };
        assert_eq!(
            hashed(&identity, Role::Extract),
            "{\"binding\":\"open\\\"ai\",\"host\":null,\"model\":\"模型\\\\\u{7f}\\u001f\",\"role\":\"extract\"}"
        );
    }
}

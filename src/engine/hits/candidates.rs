//! Candidates that may explain a key: schemes, options and identities, the most frequent first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::scheme::{Hash, PromptHasher, Scheme};
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
pub(super) fn chat_hash(
    hasher: &mut PromptHasher<'_>,
    scheme: Scheme,
    json: bool,
    identity: &Identity,
) -> Hash {
    let mut suffix = Vec::new();
    if scheme.has_identity() {
        let response_format = if json { JSON_OBJECT } else { "" };
        let identity = hashed(identity, Role::Extract);
        scheme.append(&chat_texts(response_format, &identity), &mut suffix);
    }
    hasher.hash(scheme, &suffix)
}

pub(super) fn analysis_hash(
    hasher: &mut PromptHasher<'_>,
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

    /// The identity with this number.
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

    /// The candidate that explains the key of a chat.
    pub(super) fn explain_chat(
        &self,
        hasher: &mut PromptHasher<'_>,
        key: Hash,
        order: &mut Order,
    ) -> Option<Explanation> {
        let at = order.order.iter().position(|number| {
            let candidate = &self.chats[*number];
            hasher.hash(candidate.explanation.scheme, &candidate.suffix) == key
        })?;
        let number = order.order[at];
        order.found[number] += 1;
        // The next record is usually like this one.
        order.order[..=at].rotate_right(1);
        Some(self.chats[number].explanation)
    }

    /// The candidate that explains the key of an analysis.
    pub(super) fn explain_analysis(
        &self,
        hasher: &mut PromptHasher<'_>,
        key: Hash,
        analysis: &Analysis<'_>,
    ) -> Option<Explanation> {
        let schemes = [Scheme::LengthPrefixed, Scheme::Joined];
        let mut identities = self.identities.iter().enumerate();
        identities.find_map(|(number, identity)| {
            let explains = |scheme: &Scheme| analysis_hash(hasher, *scheme, analysis, identity) == key;
            let scheme = schemes.into_iter().find(explains)?;
            Some(Explanation {
                scheme,
                json: Some(true),
                identity: Some(number),
            })
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

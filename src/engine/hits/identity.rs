//! The model's identity, which LightRAG makes a part of its keys since 1.5.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Which model answers, and where. A program that uses LightRAG as a library has neither binding nor host.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Identity {
    /// `openai`, `ollama`, …
    pub binding: Option<String>,
    /// The name of the model.
    pub model: Option<String>,
    /// The address of the server.
    pub host: Option<String>,
}

/// What LightRAG uses a model for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Extraction, summaries, tables and equations.
    Extract,
    /// Images.
    Vlm,
}

impl Identity {
    /// An identity of these three.
    pub(crate) fn new(binding: &str, model: &str, host: &str) -> Self {
        Self {
            binding: Some(binding.to_owned()),
            model: Some(model.to_owned()),
            host: Some(host.to_owned()),
        }
    }

    /// That of a program that uses LightRAG as a library.
    pub(crate) fn of_library(model: &str) -> Self {
        Self {
            model: Some(model.to_owned()),
            ..Self::default()
        }
    }

    /// Compact JSON with sorted keys, not escaped to ASCII: what LightRAG hashes.
    pub(super) fn hashed(&self, role: Role) -> String {
        #[derive(Serialize)]
        struct Sorted<'a> {
            binding: &'a Option<String>,
            host: &'a Option<String>,
            model: &'a Option<String>,
            role: &'static str,
        }
        let sorted = Sorted {
            binding: &self.binding,
            host: &self.host,
            model: &self.model,
            role: match role {
                Role::Extract => "extract",
                Role::Vlm => "vlm",
            },
        };
        // Strings and nulls can always be written.
        serde_json::to_string(&sorted).unwrap_or_default()
    }

    /// Whether only the host may differ.
    pub(super) fn has_same_model(&self, other: &Self) -> bool {
        self.binding == other.binding && self.model == other.model
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.as_deref().unwrap_or("no model");
        match (&self.binding, &self.host) {
            (None, None) => write!(f, "{model} (LightRAG as a library)"),
            (binding, host) => {
                let binding = binding.as_deref().unwrap_or("no binding");
                write!(f, "{binding} / {model} at {}", host.as_deref().unwrap_or("no host"))
            }
        }
    }
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
            identity.hashed(Role::Extract),
            "{\"binding\":\"open\\\"ai\",\"host\":null,\"model\":\"模型\\\\\u{7f}\\u001f\",\"role\":\"extract\"}"
        );
    }
}

//! The configuration of the LightRAG that will read a cache, as far as keys depend on it.

use std::fmt;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model: binding, name and host. Programs that use LightRAG as a library have neither binding nor host.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// `openai`, `ollama`, …
    pub binding: Option<String>,
    /// The name of the model.
    pub model: Option<String>,
    /// The address of the server.
    pub host: Option<String>,
}

impl Identity {
    /// The identity of a model on LightRAG's server.
    pub(crate) fn new(binding: &str, model: &str, host: &str) -> Self {
        Self {
            binding: Some(binding.to_owned()),
            model: Some(model.to_owned()),
            host: Some(host.to_owned()),
        }
    }

    /// The identity of a model in a program that uses LightRAG as a library.
    pub(crate) fn of_library(model: &str) -> Self {
        Self {
            model: Some(model.to_owned()),
            ..Self::default()
        }
    }

    /// Whether binding and model are equal.
    pub(crate) fn has_same_model(&self, other: &Self) -> bool {
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
                write!(
                    f,
                    "{binding} / {model} at {}",
                    host.as_deref().unwrap_or("no host")
                )
            }
        }
    }
}

/// Which records to copy to the key that LightRAG will look up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Rekey {
    /// Copy no records.
    #[default]
    Off,
    /// Copy records made for the same model at another host, or by an older LightRAG.
    Host,
    /// Copy these and records made for another model.
    Model,
}

/// The configuration of a LightRAG, as far as keys depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightRag {
    /// The release: `1.5.7`; `None` for the newest known.
    pub version: Option<String>,
    /// The model for extraction, summaries, tables and equations.
    pub extract: Identity,
    /// The model for images.
    pub vlm: Identity,
    /// Whether it extracts entities as JSON.
    pub json_extraction: bool,
    /// The names in all layers of the configuration: keys may have been made for any combination of them.
    pub named: Named,
    /// The origin of each setting: `model m (LLM_MODEL in ./.env)`.
    pub origins: Vec<String>,
    /// Whether binding, model and host for extraction are LightRAG's defaults.
    pub is_default: bool,
}

/// Bindings, models and hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// `openai`, `ollama`, …
    pub bindings: Vec<String>,
    /// Names of models.
    pub models: Vec<String>,
    /// Addresses.
    pub hosts: Vec<String>,
}

/// The bindings that LightRAG's server knows.
pub(crate) const BINDINGS: [&str; 6] = ["ollama", "openai", "azure_openai", "lollms", "gemini", "bedrock"];

/// The default model of LightRAG's server.
pub(crate) const DEFAULT_MODEL: &str = "mistral-nemo:latest";

/// The default model of the library.
pub(crate) const LIBRARY_MODEL: &str = "gpt-4o-mini";

/// Other addresses of LightRAG's default host for Ollama.
const OTHER_LOCAL_HOSTS: [&str; 2] = ["http://127.0.0.1:11434", "http://host.docker.internal:11434"];

/// The default host of LightRAG's server for a binding.
pub(crate) fn default_host(binding: &str) -> &'static str {
    match binding {
        "lollms" => "http://localhost:9600",
        "openai" | "azure_openai" => "https://api.openai.com/v1",
        "bedrock" => "DEFAULT_BEDROCK_ENDPOINT",
        "gemini" => "DEFAULT_GEMINI_ENDPOINT",
        _ => "http://localhost:11434",
    }
}

impl LightRag {
    /// The identities that keys may have been made for, without duplicates, the most likely first.
    pub(crate) fn identities(&self) -> Vec<Identity> {
        let mut identities = vec![self.extract.clone()];
        let mut add = |identity: Identity| {
            if !identities.contains(&identity) {
                identities.push(identity);
            }
        };
        add(self.vlm.clone());
        let models = self.named.models.iter().map(String::as_str);
        let models: Vec<&str> = models.chain([DEFAULT_MODEL, LIBRARY_MODEL]).collect();
        for model in &models {
            for binding in &self.named.bindings {
                for host in &self.named.hosts {
                    add(Identity::new(binding, model, host));
                }
            }
        }
        for model in &models {
            add(Identity::of_library(model));
        }
        for model in &models {
            for binding in self.named.bindings.iter().map(String::as_str).chain(BINDINGS) {
                add(Identity::new(binding, model, default_host(binding)));
            }
            for host in OTHER_LOCAL_HOSTS {
                add(Identity::new("ollama", model, host));
            }
        }
        identities
    }
}

//! The LightRAG that will read the cache: its release, and the models that it is configured for.

use super::{
    identity::Identity,
    scheme::Scheme,
    templates::TEMPLATES,
};

/// Which records get a copy under the key that LightRAG will ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rekey {
    /// None.
    #[default]
    Off,
    /// Those made for the same model at another host, or under another scheme.
    Host,
    /// Those, and those made for another model.
    Model,
}

/// A LightRAG, as far as its keys depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LightRag {
    /// Its release, by its number in the table of templates.
    pub(crate) release: usize,
    /// The model for extraction, summaries, tables and equations.
    pub(crate) extract: Identity,
    /// The model for images.
    pub(crate) vlm: Identity,
    /// Whether it asks for entities in JSON.
    pub(crate) json_extraction: bool,
    /// Bindings, models and hosts that are named anywhere: keys may have been made for any of them.
    pub(crate) named: Named,
}

/// What configurations name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) bindings: Vec<String>,
    pub(crate) models: Vec<String>,
    pub(crate) hosts: Vec<String>,
}

/// The bindings that LightRAG's server knows.
pub(crate) const BINDINGS: [&str; 6] = ["ollama", "openai", "azure_openai", "lollms", "gemini", "bedrock"];

/// The models that LightRAG takes where nothing names one: its server's, and the library's.
pub(crate) const DEFAULT_MODELS: [&str; 2] = ["mistral-nemo:latest", "gpt-4o-mini"];

/// Other names of the host that LightRAG's server takes for Ollama where nothing names one.
const OTHER_LOCAL_HOSTS: [&str; 2] = ["http://127.0.0.1:11434", "http://host.docker.internal:11434"];

/// The host that LightRAG's server takes where nothing names one.
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
    /// How it makes keys.
    pub(crate) fn scheme(&self) -> Scheme {
        let numbers: Vec<u32> = self.version().split('.').filter_map(|number| number.parse().ok()).collect();
        Scheme::of_release(&numbers)
    }

    /// Its release.
    pub(crate) fn version(&self) -> &str {
        TEMPLATES.releases().get(self.release).map_or("", String::as_str)
    }

    /// The identities that keys may have been made for, the likeliest first, each once.
    pub(super) fn identities(&self) -> Vec<Identity> {
        let mut identities = vec![self.extract.clone(), self.vlm.clone()];
        let mut add = |identity: Identity| {
            if !identities.contains(&identity) {
                identities.push(identity);
            }
        };
        let models: Vec<&str> = self
            .named
            .models
            .iter()
            .map(String::as_str)
            .chain(DEFAULT_MODELS)
            .collect();
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

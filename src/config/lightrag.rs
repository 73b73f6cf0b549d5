//! Resolves the configuration of the LightRAG that will read the cache as LightRAG's server does.
//!
//! Flags override the job file, which overrides LightRAG's variables. The server's rules (`api/config.py` and
//! `resolve_role_llm_settings`): a role's own variables (`EXTRACT_LLM_BINDING`) override those of all roles
//! (`LLM_BINDING`); a role with another binding and no host of its own uses the default host of its binding.

use std::collections::BTreeMap;

use super::{
    Environment, JobFile,
    options::IdentitySpec,
    options::{LightRagOptions, Options},
    resolve::given,
    value::Text,
};
use crate::model::{
    DEFAULT_MODEL, Identity, LIBRARY_MODEL, LightRag, Named, Origin, Rekey, Result, default_host,
};

/// The binding of a program that uses LightRAG without its server.
const LIBRARY: &str = "library";

/// LightRAG's variables that keys depend on.
const VARIABLES: [&str; 11] = [
    "EXTRACT_LLM_BINDING",
    "EXTRACT_LLM_MODEL",
    "EXTRACT_LLM_BINDING_HOST",
    "VLM_LLM_BINDING",
    "VLM_LLM_MODEL",
    "VLM_LLM_BINDING_HOST",
    "LLM_BINDING",
    "LLM_MODEL",
    "LLM_BINDING_HOST",
    "AZURE_OPENAI_ENDPOINT",
    "ENTITY_EXTRACTION_USE_JSON",
];

/// A text and its origin.
#[derive(Clone, Debug)]
struct Given {
    text: String,
    origin: Origin,
}

impl From<&Text<String>> for Given {
    fn from(text: &Text<String>) -> Self {
        Self {
            text: text.text.clone(),
            origin: text.origin.clone(),
        }
    }
}

/// The LightRAG whose hits a run counts; `None` if neither flags nor job file ask for it.
///
/// # Errors
/// LightRAG's configuration cannot be read.
pub fn resolve(flags: &Options, job: &JobFile, environment: &Environment) -> Result<Option<LightRag>> {
    let options = given(flags, job);
    let named = &flags.lightrag;
    let names = [&named.binding, &named.model, &named.host, &named.version];
    let is_wanted = options.hits
        || options.rekey.unwrap_or_default() != Rekey::Off
        || names.iter().any(|name| name.is_some());
    if !is_wanted {
        return Ok(None);
    }
    let mut variables = BTreeMap::new();
    for name in VARIABLES {
        if let Some(value) = environment.variable(name)? {
            let text = value.text.expose().to_owned();
            let origin = value.origin;
            variables.insert(name, Given { text, origin });
        }
    }
    let layers = Layers {
        given: &options.lightrag,
        flags: &flags.lightrag,
        job,
        variables,
    };
    Ok(Some(layers.lightrag()))
}

/// The layers of LightRAG's configuration.
struct Layers<'a> {
    /// Flags and job file, merged.
    given: &'a LightRagOptions,
    flags: &'a LightRagOptions,
    job: &'a JobFile,
    variables: BTreeMap<&'static str, Given>,
}

impl Layers<'_> {
    fn lightrag(&self) -> LightRag {
        let mut origins = Vec::new();
        let mut note =
            |what: &str, given: &Given| origins.push(format!("{what} {} ({})", given.text, given.origin));
        let version = self.given.version.as_ref().map(Given::from);
        if let Some(version) = &version {
            note("release", version);
        }
        let parts = self.role("EXTRACT", true);
        note("binding", &parts.binding);
        note("model", &parts.model);
        note("host", &parts.host);
        let (json_extraction, origin) = self.json_extraction();
        let text = json_extraction.to_string();
        note("JSON extraction", &Given { text, origin });
        LightRag {
            version: version.map(|version| version.text),
            extract: parts.identity(),
            vlm: self.role("VLM", false).identity(),
            json_extraction,
            named: self.named(),
            origins,
            is_default: parts.are_defaults(),
        }
    }

    /// A variable. LightRAG does not treat an empty one as unset.
    fn variable(&self, name: &str) -> Option<Given> {
        self.variables.get(name).cloned()
    }

    /// A role's variable. LightRAG treats an empty text and `None` as unset.
    fn role_variable(&self, role: &str, name: &str) -> Option<Given> {
        let given = self.variable(&format!("{role}_{name}"));
        given.filter(|given| !matches!(given.text.as_str(), "" | "None"))
    }

    /// The binding of all roles without one of their own.
    fn base_binding(&self) -> Given {
        let binding = self.variable("LLM_BINDING");
        let binding = binding.filter(|binding| !binding.text.is_empty());
        let mut binding = binding.unwrap_or_else(|| default("ollama"));
        binding.text = match normalized(&binding.text) {
            "openai-ollama" => "openai".to_owned(),
            binding => binding.to_owned(),
        };
        binding
    }

    /// `get_default_host`.
    fn default_host(&self, binding: &str) -> Given {
        let variable = match binding {
            "azure_openai" => "AZURE_OPENAI_ENDPOINT",
            _ => "LLM_BINDING_HOST",
        };
        self.variable(variable)
            .unwrap_or_else(|| default(default_host(binding)))
    }

    /// The model of a role. Flags and job file override the variables of extraction; for other roles they apply only if the
    /// role has no variables of its own.
    fn role(&self, role: &str, is_given: bool) -> Parts {
        let given = |text: &Option<Text<String>>| text.as_ref().map(Given::from);
        let first = |given: Option<Given>, own: Option<Given>| {
            if is_given { given.or(own) } else { own.or(given) }
        };
        let base = self.base_binding();
        let own = self.role_variable(role, "LLM_BINDING").map(|binding| Given {
            text: normalized(&binding.text).to_owned(),
            ..binding
        });
        let binding = first(given(&self.given.binding), own).unwrap_or_else(|| base.clone());
        let is_library = binding.text == LIBRARY;
        let model = first(given(&self.given.model), self.role_variable(role, "LLM_MODEL"))
            .or_else(|| self.variable("LLM_MODEL"))
            .unwrap_or_else(|| default(if is_library { LIBRARY_MODEL } else { DEFAULT_MODEL }));
        let host = first(
            given(&self.given.host),
            self.role_variable(role, "LLM_BINDING_HOST"),
        )
        .unwrap_or_else(|| {
            if is_library {
                return default("none");
            }
            let is_base = binding.text == base.text;
            let base_host = is_base.then(|| self.variable("LLM_BINDING_HOST")).flatten();
            base_host.unwrap_or_else(|| self.default_host(&binding.text))
        });
        Parts { binding, model, host }
    }

    /// `ENTITY_EXTRACTION_USE_JSON`. LightRAG treats everything but `true` as false.
    fn json_extraction(&self) -> (bool, Origin) {
        if let Some(json) = self.given.json_extraction {
            return (json.0, self.job.origin("lightrag.json_extraction"));
        }
        let variable = self.variable("ENTITY_EXTRACTION_USE_JSON");
        variable.map_or((false, Origin::Default), |given| {
            (given.text.eq_ignore_ascii_case("true"), given.origin)
        })
    }

    /// The names in all layers: after a change of the host, one layer usually still has the old one.
    fn named(&self) -> Named {
        let layers = [self.flags, &self.job.options.lightrag];
        let names = |of_layer: fn(&LightRagOptions) -> &Option<Text<String>>,
                     of_made_for: fn(&IdentitySpec) -> &Option<Text<String>>,
                     variables: &[&str]| {
            let given = layers.into_iter().filter_map(|layer| of_layer(layer).as_ref());
            let mut names: Vec<String> = given.map(|text| text.text.clone()).collect();
            let variables = variables.iter().filter_map(|name| self.variable(name));
            names.extend(variables.map(|given| given.text));
            let made_for = self
                .given
                .made_for
                .iter()
                .filter_map(|identity| of_made_for(identity).as_ref());
            names.extend(made_for.map(|text| text.text.clone()));
            names
        };
        let bindings = names(
            |spec| &spec.binding,
            |identity| &identity.binding,
            &["EXTRACT_LLM_BINDING", "VLM_LLM_BINDING"],
        );
        let mut bindings: Vec<String> = bindings
            .iter()
            .filter(|binding| *binding != LIBRARY)
            .map(|binding| normalized(binding).to_owned())
            .collect();
        bindings.push(self.base_binding().text);
        Named {
            bindings: once_each(bindings),
            models: once_each(names(
                |spec| &spec.model,
                |identity| &identity.model,
                &["EXTRACT_LLM_MODEL", "VLM_LLM_MODEL", "LLM_MODEL"],
            )),
            hosts: once_each(names(
                |spec| &spec.host,
                |identity| &identity.host,
                &[
                    "EXTRACT_LLM_BINDING_HOST",
                    "VLM_LLM_BINDING_HOST",
                    "LLM_BINDING_HOST",
                    "AZURE_OPENAI_ENDPOINT",
                ],
            )),
        }
    }
}

/// Binding, model and host of a role.
struct Parts {
    binding: Given,
    model: Given,
    host: Given,
}

impl Parts {
    fn are_defaults(&self) -> bool {
        [&self.binding, &self.model, &self.host]
            .iter()
            .all(|part| matches!(part.origin, Origin::Default))
    }

    fn identity(&self) -> Identity {
        if self.binding.text == LIBRARY {
            Identity::of_library(&self.model.text)
        } else {
            Identity::new(&self.binding.text, &self.model.text, &self.host.text)
        }
    }
}

fn default(text: &str) -> Given {
    Given {
        text: text.to_owned(),
        origin: Origin::Default,
    }
}

/// `normalize_binding_name`.
fn normalized(binding: &str) -> &str {
    match binding {
        "aws_bedrock" => "bedrock",
        other => other,
    }
}

fn once_each(names: Vec<String>) -> Vec<String> {
    let mut once = Vec::with_capacity(names.len());
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lightrag<const N: usize>(flags: Options, variables: [(&str, &str); N]) -> LightRag {
        let flags = Options { hits: true, ..flags };
        let environment = Environment::with_process(variables);
        resolve(&flags, &JobFile::default(), &environment)
            .unwrap()
            .unwrap()
    }

    fn flags(lightrag: LightRagOptions) -> Options {
        Options {
            lightrag,
            ..Options::default()
        }
    }

    fn extract<const N: usize>(variables: [(&str, &str); N]) -> Identity {
        lightrag(Options::default(), variables).extract
    }

    #[test]
    fn the_identity_is_resolved_as_lightrags_server_does() {
        let azure = [
            ("LLM_BINDING", "azure_openai"),
            ("AZURE_OPENAI_ENDPOINT", "https://a"),
        ];
        let own_model = [
            ("LLM_BINDING_HOST", "http://h"),
            ("LLM_MODEL", "m"),
            ("EXTRACT_LLM_MODEL", "e"),
        ];
        let other_binding = [
            ("EXTRACT_LLM_BINDING", "gemini"),
            ("EXTRACT_LLM_MODEL", "None"),
            ("LLM_MODEL", "m"),
        ];
        for (found, binding, model, host) in [
            (extract([]), "ollama", DEFAULT_MODEL, "http://localhost:11434"),
            (
                extract([("LLM_BINDING", "openai")]),
                "openai",
                DEFAULT_MODEL,
                "https://api.openai.com/v1",
            ),
            (
                extract([("LLM_BINDING", "aws_bedrock")]),
                "bedrock",
                DEFAULT_MODEL,
                "DEFAULT_BEDROCK_ENDPOINT",
            ),
            (extract(azure), "azure_openai", DEFAULT_MODEL, "https://a"),
            (extract(own_model), "ollama", "e", "http://h"),
            (
                extract([
                    ("LLM_BINDING", ""),
                    ("LLM_BINDING_HOST", ""),
                    ("EXTRACT_LLM_MODEL", ""),
                ]),
                "ollama",
                DEFAULT_MODEL,
                "",
            ),
            (extract(other_binding), "gemini", "m", "DEFAULT_GEMINI_ENDPOINT"),
        ] {
            assert_eq!(found, Identity::new(binding, model, host));
        }
    }

    #[test]
    fn a_flag_overrides_a_variable_whose_value_remains_a_candidate() {
        let flags = flags(LightRagOptions {
            host: Some("http://new".to_owned().into()),
            ..LightRagOptions::default()
        });
        let variables = [
            ("LLM_BINDING", "openai"),
            ("LLM_BINDING_HOST", "http://old"),
            ("LLM_MODEL", "m"),
        ];
        let lightrag = lightrag(flags, variables);
        assert_eq!(lightrag.extract, Identity::new("openai", "m", "http://new"));
        let old = Identity::new("openai", "m", "http://old");
        assert!(lightrag.identities().contains(&old));
    }

    #[test]
    fn a_configuration_without_a_model_is_lightrags_default() {
        assert!(lightrag(Options::default(), []).is_default);
        for variable in ["LLM_BINDING", "LLM_MODEL", "LLM_BINDING_HOST"] {
            assert!(
                !lightrag(Options::default(), [(variable, "openai")]).is_default,
                "{variable}"
            );
        }
    }

    #[test]
    fn a_library_has_neither_binding_nor_host() {
        let flags = flags(LightRagOptions {
            binding: Some("library".to_owned().into()),
            ..LightRagOptions::default()
        });
        assert_eq!(lightrag(flags, []).extract, Identity::of_library(LIBRARY_MODEL));
    }

    #[test]
    fn nothing_is_resolved_for_a_run_that_does_not_count_hits() {
        let resolved = resolve(&Options::default(), &JobFile::default(), &Environment::default());
        assert!(resolved.unwrap().is_none());
    }
}

//! JSON Schema (draft 2020-12) of the job file, from the table of options and those of the storages.

use clap::ValueEnum;
use serde_json::{Map, Value as Json, json};
use serde_yaml::Value as Yaml;

use super::options::{
    Entry,
    JobField::{As, DefaultsTo, FlagOnly, Group, Sample},
    Options,
};
use super::value::Setting;
use crate::{
    report::TOOL,
    storage::{Connector, connectors},
};

/// The schema, as text.
pub(super) fn text() -> String {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Job file of {TOOL}"),
        "$defs": {
            "variable": { "type": "string", "pattern": r"^\$\{[^}]+\}$", "description": "A variable: ${NAME} or ${NAME:-default}" },
        },
    });
    if let (Json::Object(schema), Json::Object(fields)) =
        (&mut schema, or_null(<Options as Setting>::schema()))
    {
        schema.extend(fields);
    }
    format!("{schema:#}\n")
}

/// A mapping with the fields of these entries.
pub(super) fn group(table: &[Entry]) -> Json {
    let fields = table
        .iter()
        .filter(|entry| !matches!(entry.job, As(_) | FlagOnly));
    let properties: Map<String, Json> = fields
        .map(|entry| {
            let mut schema = (entry.schema)();
            if matches!(entry.job, Group) {
                schema = or_null(schema);
            }
            schema["description"] = entry.description().into();
            match entry.job {
                DefaultsTo(text) => schema["default"] = as_json(text),
                Sample(text) => schema["examples"] = json!([as_json(text)]),
                _ => {}
            }
            (entry.name().to_owned(), schema)
        })
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

/// A field that may be left empty: null is the same as no field.
pub(super) fn or_null(mut schema: Json) -> Json {
    if let Some(Json::Array(any)) = schema.get_mut("anyOf") {
        any.push(json!({ "type": "null" }));
    } else if let Some(types) = schema.get_mut("type") {
        match types {
            Json::Array(types) => types.push("null".into()),
            one => *one = json!([one, "null"]),
        }
    }
    schema
}

/// A text of the table as a value.
fn as_json(text: &str) -> Json {
    let value: Option<Yaml> = serde_yaml::from_str(text).ok();
    value
        .and_then(|value| serde_json::to_value(value).ok())
        .unwrap_or_default()
}

/// A value, or a variable that contains it.
pub(super) fn or_variable(schema: &Json) -> Json {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/variable" }] })
}

/// One of the values of an enum, each with its help.
pub(super) fn choices<T: ValueEnum>() -> Json {
    let values = T::value_variants().iter().filter_map(T::to_possible_value);
    let values = values.map(|value| {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        json!({ "const": value.get_name(), "description": help })
    });
    let mut any: Vec<Json> = values.collect();
    any.push(json!({ "$ref": "#/$defs/variable" }));
    json!({ "anyOf": any })
}

/// A kind or an address, or a mapping with the fields of one of the storages.
pub(super) fn storage() -> Json {
    let text = json!({ "type": "string", "description": "A kind, an address or a path, as for the flag" });
    let settings = connectors().iter().map(|connector| storage_settings(*connector));
    let any: Vec<Json> = [text].into_iter().chain(settings).collect();
    json!({ "anyOf": any })
}

fn storage_settings(connector: &dyn Connector) -> Json {
    let names = connector
        .info()
        .class_name
        .into_iter()
        .chain(connector.aliases().iter().copied());
    let names = [connector.kind()].into_iter().chain(names);
    let mut properties = Map::new();
    properties.insert(
        "kind".to_owned(),
        json!({ "enum": names.collect::<Vec<_>>(), "description": connector.title() }),
    );
    properties.insert(
        "uri".to_owned(),
        json!({ "type": "string", "description": "an address, as for the flag" }),
    );
    for field in connector.fields() {
        let mut schema = json!({
            "type": ["string", "number", "boolean", "array"],
            "description": match field.variable {
                Some(variable) => format!("{} ({variable})", field.help),
                None => field.help.to_owned(),
            },
        });
        if let Some(default) = field.default {
            schema["default"] = default.into();
        }
        properties.insert(field.name.to_owned(), schema);
    }
    json!({
        "title": connector.title(),
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "anyOf": [{ "required": ["kind"] }, { "required": ["uri"] }],
    })
}

/// One workspace or a pair, a list of them, or `all`.
pub(super) fn workspaces() -> Json {
    let name = |what: &str| json!({ "type": "string", "description": what });
    let pair = json!({
        "type": "object",
        "properties": { "from": name("the workspace to read"), "to": name("the workspace to write") },
        "required": ["from", "to"],
        "additionalProperties": false,
    });
    let one = json!({ "anyOf": [name("a workspace, under the same name on both sides"), pair] });
    json!({
        "anyOf": [
            { "const": "all", "description": "every workspace of the source" },
            one.clone(),
            { "type": "array", "items": one, "minItems": 1 },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, JobFile, options::entries};

    #[test]
    fn null_is_accepted_where_the_program_accepts_it() {
        let schema: Json = serde_json::from_str(&text()).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.yaml");
        let fields = entries();
        let fields = fields
            .iter()
            .filter(|entry| !matches!(entry.job, As(_) | FlagOnly))
            .map(|entry| match entry.path.split_once('.') {
                Some((group, name)) => format!("{group}:\n  {name}:\n"),
                None => format!("{}:\n", entry.path),
            });
        let storages = [
            "target:\n  kind:\n",
            "target:\n  kind: redis\n  username:\n",
            "workspaces:\n  - from:\n    to: a\n",
            "lightrag:\n  made_for:\n    - model:\n",
            "lightrag:\n  made_for:\n    -\n",
            "lightrag:\n",
            "batch:\n",
            "",
        ];
        let mut accepted = 0;
        for text in fields.chain(storages.map(str::to_owned)) {
            std::fs::write(&file, &text).unwrap();
            let environment = Environment::default();
            let job = JobFile::read(&file, &environment);
            let is_read = job.is_ok_and(|job| {
                let endpoint = job.options.target.is_some().then(|| {
                    let side = crate::model::Side::Target;
                    crate::storage::Endpoint::resolve(side, &Options::default(), &job, &environment)
                });
                endpoint.is_none_or(|endpoint| endpoint.is_ok())
            });
            let value: Json = serde_yaml::from_str(&text).unwrap();
            assert_eq!(validator.is_valid(&value), is_read, "{text}");
            accepted += u32::from(is_read);
        }
        assert!(accepted > 30, "{accepted}");
    }
}

//! Which setting counts: LightRAG's own storages, started in the same environment with the same files, are the judge.

use std::path::{Component, Path, PathBuf};

use migrate_llm_cache::{
    config::{Environment, JobFile, Options, configured_workspace},
    model::{Origin, Side, Value as Setting, Workspace},
    storage::Endpoint,
};
use proptest::{collection::btree_map, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::{generated, python};

const DEFAULT_SET_UPS: usize = 60;

/// What a user has set up.
#[derive(Clone, Debug, Default)]
struct SetUp {
    process: Vec<(String, String)>,
    dot_env: Option<String>,
    ini: Option<String>,
}

impl SetUp {
    fn of(process: &[(&str, &str)], dot_env: &str, ini: &str) -> Self {
        let file = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            process: process
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            dot_env: file(dot_env),
            ini: file(ini),
        }
    }

    fn request(&self) -> Value {
        let mut files = json!({});
        for (name, text) in [(".env", &self.dot_env), ("config.ini", &self.ini)] {
            if let Some(text) = text {
                files[name] = json!(text);
            }
        }
        let process: serde_json::Map<String, Value> = self
            .process
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        json!({"env": process, "files": files})
    }

    fn environment(&self) -> Environment {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [(".env", &self.dot_env), ("config.ini", &self.ini)] {
            if let Some(text) = text {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
        }
        let process = self
            .process
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Environment::with(process, folder.path())
    }
}

/// What we take for one storage.
struct Ours {
    endpoint: Endpoint,
    workspace: Workspace,
}

impl Ours {
    fn of(kind: &str, environment: &Environment) -> Self {
        let flags = Options::naming(Side::Source, kind);
        let endpoint = Endpoint::resolve(Side::Source, &flags, &JobFile::default(), environment).unwrap();
        let named = configured_workspace(endpoint.connector, environment).unwrap();
        let workspace = named.unwrap_or_default().workspace;
        Self { endpoint, workspace }
    }

    /// A setting; `None` where LightRAG would take its own default too.
    fn set(&self, name: &str) -> Option<&str> {
        let value: Option<&Setting> = self.endpoint.values.get(name);
        value
            .filter(|value| value.origin != Origin::Default)
            .map(|value| value.text.expose())
    }

    fn text(&self, name: &str) -> &str {
        self.endpoint.values.text(name).unwrap_or_default()
    }

    fn number(&self, name: &str, default: f64) -> f64 {
        self.endpoint
            .values
            .text(name)
            .map_or(default, |text| text.trim().parse().unwrap())
    }

    fn is_true(&self, name: &str) -> bool {
        self.endpoint.values.flag(name).unwrap().unwrap()
    }
}

/// A path as Python's `relpath` writes it.
fn relative(path: &Path) -> String {
    let path: PathBuf = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect();
    if path.as_os_str().is_empty() {
        return ".".to_owned();
    }
    path.display().to_string()
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Our settings of a kind in the form in which LightRAG's are, `theirs` telling what cannot be compared.
fn ours(kind: &str, ours: &Ours, theirs: &Value) -> Value {
    let workspace = ours.workspace.name();
    match kind {
        "json" => {
            let folder = Path::new(ours.text("working_dir")).join(workspace);
            json!({"folder": relative(&folder), "workspace": workspace})
        }
        "server" => json!({
            "working_dir": relative(Path::new(ours.text("working_dir"))),
            "workspace": ours.workspace.as_server_names_it().name(),
        }),
        "redis" => json!({
            "uri": ours.text("uri"),
            "socket_timeout": ours.number("socket_timeout", 30.0),
            "connect_timeout": ours.number("connect_timeout", 10.0),
            "workspace": workspace,
        }),
        "postgres" => postgres(ours, theirs),
        "mongo" => {
            json!({"uri": ours.text("uri"), "database": ours.text("database"), "workspace": workspace})
        }
        "opensearch" => {
            let hosts = ours
                .text("hosts")
                .split(',')
                .map(str::trim)
                .filter(|host| !host.is_empty());
            let has_login = !ours.text("user").is_empty();
            json!({
                "hosts": hosts.collect::<Vec<_>>(),
                // Compared in the unit tests of the storage, whose own these are.
                "addresses": theirs["addresses"],
                "user": ours.text("user"),
                "password": has_login.then(|| ours.text("password")),
                "use_ssl": ours.is_true("use_ssl"),
                "verify_certs": ours.is_true("verify_certs"),
                "timeout": ours.number("timeout", 30.0) as u64,
                "max_retries": ours.number("max_retries", 3.0) as u64,
                "number_of_shards": ours.number("number_of_shards", 1.0) as u64,
                "number_of_replicas": ours.number("number_of_replicas", 0.0) as u64,
                "workspace": workspace,
            })
        }
        other => panic!("{other} is no kind"),
    }
}

fn postgres(ours: &Ours, theirs: &Value) -> Value {
    let mut settings = theirs.clone();
    for name in ["user", "password", "database"] {
        settings[name] = json!(ours.endpoint.values.text(name));
    }
    // Empty text is unset to asyncpg, where these go.
    let unset = |name: &str| text_of(&theirs[name]).is_none_or(|text| text.is_empty());
    for name in [
        "ssl_cert",
        "ssl_key",
        "ssl_root_cert",
        "ssl_crl",
        "server_settings",
    ] {
        settings[name] = match ours.set(name) {
            None if unset(name) => theirs[name].clone(),
            ours => json!(ours),
        };
    }
    settings["ssl_mode"] = match ours.set("ssl_mode") {
        None if unset("ssl_mode") => theirs["ssl_mode"].clone(),
        // LightRAG takes it in any case.
        Some(mode)
            if theirs["ssl_mode"]
                .as_str()
                .is_some_and(|theirs| theirs.to_lowercase() == mode) =>
        {
            theirs["ssl_mode"].clone()
        }
        ours => json!(ours),
    };
    for (name, default) in [("host", "localhost"), ("port", "5432"), ("max_connections", "50")] {
        let text = ours.set(name).unwrap_or(default);
        settings[name] = match text_of(&theirs[name]) {
            Some(theirs_text) if theirs_text == text => theirs[name].clone(),
            Some(theirs_text) if theirs_text.is_empty() && name == "port" && text == default => {
                theirs[name].clone()
            }
            // asyncpg then looks for a socket before it takes localhost.
            Some(theirs_text) if theirs_text.is_empty() && name == "host" && text.ends_with(",localhost") => {
                theirs[name].clone()
            }
            _ => json!(text),
        };
    }
    let workspace = ours.workspace.name();
    settings["workspace"] = json!(if workspace.is_empty() {
        "default"
    } else {
        workspace
    });
    settings
}

const KINDS: [&str; 6] = ["json", "redis", "postgres", "mongo", "opensearch", "server"];

/// Compares what LightRAG and we make of each, where LightRAG starts at all. Returns how often it did.
fn compare(set_ups: &[SetUp]) -> usize {
    let answers = python::settings(set_ups.iter().map(SetUp::request));
    assert_eq!(answers.len(), set_ups.len());
    let mut compared = 0;
    for (set_up, answer) in set_ups.iter().zip(answers) {
        let environment = set_up.environment();
        for kind in KINDS {
            let theirs = &answer[kind];
            if theirs.get("error").is_some() {
                continue;
            }
            assert!(theirs.is_object(), "{answer}");
            let storage = if kind == "server" { "json" } else { kind };
            let found = Ours::of(storage, &environment);
            assert_eq!(&ours(kind, &found, theirs), theirs, "{kind} in {set_up:#?}");
            compared += 1;
        }
    }
    compared
}

/// Set-ups about the order, each of which stands for a family.
fn ordered_set_ups() -> Vec<SetUp> {
    let password = ("POSTGRES_PASSWORD", "p");
    vec![
        SetUp::of(&[password], "", ""),
        SetUp::of(
            &[password, ("WORKSPACE", "all")],
            "",
            "[postgres]\nworkspace = ini\n[redis]\nworkspace = ini\n",
        ),
        SetUp::of(
            &[password, ("WORKSPACE", "all"), ("POSTGRES_WORKSPACE", "own")],
            "",
            "[postgres]\nworkspace = ini\n",
        ),
        SetUp::of(
            &[password, ("WORKSPACE", "all")],
            "POSTGRES_WORKSPACE=\n",
            "[postgres]\nworkspace = ini\n",
        ),
        SetUp::of(&[password], "WORKSPACE=my-app\n", ""),
        SetUp::of(
            &[
                password,
                ("REDIS_WORKSPACE", " r "),
                ("MONGODB_WORKSPACE", "  "),
                ("OPENSEARCH_WORKSPACE", "o-1"),
            ],
            "WORKSPACE=w\n",
            "",
        ),
        SetUp::of(&[], "POSTGRES_PASSWORD=${P:-a b}\nPOSTGRES_USER='rag'\n", ""),
        SetUp::of(
            &[],
            "",
            "[DEFAULT]\nuser = d\n[postgres]\npassword = a%%b\nHost: %(user)s.example\n",
        ),
    ]
}

/// Set-ups with empty or odd values, or files that LightRAG does not start with.
fn odd_set_ups() -> Vec<SetUp> {
    let password = ("POSTGRES_PASSWORD", "p");
    vec![
        SetUp::of(
            &[
                password,
                ("POSTGRES_HOST", ""),
                ("POSTGRES_PORT", ""),
                ("POSTGRES_SSL_MODE", ""),
                ("POSTGRES_SSL_CERT", ""),
            ],
            "",
            "[postgres]\nhost = h\nport = 1\nssl_mode = require\nssl_cert = c\n",
        ),
        SetUp::of(
            &[password, ("POSTGRES_USER", ""), ("POSTGRES_DATABASE", "")],
            "",
            "",
        ),
        SetUp::of(&[], "POSTGRES_PASSWORD=\nWORKING_DIR=\n", ""),
        SetUp::of(
            &[password, ("OPENSEARCH_USER", "")],
            "",
            "[opensearch]\nuser = ini\n",
        ),
        SetUp::of(
            &[
                password,
                ("OPENSEARCH_USE_SSL", ""),
                ("OPENSEARCH_VERIFY_CERTS", "on"),
            ],
            "",
            "",
        ),
        SetUp::of(
            &[password, ("OPENSEARCH_USE_SSL", "Yes")],
            "OPENSEARCH_HOSTS=http://a, b:1 ,,https://c\n",
            "",
        ),
        SetUp::of(&[password, ("POSTGRES_SSL_MODE", "REQUIRE")], "", ""),
        SetUp::of(
            &[password, ("PYTHON_DOTENV_DISABLED", "true")],
            "REDIS_URI=redis://h\n",
            "",
        ),
        SetUp::of(&[password], "", "[redis]\nuri = redis://h\nuri = redis://i\n"),
        SetUp::of(&[password, ("POSTGRES_MAX_CONNECTIONS", "")], "", ""),
    ]
}

#[test]
fn the_set_ups_that_people_have_are_read_as_lightrag_reads_them() {
    let set_ups = [ordered_set_ups(), odd_set_ups()].concat();
    let compared = compare(&set_ups);
    assert!(compared > set_ups.len() * 5, "{compared}");
}

/// Variables with the keys of `config.ini` beside them, and values that LightRAG starts with.
const SETTINGS: &[(&str, &str, &[&str])] = &[
    ("WORKING_DIR", "", &["./a", "a/b", ""]),
    ("WORKSPACE", "", &["w", "my-app", "v1.0", "a b", "é", ""]),
    (
        "REDIS_URI",
        "redis.uri",
        &["redis://h", "redis://:p@h:1/2", "rediss://h"],
    ),
    ("REDIS_SOCKET_TIMEOUT", "", &["5", "2.5"]),
    ("REDIS_CONNECT_TIMEOUT", "", &["7"]),
    ("REDIS_WORKSPACE", "redis.workspace", &["r", " r ", " ", ""]),
    ("POSTGRES_HOST", "postgres.host", &["h", "h.example", ""]),
    ("POSTGRES_PORT", "postgres.port", &["1", "65535", ""]),
    ("POSTGRES_USER", "postgres.user", &["u", "u v", ""]),
    (
        "POSTGRES_PASSWORD",
        "postgres.password",
        &["p", "p#q", "p %%", "it's", ""],
    ),
    ("POSTGRES_DATABASE", "postgres.database", &["d", ""]),
    ("POSTGRES_WORKSPACE", "postgres.workspace", &["p", " p ", " ", ""]),
    (
        "POSTGRES_MAX_CONNECTIONS",
        "postgres.max_connections",
        &["3", "20"],
    ),
    (
        "POSTGRES_SSL_MODE",
        "postgres.ssl_mode",
        &["require", "Disable", "verify-full", ""],
    ),
    (
        "POSTGRES_SSL_ROOT_CERT",
        "postgres.ssl_root_cert",
        &["/r.pem", ""],
    ),
    ("POSTGRES_SSL_CRL", "postgres.ssl_crl", &["/c.pem", ""]),
    (
        "POSTGRES_SERVER_SETTINGS",
        "postgres.server_options",
        &["a=b&c=d", ""],
    ),
    (
        "MONGO_URI",
        "mongodb.uri",
        &["mongodb://h/", "mongodb://u:p@h:1/?authSource=admin"],
    ),
    ("MONGO_DATABASE", "mongodb.database", &["LightRAG2", "d"]),
    ("MONGODB_WORKSPACE", "mongodb.workspace", &["m", " m", ""]),
    (
        "OPENSEARCH_HOSTS",
        "opensearch.hosts",
        &["h", "a, b:1", "https://h", "http://h:9201"],
    ),
    ("OPENSEARCH_USER", "opensearch.user", &["u", ""]),
    ("OPENSEARCH_PASSWORD", "opensearch.password", &["p", ""]),
    (
        "OPENSEARCH_USE_SSL",
        "opensearch.use_ssl",
        &["true", "False", "1", "yes", "on", ""],
    ),
    (
        "OPENSEARCH_VERIFY_CERTS",
        "opensearch.verify_certs",
        &["TRUE", "0", "no", ""],
    ),
    ("OPENSEARCH_TIMEOUT", "opensearch.timeout", &["9"]),
    ("OPENSEARCH_MAX_RETRIES", "opensearch.max_retries", &["0", "5"]),
    (
        "OPENSEARCH_NUMBER_OF_SHARDS",
        "opensearch.number_of_shards",
        &["2"],
    ),
    (
        "OPENSEARCH_NUMBER_OF_REPLICAS",
        "opensearch.number_of_replicas",
        &["1"],
    ),
    ("OPENSEARCH_WORKSPACE", "opensearch.workspace", &["o", "\to", ""]),
];

/// A setting with a place that sets it: `0` the process, `1` `.env`, `2` `config.ini`.
fn set_up() -> impl Strategy<Value = SetUp> {
    let choices = btree_map((0..SETTINGS.len(), 0..3_u8), any::<prop::sample::Index>(), 0..50);
    let quote = select(&["", "", "'", "\""][..]);
    (
        choices,
        quote,
        option::of(Just("[DEFAULT]\nuser = by default\nhosts = d\n")),
    )
        .prop_map(|(choices, quote, defaults)| {
            let mut set_up = SetUp {
                ini: defaults.map(str::to_owned),
                ..SetUp::default()
            };
            let mut sections = std::collections::BTreeMap::<&str, String>::new();
            for ((at, place), index) in choices {
                let (variable, key, values) = SETTINGS[at];
                let value = *index.get(values);
                match (place, key.split_once('.')) {
                    (0, _) => set_up
                        .process
                        .push((variable.to_owned(), value.replace("%%", "%"))),
                    (1, _) => {
                        let quote = if value.contains('\'') { "" } else { quote };
                        let line = format!("{variable}={quote}{value}{quote}\n");
                        set_up.dot_env.get_or_insert_default().push_str(&line);
                    }
                    (_, Some((section, key))) => {
                        sections
                            .entry(section)
                            .or_default()
                            .push_str(&format!("{key} = {value}\n"));
                    }
                    _ => {}
                }
            }
            for (section, keys) in sections {
                set_up
                    .ini
                    .get_or_insert_default()
                    .push_str(&format!("[{section}]\n{keys}"));
            }
            set_up
        })
}

#[test]
fn generated_set_ups_are_read_as_lightrag_reads_them() {
    let count = std::env::var("TEST_CONFIG_SET_UPS").map_or(DEFAULT_SET_UPS, |count| count.parse().unwrap());
    let set_ups = generated::values(set_up(), count);
    let compared = compare(&set_ups);
    assert!(compared > count * 4, "LightRAG started only {compared} times");
}

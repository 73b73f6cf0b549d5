//! A place on one of the storages, of a test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use super::state;

/// Where tests can have a place: a folder, or a server that an address in the environment leads to.
#[derive(Debug)]
pub struct Server {
    /// The name in tests, and in upper case in the variable of its address, `TEST_REDIS_URI`.
    pub name: &'static str,
    pub kind: &'static str,
    /// Whether it passes everything on to a server of its kind, which holds the data and at which tests look.
    is_pooler: bool,
    /// Whether it knows MongoDB's Decimal128. What does not ends the connection at the sight of one; LightRAG writes none.
    pub decimals: bool,
    /// What LightRAG has to be told for this one.
    lightrag: &'static [(&'static str, &'static str)],
}

/// Every one of them: the first of each kind, which tests of pairs go through, then the further ones.
pub const SERVERS: [Server; 12] = [
    Server::new("json", "json"),
    Server::new("redis", "redis"),
    Server::new("postgres", "postgres"),
    Server::new("mongo", "mongo"),
    Server::new("opensearch", "opensearch"),
    Server::new("archive", "archive"),
    Server::new("valkey", "redis"),
    // It lets 20 connections to the server at once, and LightRAG wants 50; the next waits until it is given up.
    Server {
        is_pooler: true,
        lightrag: &[("POSTGRES_MAX_CONNECTIONS", "8")],
        ..Server::new("pgbouncer_session", "postgres")
    },
    // A statement that was prepared is not there in the next transaction.
    Server {
        is_pooler: true,
        lightrag: &[
            ("POSTGRES_MAX_CONNECTIONS", "8"),
            ("POSTGRES_STATEMENT_CACHE_SIZE", "0"),
        ],
        ..Server::new("pgbouncer_transaction", "postgres")
    },
    Server {
        decimals: false,
        ..Server::new("ferretdb", "mongo")
    },
    Server::new("opensearch218", "opensearch"),
    Server::new("opensearch_path", "opensearch"),
];

impl Server {
    const fn new(name: &'static str, kind: &'static str) -> Self {
        Self {
            name,
            kind,
            is_pooler: false,
            decimals: true,
            lightrag: &[],
        }
    }

    /// Whether it is a folder of the test's own, and no server.
    pub fn is_files(&self) -> bool {
        matches!(self.kind, "json" | "archive")
    }

    fn named(name: &str) -> &'static Self {
        SERVERS
            .iter()
            .find(|server| server.name == name)
            .unwrap_or_else(|| panic!("SERVERS has no {name}"))
    }
}

/// A storage for one test: an address, and workspaces that no other test uses.
///
/// The servers come from the environment (`eval "$(scripts/services.sh env)"`); one that is not named there is a failure.
/// What a test made there goes when its place is dropped.
pub struct Place {
    pub server: &'static Server,
    pub kind: &'static str,
    /// What `--source` and `--target` take.
    pub address: String,
    /// Where a test looks at what is there: the same, or the server behind it.
    pub data_address: String,
    /// Begins the name of every workspace of this place.
    pub prefix: String,
    /// Holds the files of a JSON place; removed with it.
    folder: Option<tempfile::TempDir>,
    /// Whether the database at the address is this place's alone, and goes with it.
    pub(super) own_database: bool,
}

impl Place {
    /// A place on the server of this name; a kind is the name of the first of its servers.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // As long for every process, since terminals wrap lines with it. The mark at the end keeps the first from being the
        // beginning of the tenth.
        let prefix = format!(
            "t{:07}x{:03}_",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let server = Server::named(name);
        let folder = server.is_files().then(|| tempfile::tempdir().unwrap());
        let address = match &folder {
            // Not made yet: making it is the target's business.
            Some(folder) => {
                let name = if server.kind == "json" {
                    "rag_storage"
                } else {
                    "cache.jsonl.zst"
                };
                folder.path().join(name).to_str().unwrap().to_owned()
            }
            None => service(server.name),
        };
        Self {
            server,
            kind: server.kind,
            data_address: if server.is_pooler {
                state::address_behind(&address)
            } else {
                address.clone()
            },
            address,
            prefix,
            folder,
            own_database: false,
        }
    }

    /// A place that nobody else uses, on the server of this name: a database of its own where its kind has databases,
    /// so that even what belongs to no workspace can be looked at. OpenSearch has none, and is shared.
    pub fn alone(name: &str) -> Self {
        let mut place = Self::new(name);
        state::make_database(&mut place);
        place
    }

    /// A copy of a JSON place, for a reader that may write.
    pub fn copy(&self) -> Self {
        assert_eq!(self.kind, "json");
        let copy = Self::new("json");
        copy_folder(self.address.as_ref(), copy.address.as_ref());
        copy
    }

    /// The name of a workspace that only this place has.
    pub fn workspace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The cache file of a workspace, for a JSON place.
    pub fn file(&self, workspace: &str) -> std::path::PathBuf {
        let mut path = std::path::PathBuf::from(&self.address);
        if !workspace.is_empty() {
            path.push(workspace);
        }
        path.join("kv_store_llm_response_cache.json")
    }

    /// LightRAG's variables for this place.
    pub fn lightrag_env(&self) -> Vec<(&'static str, String)> {
        let own = self.server.lightrag.iter();
        let own = own.map(|(name, value)| (*name, (*value).to_owned()));
        self.lightrag_address().into_iter().chain(own).collect()
    }

    fn lightrag_address(&self) -> Vec<(&'static str, String)> {
        let url = || url::Url::parse(&self.address).unwrap();
        let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
        match self.kind {
            "json" => vec![("WORKING_DIR", self.address.clone())],
            "redis" => vec![("REDIS_URI", self.address.clone())],
            "mongo" => vec![
                ("MONGO_URI", self.address.clone()),
                ("MONGO_DATABASE", state::mongo_database(&self.address)),
            ],
            "postgres" => vec![
                ("POSTGRES_HOST", part(url().host_str())),
                ("POSTGRES_PORT", url().port().unwrap_or(5432).to_string()),
                ("POSTGRES_USER", url().username().to_owned()),
                ("POSTGRES_PASSWORD", part(url().password())),
                (
                    "POSTGRES_DATABASE",
                    url().path().trim_start_matches('/').to_owned(),
                ),
            ],
            "opensearch" => {
                let port = url().port_or_known_default().unwrap_or(9200);
                let host = format!("{}:{port}", part(url().host_str()));
                // A path is understood in an address alone.
                let host = match url().path() {
                    "/" => host,
                    path => format!("{}://{host}{path}", url().scheme()),
                };
                vec![
                    ("OPENSEARCH_HOSTS", host),
                    ("OPENSEARCH_USE_SSL", (url().scheme() == "https").to_string()),
                    ("OPENSEARCH_USER", url().username().to_owned()),
                    ("OPENSEARCH_PASSWORD", part(url().password())),
                ]
            }
            other => panic!("no variables are known for {other}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        state::remove(self);
    }
}

/// Copies a folder and all in it.
pub fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

/// The address of a server, from the environment.
pub fn service(kind: &str) -> String {
    variable(&format!("TEST_{}_URI", kind.to_uppercase()))
}

/// A variable that the tests need.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run scripts/services.sh up, then eval \"$(scripts/services.sh env)\"")
    })
}

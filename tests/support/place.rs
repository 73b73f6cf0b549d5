//! A place on one of the storages, of a test's own.

use std::sync::atomic::{AtomicU32, Ordering};

/// A storage for one test: an address, and workspaces that no other test uses.
///
/// The servers come from the environment (`eval "$(scripts/services.sh env)"`); one that is not named there is a failure.
pub struct Place {
    pub kind: &'static str,
    /// What `--source` and `--target` take.
    pub address: String,
    /// Begins the name of every workspace of this place.
    pub prefix: String,
    /// Holds the files of a JSON place; removed with it.
    folder: Option<tempfile::TempDir>,
}

/// Every storage.
pub const KINDS: [&str; 5] = ["json", "redis", "postgres", "mongo", "opensearch"];

impl Place {
    /// A place on the storage of this kind.
    pub fn new(kind: &'static str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = (kind == "json").then(|| tempfile::tempdir().unwrap());
        let address = match &folder {
            // Not made yet: making it is the target's business.
            Some(folder) => folder.path().join("rag_storage").to_str().unwrap().to_owned(),
            None => service(kind),
        };
        Self {
            kind,
            address,
            prefix,
            folder,
        }
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
        let url = || url::Url::parse(&self.address).unwrap();
        let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
        match self.kind {
            "json" => vec![("WORKING_DIR", self.address.clone())],
            "redis" => vec![("REDIS_URI", self.address.clone())],
            "mongo" => vec![
                ("MONGO_URI", self.address.clone()),
                ("MONGO_DATABASE", "LightRAG".to_owned()),
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
                vec![
                    ("OPENSEARCH_HOSTS", format!("{}:{port}", part(url().host_str()))),
                    ("OPENSEARCH_USE_SSL", (url().scheme() == "https").to_string()),
                    ("OPENSEARCH_USER", url().username().to_owned()),
                    ("OPENSEARCH_PASSWORD", part(url().password())),
                ]
            }
            other => panic!("no variables are known for {other}"),
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

//! A directory in which the program is run, and what it said there in a form that is the same every time.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::support::{
    place::copy_folder,
    records::key,
    tool::{Run, Tool},
};

/// The cache that LightRAG wrote: the empty workspace, space1 and space2.
pub const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sample/rag_storage");

/// The name of a cache file.
pub const CACHE: &str = "kv_store_llm_response_cache.json";

/// A working directory of a user, with the sample cache as ./rag_storage.
pub struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(SAMPLE.as_ref(), &folder.path().join("rag_storage"));
        Self { folder }
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and the folders that it needs.
    pub fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// A cache file in a working directory, of these entries.
    pub fn cache(&self, working_dir: &str, entries: &Value) -> &Self {
        self.file(
            &format!("{working_dir}/{CACHE}"),
            &serde_json::to_string_pretty(entries).unwrap(),
        )
    }

    /// A working directory with workspaces `w0`, `w1`, … of one record each.
    pub fn workspaces(&self, working_dir: &str, count: u64) -> &Self {
        for n in 0..count {
            let key = key("extract", n);
            self.cache(&format!("{working_dir}/w{n}"), &json!({key: value("x")}));
        }
        self
    }

    /// What stands in a JSON file.
    pub fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// The program in this directory, its arguments as one would type them.
    pub fn tool(&self, line: &str) -> Tool {
        let arguments: Vec<&str> = line.split_whitespace().collect();
        Tool::new(&arguments).in_directory(self.folder.path())
    }

    /// Runs it.
    pub fn run(&self, line: &str) -> Run {
        self.tool(line).run()
    }

    /// What differs from run to run, and what stands for it.
    pub fn settings(&self) -> insta::Settings {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for path in [self.folder.path(), &self.folder.path().canonicalize().unwrap()] {
            settings.add_filter(&regex_of(path), "[dir]");
        }
        settings.add_filter(&regex_of(Path::new(env!("CARGO_MANIFEST_DIR"))), "[repository]");
        for (pattern, placeholder) in [
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[run]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "[time]"),
            (
                r#""(pid|duration_ms|elapsed_ms|remaining_ms|records_per_second|bytes_per_second)": [\d.]+"#,
                r#""$1": "[number]""#,
            ),
            (r"Duration: +\d.*", "Duration: [duration]"),
            (r"\([\d,]+ records/s, [^)]+/s\)", "([speed])"),
            (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
            (&regex_escape(env!("CARGO_PKG_VERSION")), "[version]"),
        ] {
            settings.add_filter(pattern, placeholder);
        }
        settings
    }
}

fn regex_of(path: &Path) -> String {
    regex_escape(path.to_str().unwrap())
}

fn regex_escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| (!c.is_alphanumeric()).then_some('\\').into_iter().chain([c]))
        .collect()
}

/// Exit code, standard output and standard error, events spread over lines.
pub fn told(run: &Run) -> String {
    let mut text = format!("exit code {}\n--- standard output\n", run.code);
    if run.events.is_empty() {
        text.push_str(&run.stdout);
    }
    for event in &run.events {
        let _ = writeln!(text, "{event:#}");
    }
    let _ = write!(text, "--- standard error\n{}", run.stderr);
    text
}

/// Compares a run with what was kept of it.
macro_rules! snapshot {
    ($scene:expr, $run:expr) => {{
        let run = $run;
        $scene
            .settings()
            .bind(|| insta::assert_snapshot!($crate::scene::told(&run)));
        run
    }};
}

/// Compares the end of a run with what was kept of it, without its numbers, none of which is the same twice.
macro_rules! snapshot_end {
    ($scene:expr, $run:expr) => {{
        let run = $run;
        $scene
            .settings()
            .bind(|| insta::assert_snapshot!($crate::scene::end(&run)));
    }};
}

/// Exit code, what the report says in words, and standard error.
pub fn end(run: &Run) -> String {
    let report = run.report();
    let mut text = format!("exit code {}\n--- report\n", run.code);
    for name in ["mode", "status", "exit_code", "retryable", "next"] {
        let _ = writeln!(text, "{name}: {}", report[name]);
    }
    let _ = write!(text, "--- standard error\n{}", run.stderr);
    text
}

/// A record.
pub fn value(text: &str) -> Value {
    json!({
        "return": text, "original_prompt": "Extract.", "cache_type": "extract", "chunk_id": "chunk-1",
        "queryparam": null, "create_time": 1_700_000_000, "update_time": 1_700_000_000,
    })
}

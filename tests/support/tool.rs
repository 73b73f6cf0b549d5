//! The program, run as its users run it, and what must hold of every run.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::LazyLock,
};

use serde_json::Value;

/// A command line of the program.
pub struct Tool {
    command: Command,
    secrets: Vec<String>,
}

/// What a run left.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// The events, where standard output has them.
    pub events: Vec<Value>,
}

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = migrate_llm_cache::report::event_schema();
    jsonschema::validator_for(schema.as_value()).expect("a JSON Schema")
});

impl Tool {
    /// The program with these arguments, in an environment that holds nothing of the tester's.
    pub fn new(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migrate-llm-cache"));
        command
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .current_dir("/");
        Self {
            command,
            secrets: passwords(),
        }
    }

    /// Started in this directory, whose `.env` and `config.ini` then count.
    pub fn in_directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// With a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// A text that must appear nowhere.
    pub fn secret(mut self, secret: &str) -> Self {
        self.secrets.push(secret.to_owned());
        self
    }

    /// Started by another program, whose arguments end with the command.
    pub fn by(mut self, starter: &[&str]) -> Self {
        let mut command = Command::new(starter[0]);
        command
            .args(&starter[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .env_clear()
            .stdin(Stdio::null())
            .current_dir(self.command.get_current_dir().unwrap_or(Path::new("/")));
        let variables = self.command.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        self.command = command;
        self
    }

    /// The command, to be started otherwise than by [`Tool::run`].
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs it, and checks what must hold of every run: the lines are events by the schema, numbered without gaps, the
    /// first one begins the run and the last one reports it, the numbers add up, the exit code is the reported one, and no
    /// password is anywhere.
    pub fn run(mut self) -> Run {
        let run = Run::of(self.command.output().expect("the program starts"));
        for secret in &self.secrets {
            for text in [&run.stdout, &run.stderr]
                .into_iter()
                .chain(&self.written_files())
            {
                assert!(
                    !text.contains(secret.as_str()),
                    "a password is in what was put out: {text}"
                );
            }
        }
        run.checked()
    }

    /// What stands in the files that the arguments name to be written.
    fn written_files(&self) -> Vec<String> {
        let arguments: Vec<_> = self.command.get_args().collect();
        let named = arguments.windows(2).filter(|pair| {
            [
                "--report",
                "--metrics",
                "--checkpoint",
                "--rejects",
                "--differences",
            ]
            .iter()
            .any(|flag| pair[0] == *flag)
        });
        let folder = self.command.get_current_dir().unwrap_or(Path::new("/"));
        named
            .filter_map(|pair| std::fs::read_to_string(folder.join(pair[1])).ok())
            .collect()
    }
}

impl Run {
    /// What the program left, not checked yet.
    pub fn of(output: std::process::Output) -> Self {
        Self {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
            events: Vec::new(),
        }
    }

    /// Reads and checks the events.
    pub fn checked(mut self) -> Self {
        // The schema of job files is not an event.
        if !self.stdout.starts_with("{\"") {
            return self;
        }
        for (number, line) in self.stdout.lines().enumerate() {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let errors: Vec<String> = SCHEMA
                .iter_errors(&event)
                .map(|error| error.to_string())
                .collect();
            assert!(errors.is_empty(), "{line} breaks the schema: {errors:?}");
            assert_eq!(event["seq"], number, "{line}");
            self.events.push(event);
        }
        assert_eq!(self.events[0]["event"], "run_started");
        let reports: Vec<_> = self
            .events
            .iter()
            .filter(|event| event["event"] == "report")
            .collect();
        assert_eq!(reports.len(), 1, "one report");
        let report = self.report();
        assert_eq!(report["event"], "report", "the last line is the report");
        assert_eq!(report["exit_code"], self.code, "{}", self.stderr);
        check_report(report);
        self
    }

    /// The report.
    pub fn report(&self) -> &Value {
        self.events
            .last()
            .unwrap_or_else(|| panic!("no events; standard error: {}", self.stderr))
    }

    /// The first error in the report; empty if there is none.
    pub fn message(&self) -> &str {
        self.report()["errors"]["first"][0]["message"]
            .as_str()
            .unwrap_or_default()
    }

    /// A number of the report's totals.
    pub fn total(&self, name: &str) -> u64 {
        self.report()["totals"][name].as_u64().unwrap()
    }

    /// The events of a kind.
    pub fn events_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// Fails with everything that was printed unless the run ended so.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "standard error:\n{}\nstandard output:\n{}",
            self.stderr, self.stdout
        );
        self
    }
}

/// The numbers of a report add up, everywhere.
pub fn check_report(report: &Value) {
    let add_up = |totals: &Value, what: &str| {
        let number = |name: &str| totals[name].as_u64().unwrap();
        let parts = number("written") + number("skipped") + number("rejected") + number("not_attempted");
        assert_eq!(number("selected"), parts, "{what}: {totals}");
    };
    add_up(&report["totals"], "totals");
    let mut selected = 0;
    for (name, totals) in report["by_cache_type"].as_object().unwrap() {
        add_up(totals, name);
        selected += totals["selected"].as_u64().unwrap();
    }
    assert_eq!(
        report["totals"]["selected"].as_u64().unwrap(),
        selected,
        "types and totals: {report}"
    );
    for workspace in report["workspaces"].as_array().unwrap() {
        add_up(&workspace["totals"], "workspace");
        for (name, totals) in workspace["by_cache_type"].as_object().unwrap() {
            add_up(totals, name);
        }
    }
}

/// The passwords of the test servers.
fn passwords() -> Vec<String> {
    [
        "REDIS",
        "REDIS_TLS",
        "POSTGRES",
        "MONGO",
        "MONGO_TLS",
        "OPENSEARCH_TLS",
    ]
    .iter()
    .filter_map(|name| std::env::var(format!("TEST_{name}_URI")).ok())
    .filter_map(|uri| url::Url::parse(&uri).ok()?.password().map(str::to_owned))
    .collect()
}

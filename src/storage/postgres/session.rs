//! The settings of a session, given to each transaction anew.
//!
//! Through a pooler, every transaction may run in another session of the server, and a startup parameter may be refused or
//! ignored. So each request is a transaction of its own that begins with its settings, and nothing is expected of the
//! session: no setting, no prepared statement, no lock.

use std::{fmt::Write as _, time::Duration};

use super::connection::Phase;
use crate::model::Side;

/// A setting of the server, as `SET` knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
    /// Whether the user asked for it. What only this program prefers may be missing on a server.
    pub(super) is_users: bool,
}

impl Setting {
    fn own(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
            is_users: false,
        }
    }
}

/// How long the server may work on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// As long as any request.
    Request,
    /// As long as it takes: what goes over a whole table.
    None,
}

/// What every transaction begins with.
#[derive(Clone, Debug)]
pub(super) struct Session {
    side: Side,
    timeout: Duration,
    settings: Vec<Setting>,
    /// False where a pooler gives away the session after each statement.
    has_transactions: bool,
}

/// A commit that is answered must be on the disk: what is reported as written has to stay.
const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'on', true) \
                       WHERE pg_catalog.current_setting('synchronous_commit') = 'off';";

impl Session {
    /// With the settings that the user asked for; those that this program relies on come last and so hold.
    pub(super) fn new(side: Side, timeout: Duration, users: Vec<Setting>) -> Self {
        let mut settings = users;
        settings.extend([
            // Times without a zone are UTC; in an old table with zones, they are converted by this.
            Setting::own("TimeZone", "UTC"),
            // Rows are read along the heap or the index. A table whose statistics are not made yet looks small enough to
            // be sorted for every page.
            Setting::own("enable_sort", "off"),
            // A few hundred rows at a time are read in less time than it takes to compile how.
            Setting::own("jit", "off"),
        ]);
        Self {
            side,
            // A little before this side gives up, so that the connection stays of use.
            timeout: timeout * 9 / 10,
            settings,
            has_transactions: true,
        }
    }

    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// Takes texts as the bytes that they are. In a database with the encoding `SQL_ASCII` the server would otherwise refuse
    /// to send a whole page where one text is not UTF-8.
    pub(super) fn take_bytes(&mut self) {
        self.settings.push(Setting::own("client_encoding", "SQL_ASCII"));
    }

    /// Does without a setting from now on.
    pub(super) fn leave_out(&mut self, name: &str) {
        self.settings.retain(|setting| setting.name != name);
    }

    /// Does without transactions, and so without settings, from now on.
    pub(super) fn leave_out_transactions(&mut self) {
        self.has_transactions = false;
    }

    pub(super) fn has_transactions(&self) -> bool {
        self.has_transactions
    }

    /// The statements that begin a transaction. A source is only read, whatever a statement would do.
    pub(super) fn begin(&self, phase: Phase, limit: Limit) -> String {
        let writes = self.writes(phase);
        let mode = if writes { "" } else { " READ ONLY" };
        format!("BEGIN{mode};{}", self.settings_of(phase, limit))
    }

    /// The statements after the start of a transaction.
    pub(super) fn settings_of(&self, phase: Phase, limit: Limit) -> String {
        let mut sql = set(&self.settings);
        let milliseconds = match limit {
            Limit::Request => self.timeout.as_millis().clamp(1, i32::MAX as u128),
            Limit::None => 0,
        };
        let _ = write!(sql, "SET LOCAL statement_timeout = {milliseconds};");
        if self.writes(phase) {
            sql.push_str(DURABLE);
        }
        sql
    }

    fn writes(&self, phase: Phase) -> bool {
        self.side == Side::Target && matches!(phase, Phase::Writing | Phase::Making)
    }
}

/// Statements that set these for the transaction under way. A function sets a list (`search_path`) from one text,
/// which `SET` would take for one name.
pub(super) fn set(settings: &[Setting]) -> String {
    if settings.is_empty() {
        return String::new();
    }
    let calls = settings.iter().map(|Setting { name, value, .. }| {
        format!("pg_catalog.set_config({}, {}, true)", quoted(name), quoted(value))
    });
    format!("SELECT {};", calls.collect::<Vec<_>>().join(", "))
}

/// A text as SQL, whatever `standard_conforming_strings` says.
fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// The settings in command-line options of the server process: `-c name=value`, `--name=value`. `None` where there is
/// anything else in them, such as the name of a project for its pooler.
pub(super) fn parse_options(options: &str) -> Option<Vec<Setting>> {
    let mut settings = Vec::new();
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.as_str() {
            "-c" => words.next()?,
            word => word
                .strip_prefix("--")
                .or_else(|| word.strip_prefix("-c"))?
                .to_owned(),
        };
        let (name, value) = assignment.split_once('=')?;
        let name = name.replace('-', "_");
        if !is_name(&name) {
            return None;
        }
        settings.push(Setting {
            name,
            value: value.to_owned(),
            is_users: true,
        });
    }
    Some(settings)
}

/// Splits at white space that has no backslash before it, as the server does (`pg_split_opts` in `postinit.c`).
fn split(options: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        let Some(word) = words.last_mut() else { break };
        match character {
            '\\' => word.extend(characters.next()),
            character if character.is_ascii_whitespace() => words.push(String::new()),
            character => word.push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether this can be the name of a setting.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(name: &str, value: &str) -> Setting {
        Setting {
            name: name.to_owned(),
            value: value.to_owned(),
            is_users: true,
        }
    }

    #[test]
    fn a_source_is_only_read_and_only_writes_of_a_target_write() {
        let session = |side| Session::new(side, Duration::from_secs(10), Vec::new());
        for phase in [Phase::Reading, Phase::Preparing, Phase::Making, Phase::Writing] {
            let begin = session(Side::Source).begin(phase, Limit::Request);
            assert!(begin.starts_with("BEGIN READ ONLY;"), "{phase:?}");
        }
        let target = session(Side::Target);
        assert!(
            target
                .begin(Phase::Reading, Limit::Request)
                .starts_with("BEGIN READ ONLY;")
        );
        let begin = target.begin(Phase::Writing, Limit::Request);
        assert!(
            begin.starts_with("BEGIN;") && begin.contains("synchronous_commit"),
            "{begin}"
        );
    }

    #[test]
    fn what_is_relied_on_holds_over_what_the_user_asked_for() {
        let users = vec![users("TimeZone", "Asia/Tokyo"), users("search_path", "a, b'c\\")];
        let begin =
            Session::new(Side::Source, Duration::from_secs(10), users).begin(Phase::Reading, Limit::Request);
        let at = |text: &str| begin.find(text).unwrap_or_else(|| panic!("{text} in {begin}"));
        assert!(at("E'Asia/Tokyo'") < at("E'UTC'"));
        assert!(at("E'a, b''c\\\\'") < at("statement_timeout = 9000"));
    }

    #[test]
    fn options_are_settings_as_the_server_reads_them() {
        let read = parse_options(" -c search_path=a\\ b  --work-mem=64MB -cjit=on").unwrap();
        assert_eq!(
            read,
            [
                users("search_path", "a b"),
                users("work_mem", "64MB"),
                users("jit", "on")
            ]
        );
        assert_eq!(parse_options(""), Some(Vec::new()));
        assert_eq!(parse_options("reference=project"), None);
        assert_eq!(parse_options("-c search_path"), None);
        assert_eq!(parse_options("-f i"), None);
    }
}

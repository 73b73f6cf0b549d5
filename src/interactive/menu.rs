//! The numbered menu of storages.

use std::fmt::Write as _;

use crate::{
    model::{Side, nearest},
    storage::{self, Connector},
};

/// The answer that also lists the excluded storage.
const SHOW_ALL: &str = "a";

/// The storages of a side, numbered from 1.
#[derive(Clone)]
pub(super) struct Menu {
    side: Side,
    entries: Vec<&'static dyn Connector>,
    left_out: Option<&'static dyn Connector>,
}

/// The meaning of an answer.
pub(super) enum Choice {
    /// Exit.
    Leave,
    /// List the excluded storage too.
    ShowAll,
    /// Use this storage.
    Storage(&'static dyn Connector),
}

impl Menu {
    /// Every storage.
    pub(super) fn all(side: Side) -> Self {
        Self {
            side,
            entries: storage::connectors().to_vec(),
            left_out: None,
        }
    }

    /// The storages for the target, without the source's.
    pub(super) fn without(source: &'static dyn Connector) -> Self {
        let mut menu = Self::all(Side::Target);
        menu.entries.retain(|connector| connector.kind() != source.kind());
        menu.left_out = Some(source);
        menu
    }

    /// The menu's text.
    pub(super) fn list(&self) -> String {
        let mut text = match (self.side, self.left_out) {
            (Side::Source, _) => "Supported KV storage types:".to_owned(),
            (Side::Target, None) => "Available storage types for the target:".to_owned(),
            (Side::Target, Some(source)) => format!(
                "Available storage types for the target (source: {} excluded):",
                source.class_name()
            ),
        };
        for (at, connector) in self.entries.iter().enumerate() {
            let _ = write!(
                text,
                "\n[{}] {:<20} {}",
                at + 1,
                connector.class_name(),
                connector.title()
            );
        }
        if let Some(source) = self.left_out {
            let _ = write!(
                text,
                "\n[{SHOW_ALL}] {:<20} {} too",
                "show all",
                source.class_name()
            );
        }
        text
    }

    /// The question below the list.
    pub(super) fn question(&self) -> String {
        format!(
            "Select the {} storage type (1-{}) (Enter or 0 to exit):",
            self.side,
            self.entries.len()
        )
    }

    /// Reads an answer: a number, or a storage's name.
    ///
    /// # Errors
    /// The message for an invalid answer.
    pub(super) fn read(&self, answer: &str) -> Result<Choice, String> {
        let answer = answer.trim();
        let range = || format!("enter a number from 0 to {}", self.entries.len());
        if answer.is_empty() {
            return Ok(Choice::Leave);
        }
        if self.left_out.is_some() && answer.eq_ignore_ascii_case(SHOW_ALL) {
            return Ok(Choice::ShowAll);
        }
        if let Ok(number) = answer.parse::<usize>() {
            let Some(at) = number.checked_sub(1) else {
                return Ok(Choice::Leave);
            };
            let found = self.entries.get(at).copied();
            return found
                .map(Choice::Storage)
                .ok_or_else(|| format!("[{number}] is not in the list: {}", range()));
        }
        match storage::find(answer) {
            Some(connector) if self.entries.iter().any(|entry| entry.kind() == connector.kind()) => {
                Ok(Choice::Storage(connector))
            }
            Some(connector) => Err(format!(
                "{} is the storage type of the source; enter {SHOW_ALL} to list it",
                connector.class_name()
            )),
            None => {
                let names = self.entries.iter().flat_map(|b| [b.kind(), b.class_name()]);
                let hint = nearest(answer, names)
                    .map(|near| format!("; did you mean {near}?"))
                    .unwrap_or_default();
                Err(format!("{}{hint}", range()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(menu: &Menu, answer: &str) -> String {
        match menu.read(answer) {
            Ok(Choice::Leave) => "leave".to_owned(),
            Ok(Choice::ShowAll) => "all".to_owned(),
            Ok(Choice::Storage(connector)) => connector.kind().to_owned(),
            Err(what) => format!("error: {what}"),
        }
    }

    #[test]
    fn source_storages_are_numbered_in_the_order_of_lightrags_guide() {
        let menu = Menu::all(Side::Source);
        let kinds: Vec<String> = (1..=6).map(|n| chosen(&menu, &n.to_string())).collect();
        assert_eq!(
            kinds,
            ["json", "redis", "postgres", "mongo", "opensearch", "archive"]
        );
        assert_eq!(chosen(&menu, ""), "leave");
        assert_eq!(chosen(&menu, " 0 "), "leave");
        assert_eq!(chosen(&menu, "PGKVStorage"), "postgres");
        assert!(!menu.list().contains("show all"));
    }

    #[test]
    fn target_storages_are_numbered_without_the_source() {
        let menu = Menu::without(storage::find("redis").unwrap());
        let kinds: Vec<String> = (1..=5).map(|n| chosen(&menu, &n.to_string())).collect();
        assert_eq!(kinds, ["json", "postgres", "mongo", "opensearch", "archive"]);
        assert!(menu.question().contains("(1-5)"), "{}", menu.question());
        assert_eq!(chosen(&menu, "a"), "all");
        let shown = Menu::all(Side::Target);
        assert_eq!(chosen(&shown, "2"), "redis");
    }

    #[test]
    fn an_invalid_answer_is_reported_with_what_was_expected() {
        let menu = Menu::without(storage::find("json").unwrap());
        assert_eq!(
            chosen(&menu, "6"),
            "error: [6] is not in the list: enter a number from 0 to 5"
        );
        assert_eq!(
            chosen(&menu, "rediss"),
            "error: enter a number from 0 to 5; did you mean redis?"
        );
        assert_eq!(
            chosen(&menu, "json"),
            "error: JsonKVStorage is the storage type of the source; enter a to list it"
        );
        assert!(chosen(&menu, "-1").starts_with("error: enter a number"));
    }
}

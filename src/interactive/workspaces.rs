//! The numbered workspaces of the source.

use std::fmt::Write as _;

use crate::{
    model::{Workspace, nearest},
    report::style::{cut, grouped},
};

/// The answer for every workspace.
const ALL: &str = "a";
/// How many workspaces are listed.
const MOST_LISTED: usize = 20;

/// The workspaces to pick from, numbered from 1.
#[derive(Clone)]
pub(super) struct Workspaces {
    found: Vec<Workspace>,
    /// The one that LightRAG's configuration names.
    configured: Workspace,
}

/// The meaning of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// The one that LightRAG's configuration names.
    Configured,
    /// Every workspace.
    All,
    /// These. Never empty.
    These(Vec<Workspace>),
}

impl Workspaces {
    /// `None` if there is no choice.
    pub(super) fn new(found: Vec<Workspace>, configured: Workspace) -> Option<Self> {
        (found.len() > 1).then_some(Self { found, configured })
    }

    pub(super) fn list(&self, width: usize) -> String {
        let mut text = "Workspaces of the source:".to_owned();
        for (at, workspace) in self.found.iter().take(MOST_LISTED).enumerate() {
            let line = format!("[{}] {workspace}", at + 1);
            let _ = write!(text, "\n{}", cut(&line, width));
        }
        if self.found.len() > MOST_LISTED {
            let more = (self.found.len() - MOST_LISTED) as u64;
            let _ = write!(text, "\n… and {} more; enter their names", grouped(more));
        }
        let _ = write!(text, "\n[{ALL}] all");
        text
    }

    /// The question below the list.
    pub(super) fn question(&self) -> String {
        format!("Workspaces to move, such as 1,2 (Enter for {}):", self.configured)
    }

    /// Reads an answer: numbers and names, separated by commas.
    ///
    /// # Errors
    /// The message for an invalid answer.
    pub(super) fn read(&self, answer: &str) -> Result<Pick, String> {
        match answer.trim() {
            "" => return Ok(Pick::Configured),
            all if all.eq_ignore_ascii_case(ALL) => return Ok(Pick::All),
            _ => {}
        }
        let mut picked = Vec::new();
        for word in answer.split(',').map(str::trim) {
            let workspace = self.find(word)?;
            if !picked.contains(&workspace) {
                picked.push(workspace);
            }
        }
        Ok(Pick::These(picked))
    }

    fn find(&self, word: &str) -> Result<Workspace, String> {
        let number = word
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_sub(1));
        let numbered = number.and_then(|at| self.found.get(at));
        let named = || {
            self.found
                .iter()
                .find(|workspace| !word.is_empty() && workspace.name() == word)
        };
        numbered.or_else(named).cloned().ok_or_else(|| {
            let names = self.found.iter().map(Workspace::name);
            let hint = nearest(word, names)
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            let range = format!(
                "enter numbers from 1 to {}, names, or {ALL} for all",
                self.found.len()
            );
            format!("[{word}] is not in the list: {range}{hint}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspaces(number: usize) -> Workspaces {
        let found = (0..number).map(|n| match n {
            0 => Workspace::default(),
            n => Workspace::new(format!("space{n}")).unwrap(),
        });
        Workspaces::new(found.collect(), Workspace::default()).unwrap()
    }

    #[test]
    fn numbers_names_and_all_are_understood() {
        let menu = workspaces(3);
        let names = |answer| match menu.read(answer) {
            Ok(Pick::These(these)) => these
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(menu.read(" "), Ok(Pick::Configured));
        assert_eq!(menu.read("A"), Ok(Pick::All));
        assert_eq!(names("1"), "(empty)");
        assert_eq!(names("2, space2 ,2"), "space1 space2");
        let error = menu.read("4").unwrap_err();
        assert!(
            error.starts_with("[4] is not in the list: enter numbers from 1 to 3"),
            "{error}"
        );
        assert!(menu.read("0").is_err() && menu.read("1,").is_err());
        let error = menu.read("spce1").unwrap_err();
        assert!(error.ends_with("; did you mean space1?"), "{error}");
    }

    #[test]
    fn one_workspace_is_no_choice_and_many_are_not_all_listed() {
        assert!(Workspaces::new(vec![Workspace::default()], Workspace::default()).is_none());
        let list = workspaces(25).list(80);
        assert!(
            list.contains("\n[20] space19\n… and 5 more; enter their names\n[a] all"),
            "{list}"
        );
    }
}

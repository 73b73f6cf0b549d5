//! `config.ini`, read as Python's `configparser.ConfigParser()` reads it for LightRAG.
//!
//! If Python's parser fails, this one records why and continues, to find out whether a needed setting is in the file at all:
//! only then is the fault an error.

use std::{collections::BTreeMap, fmt};

use super::dotenv::is_space;
use crate::model::Secret;

/// The section whose values all other sections inherit.
const DEFAULT_SECTION: &str = "DEFAULT";

/// How deep values may refer to others before Python reports a cycle.
const MAX_DEPTH: usize = 10;

/// A parsed `config.ini`.
#[derive(Debug, Default)]
pub struct ConfigIni {
    sections: BTreeMap<String, Section>,
    defaults: Section,
    problems: Vec<Problem>,
}

/// Unparsed values by key.
type Section = BTreeMap<String, RawValue>;

#[derive(Debug)]
struct RawValue {
    text: Secret,
    line: usize,
}

/// A value and the line of its key, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IniValue {
    /// The value, `%%` and `%(key)s` replaced.
    pub text: Secret,
    /// Where its key is, from 1.
    pub line: usize,
}

/// An error of Python's parser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it, without values.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl ConfigIni {
    /// Parses the text of a file.
    pub fn parse(text: &str) -> Self {
        // Python's text mode converts newlines like this before parsing.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut parser = Parser::default();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            parser.line(number + 1, line);
        }
        parser.finish()
    }

    /// Why Python's parser refuses the whole file, in the order of lines. Empty for a valid file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A value, `%%` and `%(key)s` replaced. `[DEFAULT]` counts for every section that is in the file.
    ///
    /// # Errors
    /// The value exists, and Python's parser refuses it or the whole file.
    pub fn get(&self, section: &str, key: &str) -> Result<Option<IniValue>, Problem> {
        let Some(section) = self.section(section) else {
            return Ok(None);
        };
        let Some(value) = self.raw(section, &key.to_lowercase()) else {
            return Ok(None);
        };
        if let Some(problem) = self.problems.first() {
            return Err(problem.clone());
        }
        let mut text = String::new();
        self.interpolate(section, value.text.expose(), 1, &mut text)
            .map_err(|what| Problem {
                line: value.line,
                what,
            })?;
        let (text, line) = (Secret::new(text), value.line);
        Ok(Some(IniValue { text, line }))
    }

    /// The sections and their keys, those of `[DEFAULT]` among each section's own.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sections.iter().flat_map(|(name, section)| {
            let own = section.keys();
            let of_default = self.defaults.keys().filter(|key| !section.contains_key(*key));
            own.chain(of_default)
                .map(move |key| (name.as_str(), key.as_str()))
        })
    }

    fn section(&self, name: &str) -> Option<&Section> {
        if name == DEFAULT_SECTION {
            return Some(&self.defaults);
        }
        self.sections.get(name)
    }

    fn raw<'a>(&'a self, section: &'a Section, key: &str) -> Option<&'a RawValue> {
        section.get(key).or_else(|| self.defaults.get(key))
    }

    /// # Errors
    /// What is wrong, without the value.
    fn interpolate(
        &self,
        section: &Section,
        value: &str,
        depth: usize,
        replaced: &mut String,
    ) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("its references with %(…)s form a cycle".to_owned());
        }
        let mut rest = value;
        while let Some((before, after)) = rest.split_once('%') {
            replaced.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                replaced.push('%');
                rest = after;
                continue;
            }
            let Some((key, after)) = after.strip_prefix('(').and_then(reference) else {
                return Err("write `%%` for a `%` in a value".to_owned());
            };
            let Some(value) = self.raw(section, &key.to_lowercase()) else {
                return Err(
                    "it refers with %(…)s to a key that does not exist; write `%%` for a `%`".to_owned(),
                );
            };
            match value.text.expose() {
                plain if !plain.contains('%') => replaced.push_str(plain),
                nested => self.interpolate(section, nested, depth + 1, replaced)?,
            }
            rest = after;
        }
        replaced.push_str(rest);
        Ok(())
    }
}

/// Splits what follows `%(` into the key and what follows `)s`.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (key, after) = text.split_once(')')?;
    let after = after.strip_prefix('s')?;
    (!key.is_empty()).then_some((key, after))
}

/// A value that further lines may continue.
struct Collected {
    line: usize,
    lines: Vec<String>,
}

#[derive(Default)]
struct Parser {
    sections: BTreeMap<String, BTreeMap<String, Collected>>,
    defaults: BTreeMap<String, Collected>,
    problems: Vec<Problem>,
    /// The current section, if any.
    section: Option<String>,
    /// The key that an indented line continues.
    key: Option<String>,
    indent: usize,
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) {
        let text = line.trim_matches(is_space);
        if text.starts_with(['#', ';']) {
            return;
        }
        if text.is_empty() {
            // Part of the value if another line of it follows.
            self.continue_value("");
            return;
        }
        let indent = line.chars().take_while(|c| is_space(*c)).count();
        if indent > self.indent && self.continue_value(text) {
            return;
        }
        self.indent = indent;
        if let Some(name) = section_header(text) {
            self.open_section(number, name);
        } else if self.section.is_none() {
            self.refuse(number, "no [section] above this line");
        } else {
            self.open_value(number, text);
        }
    }

    /// Adds a line to the previous value; `false` if there is none.
    fn continue_value(&mut self, text: &str) -> bool {
        // A key without a name is refused and has no further lines.
        let Some(key) = self.key.clone().filter(|key| !key.is_empty()) else {
            return false;
        };
        let Some(value) = self.values().and_then(|values| values.get_mut(&key)) else {
            return false;
        };
        value.lines.push(text.to_owned());
        true
    }

    /// The values of the current section.
    fn values(&mut self) -> Option<&mut BTreeMap<String, Collected>> {
        match self.section.as_deref()? {
            DEFAULT_SECTION => Some(&mut self.defaults),
            name => self.sections.get_mut(name),
        }
    }

    fn open_section(&mut self, number: usize, name: &str) {
        self.section = Some(name.to_owned());
        self.key = None;
        if name == DEFAULT_SECTION {
            return;
        }
        if self.sections.contains_key(name) {
            self.refuse(number, &format!("the section [{name}] is defined twice"));
            return;
        }
        self.sections.insert(name.to_owned(), BTreeMap::new());
    }

    fn open_value(&mut self, number: usize, text: &str) {
        let Some((key, value)) = text.split_once(['=', ':']) else {
            // The line may contain a password, so it is not printed.
            self.refuse(number, "expected `key = value`");
            return;
        };
        let key = key.trim_end_matches(is_space).to_lowercase();
        if key.is_empty() {
            self.refuse(number, "no key before the `=` or `:`");
        }
        let collected = Collected {
            line: number,
            lines: vec![value.trim_matches(is_space).to_owned()],
        };
        self.key = Some(key.clone());
        let earlier = self
            .values()
            .and_then(|values| values.insert(key.clone(), collected));
        if let Some(earlier) = earlier {
            let what = format!("`{key}` is defined twice, first on line {}", earlier.line);
            self.refuse(number, &what);
        }
    }

    fn refuse(&mut self, line: usize, what: &str) {
        let what = what.to_owned();
        self.problems.push(Problem { line, what });
    }

    fn finish(self) -> ConfigIni {
        ConfigIni {
            sections: self
                .sections
                .into_iter()
                .map(|(name, section)| (name, joined(section)))
                .collect(),
            defaults: joined(self.defaults),
            problems: self.problems,
        }
    }
}

fn joined(section: BTreeMap<String, Collected>) -> Section {
    let join = |Collected { line, lines }: Collected| {
        let text = Secret::new(lines.join("\n").trim_end_matches(is_space));
        RawValue { text, line }
    };
    section
        .into_iter()
        .map(|(key, value)| (key, join(value)))
        .collect()
}

/// The name between the `[` at the start of the line and the last `]`; the rest is ignored.
fn section_header(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, section: &str, key: &str) -> Option<String> {
        let value = ConfigIni::parse(text).get(section, key).unwrap();
        value.map(|value| value.text.expose().to_owned())
    }

    #[test]
    fn values_are_read_as_configparser_reads_them() {
        for (text, expected) in [
            ("[s]\nk = v", "v"),
            ("[s]\nK: v", "v"),
            ("[s] ; x\nk = v ; w", "v ; w"),
            ("[s]\nk = a%%b", "a%b"),
            ("[s]\nhost = h\nk = %(HOST)s:1", "h:1"),
            ("[DEFAULT]\nk = d\n[s]\n", "d"),
            ("[s]\nk = a\n  b\n\n  # c\n  d\n\n", "a\nb\n\nd"),
            ("[s]\nk =\n  v", "\nv"),
            ("[s]\nk = C:\\x = \"y\"", "C:\\x = \"y\""),
        ] {
            assert_eq!(value(text, "s", "k").as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(value("[DEFAULT]\nk = d\n", "s", "k"), None);
    }

    #[test]
    fn a_fault_is_an_error_for_who_needs_the_value_and_for_nobody_else() {
        for (text, line) in [
            ("[s]\nk = hunter2%\n", 2),
            ("[s]\nk = %(hunter2)s\n", 2),
            ("[s]\nk = %(k)s\n", 2),
            ("[s]\nk = 1\nhunter2\n", 3),
            ("hunter2\n[s]\nk = 1\n", 1),
            ("[s]\nk = 1\n[s]\n", 3),
            ("[s]\nk = 1\nk = hunter2\n", 3),
        ] {
            let parsed = ConfigIni::parse(text);
            let problem = parsed.get("s", "k").unwrap_err();
            assert_eq!(problem.line, line, "{text:?}");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
            assert_eq!(parsed.get("s", "other"), Ok(None));
            assert_eq!(parsed.get("other", "k"), Ok(None));
        }
    }
}

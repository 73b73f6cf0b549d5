//! `.env` files, read as python-dotenv reads them for LightRAG: `load_dotenv(".env", override=False)`.
//!
//! The grammar is python-dotenv's, not a shell's: an unquoted value ends at a comment or the end of the line, a quoted one may
//! span lines, `${NAME}` and `${NAME:-default}` are replaced in both, and an invalid statement is skipped to the end of its
//! line.

use std::collections::BTreeMap;

use crate::model::Secret;

/// A parsed `.env` file.
#[derive(Debug, Default)]
pub struct DotEnv {
    variables: BTreeMap<String, Variable>,
    unparsable: Vec<usize>,
}

/// A variable of a `.env` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The value, `${…}` replaced; `None` for a name without `=`, which sets nothing.
    pub value: Option<Secret>,
    /// Its first line, from 1.
    pub line: usize,
}

impl DotEnv {
    /// Parses the text of a file. `process` looks up variables of the process, which override those of the file in
    /// references.
    pub fn parse<'p>(text: &str, process: impl Fn(&str) -> Option<&'p str>) -> Self {
        // Python's text mode converts newlines like this before parsing.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut reader = Reader {
            rest: text.strip_prefix('\u{feff}').unwrap_or(&text),
            line: 1,
        };
        let mut read = Self::default();
        while !reader.rest.is_empty() {
            match reader.statement() {
                Statement::Nothing => {}
                Statement::Unparsable { line } => read.unparsable.push(line),
                Statement::Binding { name, value, line } => {
                    let value = value.map(|value| Secret::new(read.interpolate(&value, &process)));
                    read.variables.insert(name, Variable { value, line });
                }
            }
        }
        read
    }

    /// A variable. If a name is set several times, the last one counts.
    pub fn get(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// Every variable, in the order of names.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Variable)> {
        self.variables
            .iter()
            .map(|(name, variable)| (name.as_str(), variable))
    }

    /// The lines of the statements that could not be parsed and were skipped.
    pub fn unparsable_lines(&self) -> &[usize] {
        &self.unparsable
    }

    fn interpolate<'p>(&self, value: &str, process: &impl Fn(&str) -> Option<&'p str>) -> String {
        let mut replaced = String::with_capacity(value.len());
        let mut rest = value;
        while let Some(start) = rest.find("${") {
            let (before, from) = rest.split_at(start);
            replaced.push_str(before);
            match Reference::read(from) {
                Some(reference) => {
                    replaced.push_str(self.resolve(&reference, process));
                    rest = &from[reference.length..];
                }
                None => {
                    replaced.push('$');
                    rest = &from[1..];
                }
            }
        }
        replaced.push_str(rest);
        replaced
    }

    fn resolve<'a, 'p: 'a>(
        &'a self,
        reference: &Reference<'a>,
        process: &impl Fn(&str) -> Option<&'p str>,
    ) -> &'a str {
        if let Some(text) = process(reference.name) {
            return text;
        }
        match self.variables.get(reference.name) {
            // A name without `=` is set and empty: the default does not apply.
            Some(variable) => variable.value.as_ref().map_or("", Secret::expose),
            None => reference.default,
        }
    }
}

/// `${NAME}` or `${NAME:-default}`.
struct Reference<'a> {
    name: &'a str,
    default: &'a str,
    /// In bytes, from `$` to `}`.
    length: usize,
}

impl<'a> Reference<'a> {
    /// Parses text that begins with `${`; `None` if it is plain text.
    fn read(text: &'a str) -> Option<Self> {
        let body = &text[2..];
        let (name, rest) = body.split_at(body.find(['}', ':'])?);
        if rest.starts_with('}') {
            let length = 2 + name.len() + 1;
            return Some(Self {
                name,
                default: "",
                length,
            });
        }
        let rest = rest.strip_prefix(":-")?;
        let default = &rest[..rest.find('}')?];
        let length = 2 + name.len() + 2 + default.len() + 1;
        Some(Self {
            name,
            default,
            length,
        })
    }
}

enum Statement {
    /// White space or a comment.
    Nothing,
    Binding {
        name: String,
        value: Option<String>,
        line: usize,
    },
    Unparsable {
        line: usize,
    },
}

/// Parses statements. A method that returns `None` has consumed nothing, since the start of the statement after an invalid
/// one depends on how far that one was parsed.
struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn statement(&mut self) -> Statement {
        self.take_while(is_space);
        let line = self.line;
        match self.binding() {
            Some(None) => Statement::Nothing,
            Some(Some((name, value))) => Statement::Binding { name, value, line },
            None => {
                self.take_while(|c| c != '\n');
                self.take_text("\n");
                Statement::Unparsable { line }
            }
        }
    }

    /// A name with its value, or an empty line; `None` if it is invalid.
    fn binding(&mut self) -> Option<Option<(String, Option<String>)>> {
        if self.rest.is_empty() {
            return Some(None);
        }
        self.skip_export();
        let name = match self.peek() {
            Some('#') => None,
            Some('\'') => Some(self.quoted_name()?.to_owned()),
            _ => Some(self.name()?.to_owned()),
        };
        self.take_while(is_blank);
        let value = match self.take_text("=") {
            Some(_) => Some(self.value()?),
            None => None,
        };
        self.skip_comment();
        self.end_of_line()?;
        Some(name.map(|name| (name, value)))
    }

    fn skip_export(&mut self) {
        if let Some(rest) = self.rest.strip_prefix("export")
            && rest.starts_with(is_blank)
        {
            self.take_text("export");
            self.take_while(is_blank);
        }
    }

    fn quoted_name(&mut self) -> Option<&'a str> {
        let name = &self.rest[1..];
        let name = &name[..name.find('\'')?];
        if name.is_empty() {
            return None;
        }
        self.advance(name.len() + 2);
        Some(name)
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = self.take_while(|c| c != '=' && c != '#' && !is_space(c));
        (!name.is_empty()).then_some(name)
    }

    /// The value after a `=`.
    fn value(&mut self) -> Option<String> {
        let is_apart = !self.take_while(is_blank).is_empty();
        match self.peek() {
            Some('#') if is_apart => Some(String::new()),
            Some('\'') => self.quoted_value('\'', |c| matches!(c, '\\' | '\'').then_some(c)),
            Some('"') => self.quoted_value('"', escaped_in_double_quotes),
            _ => Some(self.unquoted_value()),
        }
    }

    /// A quoted value. `decode` returns the character of an escape, given the one after the backslash.
    fn quoted_value(&mut self, quote: char, decode: impl Fn(char) -> Option<char>) -> Option<String> {
        let mut value = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            if character == quote {
                self.advance(at + quote.len_utf8());
                return Some(value);
            }
            if character != '\\' {
                value.push(character);
                continue;
            }
            let (_, escaped) = characters.next()?;
            match decode(escaped) {
                Some(decoded) => value.push(decoded),
                None => value.extend([character, escaped]),
            }
        }
        None
    }

    fn unquoted_value(&mut self) -> String {
        let line = self.take_while(|c| c != '\n');
        let comment = line
            .match_indices('#')
            .map(|(at, _)| at)
            .find(|at| line[..*at].ends_with(is_space));
        line[..comment.unwrap_or(line.len())]
            .trim_end_matches(is_space)
            .to_owned()
    }

    fn skip_comment(&mut self) {
        if self.rest.trim_start_matches(is_blank).starts_with('#') {
            self.take_while(|c| c != '\n');
        }
    }

    fn end_of_line(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(is_blank);
        if !rest.is_empty() && !rest.starts_with('\n') {
            return None;
        }
        self.take_while(is_blank);
        self.take_text("\n");
        Some(())
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take_text(&mut self, text: &str) -> Option<&'a str> {
        self.rest.starts_with(text).then(|| self.advance(text.len()))
    }

    fn take_while(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let length = self.rest.find(|c| !accepts(c)).unwrap_or(self.rest.len());
        self.advance(length)
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

fn escaped_in_double_quotes(character: char) -> Option<char> {
    Some(match character {
        '\\' | '\'' | '"' => character,
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        _ => return None,
    })
}

/// White space by Python's definition, which has four separators more than Unicode's.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// White space within a line.
fn is_blank(character: char) -> bool {
    is_space(character) && character != '\n'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DotEnv {
        DotEnv::parse(text, |name| (name == "PROCESS").then_some("of the process"))
    }

    /// The value of `X`.
    fn value(text: &str) -> Option<String> {
        let parsed = parse(text);
        parsed
            .get("X")?
            .value
            .as_ref()
            .map(|value| value.expose().to_owned())
    }

    #[test]
    fn values_are_read_as_python_dotenv_reads_them() {
        for (text, expected) in [
            ("X=Graph RAG Engine", "Graph RAG Engine"),
            ("X=[\"Person\", \"Place\"]", "[\"Person\", \"Place\"]"),
            ("X=C:\\models\\x", "C:\\models\\x"),
            ("X=Anna's graph # note", "Anna's graph"),
            ("X= # note", ""),
            ("X=#note", "#note"),
            ("X=\"abc\"#note", "abc"),
            ("X=\"a\\nb\\q\"", "a\nb\\q"),
            ("X='it\\'s \\n'", "it's \\n"),
            ("X=\"two\nlines\"", "two\nlines"),
            ("export  X = a ", "a"),
            ("'X'=a", "a"),
            ("\u{feff}X=a\r\n", "a"),
            ("X=a$b$$c", "a$b$$c"),
            ("X=${Y:-prod}", "prod"),
            ("X=${Y}", ""),
            ("Y\nX=${Y:-prod}", ""),
            ("Y=y\nX='${Y}z'", "yz"),
            ("PROCESS=file\nX=${PROCESS}", "of the process"),
            ("X=${Y:prod}${Y", "${Y:prod}${Y"),
            ("X=a\nX=b", "b"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(value("X"), None);
    }

    #[test]
    fn what_does_not_parse_is_skipped_and_has_its_line() {
        let parsed = parse("A=1\n\n=x\nB=\"open\n C='c' d\nMY-KEY.x=1\n");
        assert_eq!(parsed.unparsable_lines(), [3, 4, 5]);
        let names: Vec<&str> = parsed.variables().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "MY-KEY.x"]);
        assert_eq!(parsed.get("MY-KEY.x").unwrap().line, 6);
    }
}

//! What words look like at a terminal: colours, where they are wanted, and texts cut to the width that there is.

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::plural;

/// A number with a noun that takes an `s`, its digits in groups: `1 record`, `1,000 records`.
pub(crate) fn grouped_of(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), plural(number, "", "s"))
}

/// How wide a terminal is that does not say.
const DEFAULT_WIDTH: usize = 80;

/// Columns of the terminal at standard error.
pub(crate) fn terminal_width() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    size.map(|(terminal_size::Width(columns), _)| usize::from(columns))
        .filter(|columns| *columns > 0)
        .unwrap_or(DEFAULT_WIDTH)
}

/// Colours for words that mean something, or none.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    colored: bool,
}

impl Palette {
    /// With colours or without.
    pub const fn new(colored: bool) -> Self {
        Self { colored }
    }

    /// Whether it has colours.
    pub const fn is_colored(self) -> bool {
        self.colored
    }

    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// What a person should look at.
    pub fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// A heading.
    pub fn strong(self, text: &str) -> String {
        self.paint(Style::new().bold(), text)
    }

    fn paint(self, style: Style, text: &str) -> String {
        if self.colored {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }
}

/// A text of at most so many columns: what is too much goes out of its middle, since places and keys differ at both
/// ends. What would move the cursor or break the line is shown as a space.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.width() <= width {
        return text;
    }
    let room = width.saturating_sub(1);
    let head = take(text.chars(), room / 2);
    let tail: String = take(text.chars().rev(), room - room / 2).chars().rev().collect();
    format!("{head}…{tail}")
}

/// The first characters that fit into a width.
fn take(characters: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// Words in lines of at most so many columns, those behind the first one indented. A word that is wider stays whole.
pub(crate) fn wrap(text: &str, width: usize, indent: &str) -> String {
    let room = width.saturating_sub(indent.width());
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{indent}"))
}

/// A number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn a_long_text_loses_its_middle() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("default:extract:0123456789abcdef", 15), "default…9abcdef");
        assert_eq!(cut("缓存缓存缓存", 7), "缓…缓存".replace("缓存", "存"));
        assert_eq!(cut("a\nb\x1b[31m", 20), "a b [31m");
    }

    #[test]
    fn lines_break_between_words_alone() {
        let text = wrap("one two three four-five-six-seven-eight", 12, "  ");
        assert_eq!(text, "one two\n  three\n  four-five-six-seven-eight");
    }

    #[test]
    fn colours_are_left_out_where_they_are_not_wanted() {
        assert_eq!(Palette::new(false).bad("x"), "x");
        assert_eq!(Palette::new(true).good("x"), "\u{1b}[32mx\u{1b}[0m");
    }
}

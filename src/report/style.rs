//! Text for a terminal: colours, numbers, and lines that fit its width.

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::plural;

/// The width in columns, if the terminal does not report one.
const DEFAULT_WIDTH: usize = 80;

/// The width in columns of the terminal on standard error.
pub(crate) fn terminal_width() -> usize {
    let size = terminal_size::terminal_size_of(std::io::stderr());
    size.map(|(terminal_size::Width(columns), _)| usize::from(columns))
        .filter(|columns| *columns > 0)
        .unwrap_or(DEFAULT_WIDTH)
}

/// Colours for results, warnings and headings, or none.
#[derive(Clone, Copy, Debug)]
pub struct Palette {
    colored: bool,
}

impl Palette {
    /// A palette with or without colours.
    pub const fn new(colored: bool) -> Self {
        Self { colored }
    }

    /// Whether the palette has colours.
    pub const fn is_colored(self) -> bool {
        self.colored
    }

    /// Paints a success.
    pub fn good(self, text: &str) -> String {
        self.paint(AnsiColor::Green.on_default(), text)
    }

    /// Paints a warning.
    pub fn warning(self, text: &str) -> String {
        self.paint(AnsiColor::Yellow.on_default(), text)
    }

    /// Paints a failure.
    pub fn bad(self, text: &str) -> String {
        self.paint(AnsiColor::Red.on_default().bold(), text)
    }

    /// Paints a heading.
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

/// Shortens text to `width` columns. The middle is cut, since locations and keys differ at both ends. Control characters
/// become spaces, since they would move the cursor or break the line.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.width() <= width {
        return text;
    }
    let space = width.saturating_sub(1);
    let head = take(text.chars(), space / 2);
    let tail: String = take(text.chars().rev(), space - space / 2)
        .chars()
        .rev()
        .collect();
    format!("{head}…{tail}")
}

/// The first characters that fit into `width` columns.
fn take(characters: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    characters
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

/// Wraps text to `width` columns and indents every line but the first. A word wider than a line is not broken.
pub(crate) fn wrap(text: &str, width: usize, indent: &str) -> String {
    let space = width.saturating_sub(indent.width());
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= space => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{indent}"))
}

/// A grouped number with its noun: `1 record`, `2,000 records`.
pub(crate) fn grouped_of(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), plural(number, "", "s"))
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
    fn nouns_agree_with_their_numbers() {
        assert_eq!(grouped_of(0, "record"), "0 records");
        assert_eq!(grouped_of(1, "record"), "1 record");
        assert_eq!(grouped_of(2_000, "record"), "2,000 records");
    }

    #[test]
    fn a_long_text_loses_its_middle() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("default:extract:0123456789abcdef", 15), "default…9abcdef");
        assert_eq!(cut("缓存缓存缓存", 7), "缓…缓存".replace("缓存", "存"));
        assert_eq!(cut("a\nb\x1b[31m", 20), "a b [31m");
    }

    #[test]
    fn lines_break_only_between_words() {
        let text = wrap("one two three four-five-six-seven-eight", 12, "  ");
        assert_eq!(text, "one two\n  three\n  four-five-six-seven-eight");
    }

    #[test]
    fn colours_can_be_turned_off() {
        assert_eq!(Palette::new(false).bad("x"), "x");
        assert_eq!(Palette::new(true).good("x"), "\u{1b}[32mx\u{1b}[0m");
    }
}

//! The program at a terminal of 80 columns and 24 lines.

use std::process::Command;

use rexpect::{
    process::{Signal, WaitStatus},
    session::{PtySession, spawn_command},
};

use super::tool::Tool;

pub const COLUMNS: u16 = 80;
pub const LINES: u16 = 24;
/// More than any run of a test takes. A test that waits so long has failed.
const PATIENCE_MS: u64 = 60_000;

/// A program at a terminal.
pub struct Terminal {
    session: PtySession,
    /// Every byte that it put out, escape codes among them.
    seen: Vec<u8>,
}

/// What a program left at its terminal.
pub struct Screen {
    pub code: i32,
    /// Every byte.
    pub bytes: Vec<u8>,
    /// The lines that a person sees in the end, those that scrolled away among them.
    pub lines: Vec<String>,
    /// Lines that were wider than the terminal, and went on in the next one.
    pub wrapped: Vec<String>,
}

impl Terminal {
    /// Starts the program. What `shell` says (a redirection) is added to its line.
    pub fn start(tool: Tool, shell: &str) -> Self {
        let tool = tool.into_command();
        let mut command = Command::new("/bin/sh");
        let line = format!("stty rows {LINES} cols {COLUMNS}; exec \"$@\" {shell}");
        command
            .args(["-c", &line, "sh"])
            .arg(tool.get_program())
            .args(tool.get_args());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        for (name, value) in tool.get_envs() {
            command.env(name, value.unwrap());
        }
        command.current_dir(tool.get_current_dir().unwrap());
        Self {
            session: spawn_command(command, Some(PATIENCE_MS)).unwrap(),
            seen: Vec::new(),
        }
    }

    /// Waits until a text (ASCII) is put out.
    pub fn wait_for(&mut self, text: &str) -> &mut Self {
        match self.session.exp_string(text) {
            Ok(before) => self.saw(&(before + text)),
            Err(error) => panic!("no {text:?}: {error}\nseen before: {}", self.text()),
        }
        self
    }

    /// Types keys.
    pub fn keys(&mut self, keys: &str) -> &mut Self {
        self.session.send(keys).unwrap();
        self.session.flush().unwrap();
        self
    }

    /// Types keys and Enter.
    pub fn enter(&mut self, keys: &str) -> &mut Self {
        self.keys(&format!("{keys}\r"))
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> &mut Self {
        self.session.process_mut().signal(signal).unwrap();
        self
    }

    /// Waits for the end.
    pub fn end(&mut self) -> Screen {
        let rest = self.session.exp_eof().unwrap();
        self.saw(&rest);
        let code = match self.session.process().wait().unwrap() {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}\n{}", self.text()),
        };
        Screen::of(code, std::mem::take(&mut self.seen))
    }

    /// What is read comes as one character a byte.
    fn saw(&mut self, text: &str) {
        self.seen
            .extend(text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }
}

impl Screen {
    fn of(code: i32, bytes: Vec<u8>) -> Self {
        let size = |number| std::num::NonZeroU16::new(number).unwrap();
        let mut parser = vt100::Parser::new(size(LINES), size(COLUMNS), 10_000);
        let mut wrapped = Vec::new();
        // Also what stood there for a moment only.
        for piece in bytes.chunks(16) {
            parser.process(piece);
            let screen = parser.screen();
            let rows = screen.rows(0, COLUMNS).zip(0..);
            let rows = rows.filter(|(text, row)| screen.row_wrapped(*row) && is_full(text));
            wrapped.extend(rows.map(|(text, _)| text));
        }
        wrapped.dedup();
        let screen = parser.screen_mut();
        let mut lines = Vec::new();
        for back in (1..=screen.scrollback_len()).rev() {
            screen.set_scrollback(back);
            lines.extend(screen.rows(0, COLUMNS).next());
        }
        screen.set_scrollback(0);
        lines.extend(screen.rows(0, COLUMNS));
        Self {
            code,
            bytes,
            lines,
            wrapped,
        }
    }

    /// The lines as a text.
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(|line| line.trim_end()).collect();
        lines.join("\n").trim().to_owned() + "\n"
    }

    /// Every byte as a text.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Whether any colour or other attribute was set.
    pub fn has_colors(&self) -> bool {
        let raw = self.raw();
        let codes = raw.split("\u{1b}[").skip(1);
        codes
            .filter_map(|rest| {
                rest.split_once(|c: char| !c.is_ascii_digit() && c != ';')
                    .map(|(code, _)| (code, &rest[code.len()..]))
            })
            .any(|(code, rest)| rest.starts_with('m') && !matches!(code, "" | "0"))
    }

    /// Fails with everything that was to be seen unless the run ended so.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}", self.text());
        self
    }
}

/// Whether a text fills its line. The line of a bar does, with its percentage at the end, and no more than that.
fn is_full(text: &str) -> bool {
    let text = text.trim_end();
    text.chars().count() == usize::from(COLUMNS) && !text.ends_with('%')
}

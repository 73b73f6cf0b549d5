//! Questions at the terminal.

use std::io::IsTerminal;

use inquire::{Text, ui::RenderConfig};

use crate::{
    config::unquoted,
    model::{Error, ErrorKind, Result},
    report::Reporter,
    system::{
        os::TerminalMode,
        shutdown::{Shutdown, StopReason},
    },
};

/// Checks that questions can be asked.
///
/// # Errors
/// Standard input or standard error is not a terminal.
pub fn require_terminal() -> Result<()> {
    let is_terminal = |name: &'static str, is: bool| (!is).then_some(name);
    let missing = is_terminal("standard input", std::io::stdin().is_terminal())
        .or_else(|| is_terminal("standard error", std::io::stderr().is_terminal()));
    missing.map_or(Ok(()), |stream| {
        let message = format!("--interactive needs a terminal, but {stream} is not one");
        Err(Error::new(ErrorKind::Usage, message)
            .with_remedy("run it at a terminal, or give --source, --target and --yes"))
    })
}

/// Asks questions until the run is stopped.
pub(super) struct Prompt<'a> {
    shutdown: &'a Shutdown,
    reporter: &'a Reporter,
}

/// The user pressed Ctrl-C or Ctrl-D, or a signal arrived: the run stops.
pub(super) struct Stopped;

impl<'a> Prompt<'a> {
    pub(super) fn new(shutdown: &'a Shutdown, reporter: &'a Reporter) -> Self {
        Self { shutdown, reporter }
    }

    /// Asks for a line of text, until `read` can read it. The message for an invalid answer is printed, and the question is
    /// asked again with an empty field.
    pub(super) async fn ask<T>(
        &self,
        question: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Stopped> {
        loop {
            // A pasted path may have blanks and quotes around it.
            match read(unquoted(self.line(question.to_owned()).await?.trim())) {
                Ok(answer) => return Ok(answer),
                Err(what) => {
                    let palette = self.reporter.palette();
                    self.reporter.say(&palette.warning(&format!("✗ {what}")));
                }
            }
        }
    }

    /// Asks for yes or no. There is no default, since yes may write to the target.
    pub(super) async fn yes(&self, question: &str) -> Result<bool, Stopped> {
        self.ask(question, |answer| {
            yes_or_no(answer).ok_or_else(|| "enter y or n".to_owned())
        })
        .await
    }

    fn look(&self) -> RenderConfig<'static> {
        if self.reporter.palette().is_colored() {
            RenderConfig::default_colored()
        } else {
            RenderConfig::empty()
        }
    }

    /// Asks on a separate thread, since waiting for the answer blocks.
    async fn line(&self, question: String) -> Result<String, Stopped> {
        let look = self.look();
        let question = move || Text::new(&question).with_render_config(look).prompt();
        // A signal leaves the question open, and with it the terminal in the mode that reads single keys.
        let _mode = TerminalMode::keep();
        let answer = tokio::task::spawn_blocking(question);
        let answer = tokio::select! {
            () = self.shutdown.stopped() => return Err(Stopped),
            answer = answer => answer,
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            // Ctrl-C, Ctrl-D, Escape, or the terminal was closed.
            Ok(Err(_)) | Err(_) => {
                self.shutdown.stop(StopReason::Interrupted);
                Err(Stopped)
            }
        }
    }
}

/// Reads yes or no.
pub(super) fn yes_or_no(answer: &str) -> Option<bool> {
    match answer.to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(true),
        "n" | "no" => Some(false),
        _ => None,
    }
}

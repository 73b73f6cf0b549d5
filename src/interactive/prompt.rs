//! Questions at the terminal.

use std::io::IsTerminal;

use inquire::{
    Confirm, InquireError, Text,
    ui::RenderConfig,
    validator::{StringValidator, Validation},
};

use crate::{
    model::{Error, ErrorKind, Result},
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
    colored: bool,
}

/// The user pressed Ctrl-C or Ctrl-D, or a signal arrived: the run stops.
pub(super) struct Stopped;

impl<'a> Prompt<'a> {
    pub(super) fn new(shutdown: &'a Shutdown, colored: bool) -> Self {
        Self { shutdown, colored }
    }

    /// Asks for a line of text, until `check` returns no message.
    pub(super) async fn text(
        &self,
        question: String,
        check: impl Fn(&str) -> Result<(), String> + Clone + Send + 'static,
    ) -> Result<String, Stopped> {
        let look = self.look();
        self.ask(move || {
            Text::new(&question)
                .with_render_config(look)
                .with_validator(validator(check))
                .prompt()
        })
        .await
    }

    /// Asks for yes or no. There is no default, since yes may write to the target.
    pub(super) async fn yes(&self, question: &'static str) -> Result<bool, Stopped> {
        let look = self.look();
        self.ask(move || {
            Confirm::new(question)
                .with_error_message("enter y or n")
                .with_render_config(look)
                .prompt()
        })
        .await
    }

    fn look(&self) -> RenderConfig<'static> {
        if self.colored {
            RenderConfig::default_colored()
        } else {
            RenderConfig::empty()
        }
    }

    /// Asks on a separate thread, since waiting for the answer blocks.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, InquireError> + Send + 'static,
    ) -> Result<T, Stopped> {
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

fn validator(check: impl Fn(&str) -> Result<(), String> + Clone + 'static) -> impl StringValidator + Clone {
    move |answer: &str| {
        Ok(match check(answer) {
            Ok(()) => Validation::Valid,
            Err(what) => Validation::Invalid(what.into()),
        })
    }
}

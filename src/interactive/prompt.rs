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

/// Makes sure that somebody can be asked.
///
/// # Errors
/// Standard input or standard error is no terminal.
pub fn require_terminal() -> Result<()> {
    let is_terminal = |name: &'static str, is: bool| (!is).then_some(name);
    let missing = is_terminal("standard input", std::io::stdin().is_terminal())
        .or_else(|| is_terminal("standard error", std::io::stderr().is_terminal()));
    missing.map_or(Ok(()), |stream| {
        let message = format!("--interactive needs a terminal, and {stream} is none");
        Err(Error::new(ErrorKind::Usage, message)
            .with_remedy("run it at a terminal, or name --source and --target and add --yes"))
    })
}

/// Asks a person, until the run is to stop.
pub(super) struct Prompt<'a> {
    shutdown: &'a Shutdown,
    colored: bool,
}

/// The person pressed Ctrl-C or Ctrl-D, or a signal came: the run is to stop.
pub(super) struct Stopped;

impl<'a> Prompt<'a> {
    pub(super) fn new(shutdown: &'a Shutdown, colored: bool) -> Self {
        Self { shutdown, colored }
    }

    /// A line of text. `check` says what is wrong with an answer, which is then asked for again.
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

    /// A yes or no. There is no default: what writes to a target is said in so many letters.
    pub(super) async fn yes(&self, question: &'static str) -> Result<bool, Stopped> {
        let look = self.look();
        self.ask(move || {
            Confirm::new(question)
                .with_error_message("y or n is expected")
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

    /// Asks on a thread of its own, since the answer is waited for without an end.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, InquireError> + Send + 'static,
    ) -> Result<T, Stopped> {
        // A signal leaves the question where it is, and with it the mode in which it reads single keys.
        let _mode = TerminalMode::keep();
        let answer = tokio::task::spawn_blocking(question);
        let answer = tokio::select! {
            () = self.shutdown.stopped() => return Err(Stopped),
            answer = answer => answer,
        };
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            // Ctrl-C, Ctrl-D, Escape, or a terminal that is gone: there is nobody to ask any more.
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

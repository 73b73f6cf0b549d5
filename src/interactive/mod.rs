//! Guided mode: asks at the terminal for the settings that flags and job file leave open.
//!
//! Answers are stored as if they were flags and are resolved as for any other run, which is then carried out by the same
//! [`Run`]. The order is that of the guide to LightRAG's tool: settings, connection and records of the source, the same for
//! the target, then the confirmation.
//!
//! * `menu`: the numbered storages.
//! * `prompt`: questions at the terminal.
//! * `words`: text between the questions.

mod menu;
mod prompt;
mod words;

use std::path::Path;

pub use prompt::require_terminal;

use self::{
    menu::{Choice, Menu},
    prompt::{Prompt, Stopped},
    words::Words,
};
use crate::{
    config::{Environment, JobFile, Options, configured_workspace, resolve_lightrag},
    engine::{Connected, Prepared, run::Run},
    model::{
        Error, ErrorKind, LightRag, Mode, NamedPair, Rekey, Result, Settings, Side, Workspace,
        WorkspaceChoice, WorkspacePair,
    },
    report::RunOutcome,
    storage::{Connector, Endpoint, Source, Target},
};

/// Asks the questions and carries out the run.
///
/// # Errors
/// An error that another answer cannot fix, or the error of the run.
pub async fn guide(run: &Run<'_>, flags: &Options, job: &JobFile) -> Result<RunOutcome> {
    let guide = Guide {
        run,
        job,
        flags: flags.clone(),
        prompt: Prompt::new(run.shutdown, run.reporter.palette().is_colored()),
        words: Words::new(run.reporter.palette()),
    };
    match guide.follow().await {
        Ok(ending) => Ok(ending),
        Err(Abort::Out) => Ok(RunOutcome::Left),
        Err(Abort::Stopped) => Ok(run.stopped()),
        Err(Abort::Failed(error)) => Err(error),
    }
}

struct Guide<'a> {
    run: &'a Run<'a>,
    job: &'a JobFile,
    /// The flags, with the answers.
    flags: Options,
    prompt: Prompt<'a>,
    words: Words,
}

/// Why the questions ended early.
enum Abort {
    /// The user chose to exit.
    Out,
    /// A signal or a limit stopped the run.
    Stopped,
    /// An error that another answer cannot fix.
    Failed(Error),
}

impl From<Stopped> for Abort {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Step<T> = std::result::Result<T, Abort>;

/// A chosen side and its open connection.
struct Chosen<T: ?Sized> {
    endpoint: Endpoint,
    connected: Connected<T>,
}

impl Guide<'_> {
    async fn follow(mut self) -> Step<RunOutcome> {
        let source = self.source().await?;
        let target = self.target(&source).await?;
        let workspaces = self.workspaces(source.endpoint.connector, target.endpoint.connector)?;
        let prepared = self.run.prepare(source.connected, target.connected, &workspaces);
        let prepared = self.unless_stopped(prepared).await??;
        let rekeyed = self.offer_copies(&prepared).await?;
        let confirmed = self.confirm(&prepared).await?;
        let run = Run {
            settings: rekeyed.as_ref().unwrap_or(self.run.settings),
            ..*self.run
        };
        Ok(run.carry_out(&prepared, confirmed).await?)
    }

    /// Asks for a source until one can be read.
    async fn source(&mut self) -> Step<Chosen<dyn Source>> {
        let is_given = Endpoint::is_named(Side::Source, &self.flags, self.job);
        loop {
            if !is_given {
                let chosen = self.choose(Menu::all(Side::Source)).await?;
                self.flags.source = Some(self.place(Side::Source, chosen).await?.into());
            }
            match self.look_at_source().await? {
                Ok(chosen) => return Ok(chosen),
                Err(error) => self.again_unless(is_given, error)?,
            }
        }
    }

    /// Asks for a target until one can be connected to.
    async fn target(&mut self, source: &Chosen<dyn Source>) -> Step<Chosen<dyn Target>> {
        let is_given = Endpoint::is_named(Side::Target, &self.flags, self.job);
        let source = source.endpoint.connector;
        let given_workspace = self.flags.target_workspace.clone();
        loop {
            if !is_given {
                let chosen = self.choose(Menu::without(source)).await?;
                self.flags.target = Some(self.place(Side::Target, chosen).await?.into());
                self.flags.target_workspace = given_workspace.clone();
                // The place of others was asked for already.
                if chosen.kind() == source.kind() && chosen.info().class_name.is_some() {
                    self.tell_apart(source).await?;
                }
            }
            match self.look_at_target(source).await? {
                Ok(chosen) => return Ok(chosen),
                Err(error) => self.again_unless(is_given, error)?,
            }
        }
    }

    /// Asks for a storage of a menu.
    async fn choose(&self, mut menu: Menu) -> Step<&'static dyn Connector> {
        loop {
            self.run.reporter.say(&format!("\n{}", menu.list()));
            let known = menu.clone();
            let check = move |answer: &str| known.read(answer).map(drop);
            let answer = self.prompt.text(menu.question(), check).await?;
            match menu.read(&answer) {
                Ok(Choice::Storage(connector)) => return Ok(connector),
                Ok(Choice::ShowAll) => menu = Menu::all(Side::Target),
                Ok(Choice::Leave) | Err(_) => return Err(Abort::Out),
            }
        }
    }

    /// Where a storage is: LightRAG's configuration knows it by the kind, unless LightRAG has no such storage.
    async fn place(&self, side: Side, storage: &'static dyn Connector) -> Step<String> {
        if storage.info().class_name.is_some() {
            return Ok(storage.kind().to_owned());
        }
        let check = move |answer: &str| match Endpoint::named(side, answer.trim()) {
            Ok(named) if named.connector.kind() == storage.kind() => Ok(()),
            Ok(_) => {
                let endings = storage.info().path_endings.join(" or ");
                Err(format!("enter a path that ends in {endings}"))
            }
            Err(error) => Err(error.message().to_owned()),
        };
        let question = format!("Path of the {side} ({}):", storage.title().to_lowercase());
        let place = self.prompt.text(question, check).await?;
        Ok(place.trim().to_owned())
    }

    /// Asks for address and workspace of a target of the source's kind.
    async fn tell_apart(&mut self, source: &'static dyn Connector) -> Step<()> {
        let check = |answer: &str| match answer.trim() {
            "" => Ok(()),
            place => Endpoint::named(Side::Target, place)
                .map(drop)
                .map_err(|error| error.message().to_owned()),
        };
        let question = "Address or path of the target (Enter for the same as the source):";
        let place = self.prompt.text(question.to_owned(), check).await?;
        if !place.trim().is_empty() {
            self.flags.target = Some(place.trim().to_owned().into());
        }
        if WorkspaceChoice::is_named(&self.flags, self.job) {
            return Ok(());
        }
        let configured = self.settled(configured_workspace(source, &self.environment()))?;
        let workspace = configured.unwrap_or_default().workspace;
        let question = format!("Workspace of the target (Enter for {workspace}):");
        let check = |answer: &str| {
            let workspace = Workspace::new(answer.trim());
            workspace.map(drop).map_err(|error| error.message().to_owned())
        };
        let answer = self.prompt.text(question, check).await?;
        if !answer.trim().is_empty() {
            self.flags.target_workspace = Some(answer.trim().to_owned());
            // A name for one side only would count for both, so the source's is set to the one that was shown.
            self.flags.source_workspace = Some(workspace.name().to_owned());
        }
        Ok(())
    }

    async fn look_at_source(&self) -> Step<Result<Chosen<dyn Source>>> {
        let endpoint = match self.endpoint(Side::Source)? {
            Ok(endpoint) => endpoint,
            Err(error) => return Ok(Err(error)),
        };
        // The workspaces of the source do not depend on the target.
        let workspaces = self.workspaces(endpoint.connector, endpoint.connector)?;
        let looked = async {
            let mut connected = self.run.connect_source(&endpoint).await?;
            self.say(&self.words.connected(&connected.storage.location()));
            let pairs = self.run.pairs(&*connected.storage, &workspaces).await?;
            for WorkspacePair { from, .. } in pairs {
                let counted = self.run.count_source(&mut connected, &from).await?;
                self.say(&self.words.counted(&from, &counted.count));
            }
            self.run.hint_if_empty(&mut connected, &workspaces).await;
            Ok(connected)
        };
        let looked = self.unless_stopped(looked).await?;
        Ok(looked.map(|connected| Chosen { endpoint, connected }))
    }

    async fn look_at_target(&self, source: &'static dyn Connector) -> Step<Result<Chosen<dyn Target>>> {
        let endpoint = match self.endpoint(Side::Target)? {
            Ok(endpoint) => endpoint,
            Err(error) => return Ok(Err(error)),
        };
        let workspaces = self.workspaces(source, endpoint.connector)?;
        let looked = async {
            let mut connected = self.run.connect_target(&endpoint).await?;
            self.say(&self.words.connected(&connected.storage.location()));
            // Only the source knows what `all` includes; these workspaces are listed before the confirmation.
            if let WorkspaceChoice::Pairs(pairs) = &workspaces {
                for NamedPair { to, .. } in pairs {
                    let to = self
                        .run
                        .settle(Side::Target, &*connected.storage, to, None)
                        .await?;
                    let counted = self.run.count_target(&mut connected, &to).await?;
                    self.say(&self.words.counted(&to, &counted.count));
                }
            }
            Ok(connected)
        };
        let looked = self.unless_stopped(looked).await?;
        Ok(looked.map(|connected| Chosen { endpoint, connected }))
    }

    /// Resolves the settings of a side and prints them with their origins.
    fn endpoint(&self, side: Side) -> Step<Result<Endpoint>> {
        let environment = self.environment();
        let resolved = Endpoint::resolve(side, &self.flags, self.job, &environment).and_then(|endpoint| {
            self.say(&self.words.settings(&endpoint));
            let workspace = if WorkspaceChoice::is_named(&self.flags, self.job) {
                None
            } else {
                Some(configured_workspace(endpoint.connector, &environment)?.unwrap_or_default())
            };
            self.say(&self.words.opening(&endpoint, workspace.as_ref()));
            Ok(endpoint)
        });
        Ok(resolved)
    }

    /// LightRAG's configuration, read again for each answer: the user may have added a missing setting.
    fn environment(&self) -> Environment {
        Environment::read(Path::new("."))
    }

    fn workspaces(
        &self,
        source: &'static dyn Connector,
        target: &'static dyn Connector,
    ) -> Step<WorkspaceChoice> {
        let environment = self.environment();
        self.settled(WorkspaceChoice::resolve(
            &self.flags,
            self.job,
            &environment,
            source,
            target,
        ))
    }

    /// Examines the first records and offers to add copies if LightRAG would look up other keys. Returns the settings with
    /// `--rekey host` if the user accepts.
    async fn offer_copies(&mut self, prepared: &[Prepared]) -> Step<Option<Settings>> {
        let given = self.run.settings;
        let has_records = prepared.iter().any(Prepared::has_records);
        if given.mode != Mode::Migrate || given.yes || given.lightrag.is_some() || !has_records {
            return Ok(None);
        }
        let mut flags = self.flags.clone();
        flags.hits = true;
        let mut settings = given.clone();
        settings.lightrag = self.settled(resolve_lightrag(&flags, self.job, &self.environment()))?;
        // Copies for a model that is not configured would be useless.
        let is_configured =
            |lightrag: &LightRag| !lightrag.named.models.is_empty() || !lightrag.named.hosts.is_empty();
        if !settings.lightrag.as_ref().is_some_and(is_configured) {
            return Ok(None);
        }
        let run = Run {
            settings: &settings,
            ..*self.run
        };
        let Some(sample) = self.unless_stopped(run.sample_hits(prepared)).await?? else {
            return Ok(None);
        };
        if sample.hits.total.other_host + sample.hits.total.older_scheme == 0 {
            return Ok(None);
        }
        self.say(&self.words.hits_of_sample(&sample));
        let question = "Add copies under the keys that LightRAG will look up (--rekey host)? (y/n)";
        settings.rekey = Rekey::Host;
        Ok(self.prompt.yes(question).await?.then_some(settings))
    }

    /// Asks whether to write, unless `--yes` is given or there is nothing to write.
    async fn confirm(&self, prepared: &[Prepared]) -> Step<bool> {
        let settings = self.run.settings;
        let has_records = prepared.iter().any(Prepared::has_records);
        if settings.mode != Mode::Migrate || settings.yes || !has_records {
            return Ok(true);
        }
        let (source, target) = {
            let stats = self.run.stats;
            (stats.location(Side::Source), stats.location(Side::Target))
        };
        self.say(
            &self
                .words
                .confirmation(source, target, prepared, settings.on_conflict),
        );
        if self.prompt.yes("Continue? (y/n)").await? {
            return Ok(true);
        }
        let error = Error::new(ErrorKind::NotConfirmed, "cancelled; nothing was written")
            .with_remedy("run it again and answer y to migrate");
        Err(Abort::Failed(error))
    }

    /// Prints the error of an answer, so that the question is asked again. If the value was not asked for, the error ends
    /// the run.
    fn again_unless(&self, is_given: bool, error: Error) -> Step<()> {
        if is_given {
            return Err(Abort::Failed(error));
        }
        self.run.reporter.say_error(&error);
        Ok(())
    }

    async fn unless_stopped<T>(&self, step: impl Future<Output = T>) -> Step<T> {
        tokio::select! {
            () = self.run.shutdown.stopped() => Err(Abort::Stopped),
            done = step => Ok(done),
        }
    }

    /// The result of something that another answer cannot fix.
    fn settled<T>(&self, result: Result<T>) -> Step<T> {
        result.map_err(Abort::Failed)
    }

    fn say(&self, text: &str) {
        self.run.reporter.say(text);
    }
}

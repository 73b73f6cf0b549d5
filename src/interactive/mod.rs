//! Guided mode: asks at the terminal for the settings that flags and job file leave open.
//!
//! Answers are stored as if they were flags and are resolved as for any other run, which is then carried out by the same
//! [`Run`]. The order is that of the guide to LightRAG's tool: settings, connection and records of the source, the same for
//! the target, then the confirmation.
//!
//! * `menu`: the numbered storages.
//! * `prompt`: questions at the terminal.
//! * `workspaces`: the numbered workspaces of the source.
//! * `words`: text between the questions.

mod menu;
mod prompt;
mod words;
mod workspaces;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

pub use prompt::require_terminal;

use self::{
    menu::{Choice, Menu},
    prompt::{Prompt, Stopped, yes_or_no},
    words::Words,
    workspaces::{Pick, Workspaces},
};
use crate::{
    config::{
        Environment, JobFile, Options, OwnFiles, command_line, configured_workspace, job_text,
        resolve_lightrag,
    },
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
pub async fn guide(
    run: &Run<'_>,
    flags: &Options,
    job: &JobFile,
    own_files: &OwnFiles,
) -> Result<RunOutcome> {
    let guide = Guide {
        run,
        job,
        own_files,
        flags: flags.clone(),
        prompt: Prompt::new(run.shutdown, run.reporter),
        picked: None,
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
    own_files: &'a OwnFiles,
    /// The flags, with the answers.
    flags: Options,
    /// What was picked from the workspaces of the source.
    picked: Option<Pick>,
    prompt: Prompt<'a>,
    words: Words,
}

/// An answer before the first write.
enum Confirmation {
    Yes,
    No,
    /// Save the settings first.
    Save,
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

/// The message for an invalid answer, with the remedy.
fn in_one_line(error: &Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{}: {remedy}", error.message()),
        None => error.message().to_owned(),
    }
}

impl Guide<'_> {
    async fn follow(mut self) -> Step<RunOutcome> {
        let source = self.source().await?;
        let target = self.target(&source).await?;
        let workspaces = self.workspaces(source.endpoint.connector, target.endpoint.connector)?;
        let prepared = self.run.prepare(source.connected, target.connected, &workspaces);
        let prepared = self.unless_stopped(prepared).await??;
        let rekeyed = self.offer_copies(&prepared).await?;
        if let Some(settings) = &rekeyed {
            self.flags.rekey = Some(settings.rekey);
        }
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
            match self.look_at_source(!is_given).await? {
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
            match self
                .prompt
                .ask(&menu.question(), |answer| menu.read(answer))
                .await?
            {
                Choice::Storage(connector) => return Ok(connector),
                Choice::ShowAll => menu = Menu::all(Side::Target),
                Choice::Leave => return Err(Abort::Out),
            }
        }
    }

    /// Where a storage is: LightRAG's configuration knows it by the kind, unless LightRAG has no such storage.
    async fn place(&self, side: Side, storage: &'static dyn Connector) -> Step<String> {
        if storage.info().class_name.is_some() {
            return Ok(storage.kind().to_owned());
        }
        let expected = || {
            let endings = storage.info().path_endings.join(" or ");
            format!("enter a path that ends in {endings}")
        };
        let read = |answer: &str| match Endpoint::kind_named(answer) {
            _ if answer.is_empty() => Err(expected()),
            Ok(named) if named.kind() == storage.kind() => Ok(answer.to_owned()),
            Ok(_) => Err(expected()),
            Err(error) => Err(in_one_line(&error)),
        };
        let question = format!("Path of the {side} ({}):", storage.title().to_lowercase());
        Ok(self.prompt.ask(&question, read).await?)
    }

    /// Asks for address and workspace of a target of the source's kind.
    async fn tell_apart(&mut self, source: &'static dyn Connector) -> Step<()> {
        let read = |answer: &str| match answer {
            "" => Ok(None),
            place => Endpoint::kind_named(place)
                .map(|_| Some(place.to_owned()))
                .map_err(|error| in_one_line(&error)),
        };
        let question = "Address or path of the target (Enter for the same as the source):";
        if let Some(place) = self.prompt.ask(question, read).await? {
            self.flags.target = Some(place.into());
        }
        let workspace = match &self.picked {
            Some(Pick::These(these)) if these.len() == 1 => these[0].clone(),
            _ if WorkspaceChoice::is_named(&self.flags, self.job) => return Ok(()),
            _ => {
                let configured = self.settled(configured_workspace(source, &self.environment()))?;
                configured.unwrap_or_default().workspace
            }
        };
        let question = format!("Workspace of the target (Enter for {workspace}):");
        let read = |answer: &str| {
            let read = Workspace::new(answer).map(|_| answer.to_owned());
            read.map_err(|error| in_one_line(&error))
        };
        let answer = self.prompt.ask(&question, read).await?;
        if !answer.is_empty() {
            self.flags.target_workspace = Some(answer);
            // A name for one side only would count for both, so the source's is set to the one that was shown.
            self.flags.source_workspace = Some(workspace.name().to_owned());
        }
        Ok(())
    }

    /// Lets the user pick from the workspaces of the source, if it has several and none is named.
    async fn pick_workspaces(&mut self, endpoint: &Endpoint, connected: &Connected<dyn Source>) -> Step<()> {
        if self.picked.take().is_some() {
            // For another source, they were forgotten.
            self.flags.source_workspace = None;
            self.flags.workspace_map.clear();
            self.flags.all_workspaces = false;
        }
        if WorkspaceChoice::is_named(&self.flags, self.job) {
            return Ok(());
        }
        // What fails here fails again in the next request, which is retried and reported.
        let Ok(listing) = self.unless_stopped(connected.storage.workspaces()).await? else {
            return Ok(());
        };
        let configured = self.settled(configured_workspace(endpoint.connector, &self.environment()))?;
        let configured = configured.unwrap_or_default().workspace;
        let Some(menu) = Workspaces::new(listing.found, configured) else {
            return Ok(());
        };
        self.say(&format!("\n{}", menu.list(self.words.width())));
        let picked = self
            .prompt
            .ask(&menu.question(), |answer| menu.read(answer))
            .await?;
        match &picked {
            Pick::Configured => {}
            Pick::All => self.flags.all_workspaces = true,
            Pick::These(these) => match these.as_slice() {
                [one] => self.flags.source_workspace = Some(one.name().to_owned()),
                several => {
                    let pairs = several.iter().map(|name| format!("{0}={0}", name.name()));
                    self.flags.workspace_map = pairs.collect();
                }
            },
        }
        self.picked = Some(picked);
        Ok(())
    }

    async fn look_at_source(&mut self, may_pick: bool) -> Step<Result<Chosen<dyn Source>>> {
        let endpoint = match self.endpoint(Side::Source)? {
            Ok(endpoint) => endpoint,
            Err(error) => return Ok(Err(error)),
        };
        let mut connected = match self.unless_stopped(self.run.connect_source(&endpoint)).await? {
            Ok(connected) => connected,
            Err(error) => return Ok(Err(error)),
        };
        self.say(&self.words.connected(&connected.storage.location()));
        if may_pick {
            self.pick_workspaces(&endpoint, &connected).await?;
        }
        // The workspaces of the source do not depend on the target.
        let workspaces = self.workspaces(endpoint.connector, endpoint.connector)?;
        let looked = async {
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
        if let Ok(endpoint) = &resolved {
            // Another answer would not help: the report of this run is written whatever the answers are.
            self.own_files.check_storage(endpoint, self.run.reporter)?;
        }
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
        self.say(&self.words.command(&command_line(&self.without_questions(true))));
        loop {
            match self.ask_to_continue().await? {
                Confirmation::Yes => return Ok(true),
                Confirmation::Save => self.save_job().await?,
                Confirmation::No => {
                    let error = Error::new(ErrorKind::NotConfirmed, "cancelled; nothing was written")
                        .with_remedy("run it again and answer y to migrate");
                    return Err(Abort::Failed(error));
                }
            }
        }
    }

    /// Asks whether to write. Settings can be saved as a job file unless they are in one.
    async fn ask_to_continue(&self) -> Step<Confirmation> {
        let (question, expected) = match self.flags.job {
            None => ("Continue? (y/n, s to save a job file first)", "enter y, n or s"),
            Some(_) => ("Continue? (y/n)", "enter y or n"),
        };
        let read = |answer: &str| match yes_or_no(answer) {
            Some(true) => Ok(Confirmation::Yes),
            Some(false) => Ok(Confirmation::No),
            None if self.flags.job.is_none() && answer.eq_ignore_ascii_case("s") => Ok(Confirmation::Save),
            None => Err(expected.to_owned()),
        };
        Ok(self.prompt.ask(question, read).await?)
    }

    /// The flags for the same run without questions.
    fn without_questions(&self, yes: bool) -> Options {
        let mut flags = self.flags.clone();
        flags.interactive = false;
        flags.yes = yes;
        flags
    }

    /// Asks for a path and saves the settings there as a job file.
    async fn save_job(&self) -> Step<()> {
        let read = |answer: &str| {
            let path = Path::new(answer);
            if !answer.is_empty() && path.exists() {
                return Err(format!("{answer} exists already; enter another path"));
            }
            match self.own_files.flag_of(path) {
                Some(flag) => Err(format!("{answer} is the file of {flag}; enter another path")),
                None => Ok(path.to_owned()),
            }
        };
        let question = "Path of the job file, such as job.yaml (Enter to go back):";
        let path: PathBuf = self.prompt.ask(question, read).await?;
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        let saved = job_text(&self.without_questions(false), &self.environment()).and_then(|text| {
            let created = std::fs::File::create_new(&path);
            created
                .and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| Error::config(format!("cannot write {}: {error}", path.display())))
        });
        match saved {
            Ok(()) => self.say(&self.words.saved(&path)),
            Err(error) => self.run.reporter.say_error(&error),
        }
        Ok(())
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

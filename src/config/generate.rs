//! Shell completions, the man page, a job file, its schema.

use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::{Shell, aot};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{
    Environment, Options,
    cli::{EXAMPLES, EXIT_CODES, STORAGES},
    job_text::job_text,
    options::flag_of,
    schema,
};
use crate::{
    model::{Error, ErrorKind, Result, WORKSPACE_VARIABLE},
    report::{TOOL, logging::RUST_LOG},
    storage::connectors,
};

/// What `--generate` prints to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// Completions for bash.
    CompletionsBash,
    /// Completions for zsh.
    CompletionsZsh,
    /// Completions for fish.
    CompletionsFish,
    /// The man page.
    Man,
    /// A job file made from the other flags, with every field explained.
    Job,
    /// The JSON Schema of job files, for editors.
    Schema,
}

/// The generated text.
///
/// # Errors
/// Other flags, of which only a job file is made; or one that is not valid.
pub(super) fn text(what: Generate, flags: &Options) -> Result<String> {
    if what != Generate::Job {
        check_alone(flags)?;
    }
    let shell = match what {
        Generate::CompletionsBash => Shell::Bash,
        Generate::CompletionsZsh => Shell::Zsh,
        Generate::CompletionsFish => Shell::Fish,
        Generate::Man => return Ok(man_page()),
        Generate::Schema => return Ok(schema::text()),
        Generate::Job => return job_text(flags, &Environment::read(Path::new("."))),
    };
    let mut command = Options::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    aot::generate(shell, &mut command, name, &mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Refuses flags that have no effect.
fn check_alone(flags: &Options) -> Result<()> {
    let given = flags.given();
    let others = given.iter().filter_map(|(entry, _)| flag_of(entry));
    let others: Vec<&str> = others.filter(|flag| *flag != "--generate").collect();
    if others.is_empty() {
        return Ok(());
    }
    let message = format!("--generate cannot be used with {}", others.join(", "));
    Err(Error::new(ErrorKind::Usage, message)
        .with_remedy("leave them out; only --generate job takes other flags"))
}

/// The man page. What `--help` lists after the flags has its own sections: EXAMPLES, ENVIRONMENT, EXIT STATUS.
fn man_page() -> String {
    let mut page = Roff::new();
    let man = Man::new(Options::command())
        .title(TOOL.to_uppercase())
        .manual("User Commands");
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text));
    page.control("SH", ["STORAGES"]).text([roman(STORAGES)]);
    preformatted(page.control("SH", ["EXAMPLES"]), EXAMPLES);
    environment(page.control("SH", ["ENVIRONMENT"]));
    preformatted(page.control("SH", ["EXIT STATUS"]), EXIT_CODES);
    text.extend_from_slice(page.render().as_bytes());
    String::from_utf8_lossy(&text).into_owned()
}

/// Text whose line breaks are preserved.
fn preformatted(page: &mut Roff, text: &str) {
    page.control("nf", []);
    for line in text.lines() {
        page.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    page.control("fi", []);
}

/// LightRAG's variables, from the tables of the storages, and those of this program.
fn environment(page: &mut Roff) {
    page.text([roman(
        "If --source or --target is a kind without an address, the address is read from LightRAG's variables. A variable \
         that the process does not have is looked up in .env and config.ini in the current directory, as LightRAG does.",
    )]);
    let variables = connectors().iter().flat_map(|connector| {
        let fields = connector.fields().iter();
        let variables = fields.flat_map(|field| {
            let names = [field.variable, field.client_variable];
            names.into_iter().flatten().map(|name| (name, field.help))
        });
        let workspace = connector.workspace_variable().map(|name| (name, "the workspace"));
        variables.chain(workspace)
    });
    let own = [
        (
            WORKSPACE_VARIABLE,
            "the workspace of every storage that has no workspace variable of its own",
        ),
        (RUST_LOG, "filters the log if --log-level is not given"),
    ];
    for (name, help) in variables.chain(own) {
        page.control("TP", []).text([bold(name)]).text([roman(help)]);
    }
}

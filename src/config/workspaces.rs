//! Resolves the workspaces of a run.

use super::{Environment, JobFile, endpoint::prefixed, options::Options, value::WorkspacesSpec};
use crate::{
    model::{
        Error, NamedPair, NamedWorkspace, Origin, Result, Side, Value, WORKSPACE_VARIABLE, Workspace,
        WorkspaceChoice,
    },
    storage::Connector,
};

impl WorkspaceChoice {
    /// Resolves the workspaces. Those of the source do not depend on the kind of the target, or the other way round.
    ///
    /// # Errors
    /// An invalid name, or an invalid pair.
    pub fn resolve(
        flags: &Options,
        job: &JobFile,
        environment: &Environment,
        source: &dyn Connector,
        target: &dyn Connector,
    ) -> Result<Self> {
        if flags.all_workspaces {
            return Ok(Self::All);
        }
        if !flags.workspace_map.is_empty() {
            let pairs = flags.workspace_map.iter().map(|text| mapped_pair(text));
            return Ok(Self::Pairs(pairs.collect::<Result<_>>()?));
        }
        let mut from = flag_workspace(Side::Source, flags)?;
        let mut to = flag_workspace(Side::Target, flags)?;
        match job_workspaces(job)? {
            Some(choice) if from.is_none() && to.is_none() => return Ok(choice),
            Some(Self::Pairs(pairs)) if pairs.len() == 1 => {
                // A flag overrides the workspace of its own side only.
                for pair in pairs {
                    from = from.or(Some(pair.from));
                    to = to.or(Some(pair.to));
                }
            }
            Some(_) if from.is_none() || to.is_none() => {
                return Err(Error::config(
                    "a flag names the workspace of one side, but the job file names several workspaces",
                )
                .with_remedy(
                    "name the workspace of the other side with a flag too, or use --workspace-map",
                ));
            }
            _ => {}
        }
        // A side without a workspace takes the name that a flag or the job file gives the other side.
        let source = match &from {
            Some(_) => None,
            None => configured_workspace(source, environment)?,
        };
        let target = match &to {
            Some(_) => None,
            None => configured_workspace(target, environment)?,
        };
        let chosen = |own: &Option<NamedWorkspace>, configured, other: &Option<NamedWorkspace>| {
            own.clone()
                .or(configured)
                .or_else(|| other.clone())
                .unwrap_or_default()
        };
        Ok(Self::Pairs(vec![NamedPair {
            from: chosen(&from, source, &to),
            to: chosen(&to, target, &from),
        }]))
    }

    /// Whether flags or the job file name workspaces.
    pub fn is_named(flags: &Options, job: &JobFile) -> bool {
        flags.all_workspaces
            || flags.workspace.is_some()
            || !flags.workspace_map.is_empty()
            || flags.source_workspace.is_some()
            || flags.target_workspace.is_some()
            || job.options.workspaces.is_some()
    }
}

/// The workspace of a side, if a flag names it.
fn flag_workspace(side: Side, flags: &Options) -> Result<Option<NamedWorkspace>> {
    let own = match side {
        Side::Source => ("--source-workspace", &flags.source_workspace),
        Side::Target => ("--target-workspace", &flags.target_workspace),
    };
    let flags = [own, ("--workspace", &flags.workspace)];
    let given = flags
        .into_iter()
        .find_map(|(flag, name)| name.as_ref().map(|name| (flag, name)));
    given
        .map(|(flag, name)| named_workspace(name, Origin::Flag(flag)))
        .transpose()
}

/// `FROM=TO`.
fn mapped_pair(text: &str) -> Result<NamedPair> {
    const FLAG: &str = "--workspace-map";
    let (from, to) = text.split_once('=').ok_or_else(|| {
        Error::config(format!("{FLAG}: expected FROM=TO, found `{text}`"))
            .with_remedy(format!("write {FLAG} {}", with_equals_sign(text)))
    })?;
    Ok(NamedPair {
        from: named_workspace(from, Origin::Flag(FLAG))?,
        to: named_workspace(to, Origin::Flag(FLAG))?,
    })
}

/// What `FROM=TO` was meant by a text without an equals sign, or an example.
fn with_equals_sign(text: &str) -> String {
    let separated = ["->", "→", ":"]
        .into_iter()
        .find_map(|other| text.split_once(other));
    let (from, to) = separated.unwrap_or((text, text));
    let names = [from.trim(), to.trim()];
    // A misplaced address may contain a password.
    if names.iter().all(|name| Workspace::new(*name).is_ok()) && !text.contains(['@', '/']) {
        names.join("=")
    } else {
        "space1=space2".to_owned()
    }
}

/// The workspaces that the job file names.
fn job_workspaces(job: &JobFile) -> Result<Option<WorkspaceChoice>> {
    let pairs = match &job.options.workspaces {
        None => return Ok(None),
        Some(WorkspacesSpec::All) => return Ok(Some(WorkspaceChoice::All)),
        Some(WorkspacesSpec::Pairs(pairs)) => pairs,
    };
    let pairs = pairs.iter().enumerate().map(|(at, (from, to))| {
        let path = format!("workspaces[{at}]");
        let named = |name: &str| {
            let workspace = Workspace::new(name).map_err(|error| job.error(&path, error.message()))?;
            let origin = job.origin("workspaces");
            Ok(NamedWorkspace::new(workspace, origin))
        };
        Ok(NamedPair {
            from: named(from)?,
            to: named(to)?,
        })
    });
    Ok(Some(WorkspaceChoice::Pairs(pairs.collect::<Result<_>>()?)))
}

fn named_workspace(name: &str, origin: Origin) -> Result<NamedWorkspace> {
    match Workspace::new(name) {
        Ok(workspace) => Ok(NamedWorkspace::new(workspace, origin)),
        Err(error) => Err(prefixed(&origin.to_string(), error)),
    }
}

/// The workspace in LightRAG's configuration for this storage: from its own variable, its key in `config.ini`, or
/// `WORKSPACE`. `None` if all are unset; LightRAG then uses the empty workspace.
///
/// LightRAG's server replaces what no workspace can have in its name, but only in `WORKSPACE`.
///
/// # Errors
/// An invalid name, or a file that cannot be read.
pub fn configured_workspace(
    connector: &dyn Connector,
    environment: &Environment,
) -> Result<Option<NamedWorkspace>> {
    let own = match connector.workspace_variable() {
        Some(variable) => environment.variable(variable)?,
        None => None,
    };
    let own = match (own, connector.ini_section(), connector.workspace_ini_key()) {
        // An empty variable overrides the key, and then counts as unset.
        (None, Some(section), Some(key)) => environment.ini(section, key)?,
        (own, ..) => own,
    };
    let own = own.filter(|value| !connector.workspace_name(value.text.expose()).is_empty());
    if let Some(Value { text, origin }) = own {
        return named_workspace(connector.workspace_name(text.expose()), origin).map(Some);
    }
    match environment.variable(WORKSPACE_VARIABLE)? {
        Some(Value { text, origin }) if !text.expose().is_empty() => {
            let text = text.expose();
            // The password of an address, or of a parameter, would not be recognized in the name that is made of it.
            if Workspace::new(text).is_ok() || text.contains(['@', ':', '=']) {
                return named_workspace(text, origin).map(Some);
            }
            Ok(Some(NamedWorkspace {
                workspace: Workspace::named_by_server(text),
                origin,
                renamed_from: Some(text.to_owned()),
            }))
        }
        _ => Ok(None),
    }
}

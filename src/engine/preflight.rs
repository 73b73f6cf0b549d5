//! Checks before the first write: which workspaces are meant, and whether any place would be read and written at once.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};

use super::{
    connect::Connected,
    plan::{AT_ONCE, Prepared},
    retry::RequestContext,
    run::Run,
};
use crate::{
    model::{
        Error, ErrorKind, LeftOut, Mode, NamedPair, NamedWorkspace, PhysicalLocation, Rekey, Result, Side,
        WORKSPACE_VARIABLE, Workspace, WorkspaceChoice, WorkspacePair, nearest, number_of,
    },
    report::{WarningEvent, WarningKind},
    storage::{Connection, Source, Target, UnreadableWorkspace, WorkspaceListing},
};

impl Run<'_> {
    /// Checks, tells the plan and counts what was not counted yet.
    ///
    /// # Errors
    /// What ended the run.
    pub async fn prepare(
        &self,
        mut source: Connected<dyn Source>,
        mut target: Connected<dyn Target>,
        workspaces: &WorkspaceChoice,
    ) -> Result<Vec<Prepared>> {
        let types = self.settings.selection.names().into_iter().map(str::to_owned);
        self.stats.run(|run| run.types = types.collect());
        let pairs = self.pairs(&*source.storage, workspaces).await?;
        let pairs = self.with_targets(&*target.storage, workspaces, pairs).await?;
        self.tell_plan(&source, &target, workspaces, &pairs);
        let mut warnings = source.storage.warnings();
        warnings.extend(target.storage.warnings());
        self.warn_of(warnings);
        let in_place = self
            .check_places(&*source.storage, &*target.storage, &pairs)
            .await?;
        let mut prepared = self.prepare_pairs(&mut source, &mut target, pairs).await?;
        for pair in &mut prepared {
            pair.is_in_place = in_place.contains(&pair.pair.from);
        }
        self.check_workspaces(&*source.storage, workspaces, &prepared)
            .await?;
        self.check_shard(&prepared)?;
        prepared.iter().for_each(|pair| self.warn_of_missing_types(pair));
        let total: u64 = prepared.iter().map(|pair| pair.count.total()).sum();
        if total == 0 && self.settings.fail_on_empty {
            return Err(Error::new(ErrorKind::Empty, "the source has nothing to migrate")
                .with_remedy("check source, workspace and types, or leave out --fail-on-empty"));
        }
        self.hint_if_empty(&mut source, workspaces).await;
        Ok(prepared)
    }

    /// The pairs of workspaces of a choice. If the target has two candidate names, that is decided later.
    ///
    /// # Errors
    /// The source failed, or it has two caches of which LightRAG could mean either.
    pub async fn pairs(
        &self,
        source: &dyn Connection,
        workspaces: &WorkspaceChoice,
    ) -> Result<Vec<WorkspacePair>> {
        let WorkspaceChoice::Pairs(named) = workspaces else {
            let listing = self.list_workspaces(Side::Source, source).await?;
            let same = |workspace: Workspace| WorkspacePair {
                from: workspace.clone(),
                to: workspace,
            };
            for UnreadableWorkspace { name, reason } in listing.unreadable {
                self.stats.run(|run| run.is_incomplete = true);
                let message = format!("workspace {name} was not migrated: {reason}");
                self.warn(WarningEvent::new(WarningKind::Unreadable, message));
            }
            return Ok(listing.found.into_iter().map(same).collect());
        };
        let mut pairs = Vec::with_capacity(named.len());
        for NamedPair { from, to } in named {
            pairs.push(WorkspacePair {
                from: self.settle(Side::Source, source, from, None).await?,
                to: to.workspace.clone(),
            });
        }
        Ok(pairs)
    }

    /// The same pairs, with the names that the target has.
    ///
    /// # Errors
    /// The target failed, or it has two caches of which LightRAG could mean either.
    pub async fn with_targets(
        &self,
        target: &dyn Connection,
        workspaces: &WorkspaceChoice,
        mut pairs: Vec<WorkspacePair>,
    ) -> Result<Vec<WorkspacePair>> {
        if let WorkspaceChoice::Pairs(named) = workspaces {
            for (pair, named) in pairs.iter_mut().zip(named) {
                let form = (named.from.origin == named.to.origin).then_some(&pair.from);
                pair.to = self.settle(Side::Target, target, &named.to, form).await?;
            }
        }
        Ok(pairs)
    }

    /// Decides between the name in `WORKSPACE` and the one that LightRAG's server makes of it: the one that has a cache
    /// is meant. Where neither does, it is `otherwise`, which the other side has settled on, or the name as it is.
    ///
    /// # Errors
    /// The storage failed, or both hold a cache.
    pub async fn settle(
        &self,
        side: Side,
        storage: &dyn Connection,
        named: &NamedWorkspace,
        otherwise: Option<&Workspace>,
    ) -> Result<Workspace> {
        let as_it_is = &named.workspace;
        if let Some(text) = &named.renamed_from {
            let message = format!(
                "{side}: {} is {text:?}, which cannot be a workspace's name; LightRAG's server makes {as_it_is} of it, and \
                 that is used",
                named.origin
            );
            self.warn(WarningEvent::new(WarningKind::Workspace, message).in_workspace(as_it_is));
            return Ok(as_it_is.clone());
        }
        let of_server = as_it_is.as_server_names_it();
        if !named.origin.is_variable(WORKSPACE_VARIABLE) || of_server == *as_it_is {
            return Ok(as_it_is.clone());
        }
        let listing = match self.list_workspaces(side, storage).await {
            // A target that is not there yet has no workspaces.
            Err(error) if side == Side::Target && error.kind() == ErrorKind::NotFound => {
                WorkspaceListing::default()
            }
            listing => listing?,
        };
        let mut caches = BTreeSet::new();
        for workspace in listing.found {
            caches.insert(self.physical_location(side, storage, &workspace).await?);
        }
        let places = [
            self.physical_location(side, storage, as_it_is).await?,
            self.physical_location(side, storage, &of_server).await?,
        ];
        if places[0] == places[1] {
            return Ok(as_it_is.clone());
        }
        let chosen = match places.map(|place| caches.contains(&place)) {
            [true, true] => return Err(two_workspaces(side, named, &of_server)),
            [true, false] => as_it_is.clone(),
            [false, true] => of_server.clone(),
            [false, false] => otherwise.unwrap_or(as_it_is).clone(),
        };
        let message = format!(
            "{side}: {} is {as_it_is}, of which LightRAG's server makes {of_server}; the workspace is {chosen}, name it with \
             --{side}-workspace for another",
            named.origin
        );
        self.warn(WarningEvent::new(WarningKind::Workspace, message).in_workspace(&chosen));
        Ok(chosen)
    }

    /// Lists the workspaces of a storage. Without a time limit: some storages have to read everything for that, and each
    /// limits its own requests.
    async fn list_workspaces(&self, side: Side, storage: &dyn Connection) -> Result<WorkspaceListing> {
        let context = RequestContext::of(side, "listing workspaces");
        self.retrier()
            .unbounded()
            .run(context, async || storage.workspaces().await)
            .await
    }

    pub(super) async fn physical_location(
        &self,
        side: Side,
        storage: &dyn Connection,
        workspace: &Workspace,
    ) -> Result<PhysicalLocation> {
        let what = match side {
            Side::Source => "looking at the source",
            Side::Target => "looking at the target",
        };
        self.ask(side, what, async || storage.physical_location(workspace).await)
            .await
    }

    /// Each named workspace exists, unless it does not have to: one that has no entry at all may be misspelt. One that the
    /// source itself listed was cleared meanwhile.
    async fn check_workspaces(
        &self,
        source: &dyn Connection,
        workspaces: &WorkspaceChoice,
        prepared: &[Prepared],
    ) -> Result<()> {
        let empty: Vec<&Workspace> = prepared
            .iter()
            .filter(|pair| pair.count.is_empty())
            .map(|pair| &pair.pair.from)
            .collect();
        if empty.is_empty() || self.settings.allow_missing || *workspaces == WorkspaceChoice::All {
            return Ok(());
        }
        let listing = self.list_workspaces(Side::Source, source).await?;
        let Some(missing) = empty
            .into_iter()
            .find(|workspace| !listing.found.contains(workspace))
        else {
            return Ok(());
        };
        let unreadable = listing
            .unreadable
            .iter()
            .find(|other| other.name == missing.to_string());
        if let Some(UnreadableWorkspace { name, reason }) = unreadable {
            let message = format!("the workspace {name} cannot be read: {reason}");
            return Err(Error::new(ErrorKind::Permission, message).on(Side::Source));
        }
        let location = source.location().location;
        let message = match &listing.found[..] {
            [] => format!("{location} has no cache in any workspace"),
            found => {
                let names: Vec<String> = found.iter().map(ToString::to_string).collect();
                let meant = meant_workspace(missing.name(), found);
                format!(
                    "{location} has no cache in the workspace {missing}; it has caches in: {}{meant}",
                    names.join(", ")
                )
            }
        };
        let remedy = "check source and workspace, or add --allow-missing to accept a missing workspace";
        Err(Error::new(ErrorKind::Empty, message).with_remedy(remedy))
    }

    /// A file that is replaced as a whole cannot take the shards of several runs.
    fn check_shard(&self, prepared: &[Prepared]) -> Result<()> {
        let Some(shard) = self.settings.selection.shard().filter(|shard| shard.count() > 1) else {
            return Ok(());
        };
        let is_replaced = |pair: &&Prepared| !pair.target.is_visible_when_flushed();
        let Some(pair) = prepared.iter().find(is_replaced) else {
            return Ok(());
        };
        if self.settings.mode == Mode::Verify {
            return Ok(());
        }
        let message = format!(
            "the target {} is replaced as a whole by each run, so shard {shard} would replace the others",
            pair.target_storage.location().location
        );
        Err(Error::new(ErrorKind::Refused, message).with_remedy(
            "run once without --shard, or move the shards to a server and from there to the file",
        ))
    }

    /// A type that was named and is not there may be one that is, misspelt.
    fn warn_of_missing_types(&self, pair: &Prepared) {
        let (from, count) = (&pair.pair.from, &pair.count);
        let others = count.left_out.as_ref().map(LeftOut::list).unwrap_or_default();
        let is_there = |name: &str| {
            count
                .by_type
                .iter()
                .any(|(known, records)| known.as_str() == name && records > 0)
        };
        for name in self
            .settings
            .selection
            .named_types()
            .filter(|name| !is_there(name))
        {
            let known = others.iter().map(|other| other.kind.cache_type.as_str());
            if let Some(near) = nearest(name, known) {
                let message = format!("workspace {from} has no records of type {name}; did you mean {near}?");
                self.warn(WarningEvent::new(WarningKind::NothingSelected, message).in_workspace(from));
            }
        }
    }

    /// Warns once about what else the source has if nothing is selected.
    pub async fn hint_if_empty(&self, source: &mut Connected<dyn Source>, workspaces: &WorkspaceChoice) {
        let has_records = source.counted.values().any(|counted| counted.count.total() > 0);
        if has_records || source.is_told_empty {
            return;
        }
        let mut has_others = false;
        for (workspace, counted) in &source.counted {
            if let Some(others) = counted
                .count
                .left_out
                .as_ref()
                .filter(|others| others.total() > 0)
            {
                has_others = true;
                let message = others_in_words(workspace, others);
                let warning =
                    WarningEvent::new(WarningKind::NothingSelected, message).in_workspace(workspace);
                self.warn(warning.of_records(others.total()));
            }
        }
        if has_others || *workspaces == WorkspaceChoice::All {
            source.is_told_empty = true;
            return;
        }
        source.is_told_empty = true;
        let listing = self.list_workspaces(Side::Source, &*source.storage).await;
        let Ok(WorkspaceListing { found: others, .. }) = listing else {
            return;
        };
        // The workspace that was just read is none that may have been meant.
        let others: Vec<Workspace> = others
            .into_iter()
            .filter(|other| !source.counted.contains_key(other))
            .collect();
        if !others.is_empty() {
            let names: Vec<String> = others.iter().map(ToString::to_string).collect();
            let read = source.counted.keys().map(Workspace::name);
            let meant = read
                .map(|read| meant_workspace(read, &others))
                .find(|meant| !meant.is_empty());
            let message = format!(
                "the source has caches in these workspaces: {}{}",
                names.join(", "),
                meant.unwrap_or_default()
            );
            self.warn(WarningEvent::new(WarningKind::Workspace, message));
        }
    }

    /// No place may be read and written, and none may be written twice: records of different workspaces would meet in it.
    async fn check_places(
        &self,
        source: &dyn Connection,
        target: &dyn Connection,
        pairs: &[WorkspacePair],
    ) -> Result<BTreeSet<Workspace>> {
        let mut in_place = BTreeSet::new();
        let mut read: BTreeMap<PhysicalLocation, &Workspace> = BTreeMap::new();
        let mut written: BTreeMap<PhysicalLocation, &Workspace> = BTreeMap::new();
        let places = stream::iter(pairs)
            .map(|pair| async move {
                let from = self.physical_location(Side::Source, source, &pair.from).await?;
                let to = self.physical_location(Side::Target, target, &pair.to).await?;
                Ok((pair, from, to))
            })
            .buffered(AT_ONCE);
        let mut places = std::pin::pin!(places);
        while let Some((pair, from, to)) = places.next().await.transpose()? {
            for (seen, container, workspace, side) in [
                (&mut read, &from, &pair.from, Side::Source),
                (&mut written, &to, &pair.to, Side::Target),
            ] {
                if let Some(other) = seen.insert(container.clone(), workspace) {
                    return Err(met_before(side, container, workspace, other));
                }
            }
        }
        for (both, from) in &read {
            let Some(to) = written.get(both) else {
                continue;
            };
            let is_one_pair = pairs.iter().any(|pair| pair.from == **from && pair.to == **to);
            if self.settings.rekey == Rekey::Off || !is_one_pair {
                let message = format!("source and target are the same place: {}", both.place);
                let remedy = "name another target, or another workspace on one side";
                return Err(Error::new(ErrorKind::Refused, message).with_remedy(remedy));
            }
            in_place.insert((*from).clone());
        }
        Ok(in_place)
    }
}

/// Two workspaces of one side that are one place.
fn met_before(side: Side, place: &PhysicalLocation, workspace: &Workspace, other: &Workspace) -> Error {
    let place = &place.place;
    let (message, remedy) = if other == workspace {
        match side {
            Side::Source => (
                format!("the source workspace {workspace} is mapped twice: {place}"),
                "map each source workspace once",
            ),
            Side::Target => (
                format!("two source workspaces are mapped to the target workspace {workspace}: {place}"),
                "map each source workspace to a different target workspace",
            ),
        }
    } else {
        (
            format!("the workspaces {other} and {workspace} of the {side} are one and the same: {place}"),
            "move them one at a time, or map them to names that stay apart",
        )
    };
    Error::new(ErrorKind::Refused, message).with_remedy(remedy)
}

/// Two caches, of which LightRAG's server uses one and a program with LightRAG as a library the other.
fn two_workspaces(side: Side, named: &NamedWorkspace, of_server: &Workspace) -> Error {
    let (name, origin) = (&named.workspace, &named.origin);
    let message = format!(
        "{origin} is {name}, of which LightRAG's server makes {of_server}, and the {side} has a cache under both names"
    );
    Error::new(ErrorKind::Refused, message)
        .with_remedy(format!("name the one that is meant with --{side}-workspace"))
}

/// What a workspace has from which nothing is selected.
fn others_in_words(workspace: &Workspace, others: &LeftOut) -> String {
    const MOST_NAMED: usize = 8;
    let kinds = others.list();
    let named: Vec<String> = kinds
        .iter()
        .take(MOST_NAMED)
        .map(|others| format!("{} {}", others.kind, others.records))
        .collect();
    let more = if kinds.len() > MOST_NAMED { ", …" } else { "" };
    let is_recognized = kinds.iter().any(|others| others.kind.form.is_none());
    let remedy = if is_recognized {
        "name types with --types, or `all` for every record"
    } else {
        "no version of LightRAG reads such keys; --types all moves them as they are"
    };
    format!(
        "nothing is selected in the workspace {workspace}, which has {} of other types: {}{more}; {remedy}",
        number_of(others.total(), "record"),
        named.join(", ")
    )
}

/// Which of the workspaces that are there may have been meant by one that is not.
fn meant_workspace(asked: &str, others: &[Workspace]) -> String {
    let is_there = |name: &str| others.iter().any(|other| other.name() == name);
    if asked.contains(',') && asked.split(',').all(|name| is_there(name.trim())) {
        return "; name several with --workspace-map A=A --workspace-map B=B".to_owned();
    }
    let alike = others
        .iter()
        .find(|other| other.name().eq_ignore_ascii_case(asked));
    let known = others.iter().map(Workspace::name).filter(|name| !name.is_empty());
    match alike.map(Workspace::name).or_else(|| nearest(asked, known)) {
        Some(near) => format!("; did you mean {near}?"),
        None => String::new(),
    }
}

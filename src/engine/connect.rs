//! Connecting to both sides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    retry::{RequestContext, Retrier, SideWaiter},
    run::Run,
};
use crate::{
    model::{
        ErrorKind, NamedPair, NamedWorkspace, Origin, Result, Side, Values, Workspace, WorkspaceChoice,
        WorkspacePair,
    },
    report::{CountEvent, SettingOrigin, TargetUse},
    storage::{ConnectOptions, Connection, Connector, Count, Endpoint, Source, Target},
};

/// Extra time for a storage to report that connecting exceeded the time limit of a request.
const GRACE: Duration = Duration::from_secs(1);

/// A connected side, and its workspaces that were opened and counted.
pub struct Connected<T: ?Sized> {
    pub(super) connector: &'static dyn Connector,
    pub(super) settings: Vec<SettingOrigin>,
    /// Shared by all workspaces of this side.
    pub storage: Arc<dyn Connection>,
    pub(super) counted: BTreeMap<Workspace, Counted<T>>,
    pub(super) is_told_empty: bool,
}

impl<T: ?Sized> Connected<T> {
    fn new(endpoint: &Endpoint, storage: Arc<dyn Connection>) -> Self {
        Self {
            connector: endpoint.connector,
            settings: setting_origins(&endpoint.values),
            storage,
            counted: BTreeMap::new(),
            is_told_empty: false,
        }
    }

    /// A workspace and its count: as they are known, or by this future, together with the event of its count.
    pub(super) async fn known_or(
        &self,
        workspace: &Workspace,
        opening: impl Future<Output = Result<(Arc<T>, Arc<Count>, CountEvent)>>,
    ) -> Result<(Arc<T>, Arc<Count>, Option<CountEvent>)> {
        if let Some(Counted { opened, count }) = self.counted.get(workspace) {
            return Ok((Arc::clone(opened), Arc::clone(count), None));
        }
        let (opened, count, event) = opening.await?;
        Ok((opened, count, Some(event)))
    }
}

/// A workspace that was opened and counted.
pub struct Counted<T: ?Sized> {
    pub(super) opened: Arc<T>,
    /// Its selected records.
    pub count: Arc<Count>,
}

/// The settings of a side and the origin of each.
fn setting_origins(values: &Values) -> Vec<SettingOrigin> {
    let listed = values.iter().filter(|(field, value)| {
        // List a default only if LightRAG's configuration could have set the field.
        value.origin != Origin::Default || field.variable.is_some()
    });
    listed
        .map(|(field, value)| SettingOrigin {
            name: field.name.to_owned(),
            value: values.printable(field.name, value).map(str::to_owned),
            origin: value.origin.to_string(),
        })
        .collect()
}

/// The workspace of a side as one of its settings, if exactly one is named.
pub(super) fn workspace_origin(
    workspaces: &WorkspaceChoice,
    pairs: &[WorkspacePair],
    of: impl Fn(&NamedPair) -> &NamedWorkspace,
    name: impl Fn(&WorkspacePair) -> &Workspace,
) -> Option<SettingOrigin> {
    let WorkspaceChoice::Pairs(named) = workspaces else {
        return None;
    };
    let ([named], [pair]) = (named.as_slice(), pairs) else {
        return None;
    };
    Some(SettingOrigin {
        name: "workspace".to_owned(),
        value: Some(name(pair).name().to_owned()),
        origin: of(named).origin.to_string(),
    })
}

impl Run<'_> {
    /// Connects to the source.
    ///
    /// # Errors
    /// Wrong settings, an unreachable server, a refused login.
    pub async fn connect_source(&self, endpoint: &Endpoint) -> Result<Connected<dyn Source>> {
        let storage = self.connect(endpoint).await?;
        self.stats.set_location(Side::Source, storage.location());
        Ok(Connected::new(endpoint, storage))
    }

    /// Connects to the target.
    ///
    /// # Errors
    /// As [`Run::connect_source`].
    pub async fn connect_target(&self, endpoint: &Endpoint) -> Result<Connected<dyn Target>> {
        let storage = self.connect(endpoint).await?;
        self.stats.set_location(Side::Target, storage.location());
        let info = endpoint.connector.info();
        let fields = info.fields;
        let target_use = info
            .class_name
            .map_or(TargetUse::Kept, |class| TargetUse::Storage { class, fields });
        self.stats.run(|run| run.target_use = target_use);
        Ok(Connected::new(endpoint, storage))
    }

    /// Connects. Retries a busy server, but not one that is unreachable or closes the connection at once.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<Arc<dyn Connection>> {
        let options = ConnectOptions {
            timeout: self.settings.timeout,
            concurrency: self.settings.concurrency,
            on_invalid: self.settings.on_invalid,
            salvage: self.settings.salvage,
            waiter: Arc::new(SideWaiter {
                retrier: self.retrier(),
                side: endpoint.values.side(),
            }),
        };
        // The storages enforce the time limit themselves, with a more precise error.
        let lenient = Retrier {
            timeout: self.settings.timeout.saturating_add(GRACE),
            ..self.retrier()
        };
        let purpose = RequestContext::of(endpoint.values.side(), "connecting");
        let connected = lenient.run(purpose, async || match endpoint.connect(&options).await {
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::ConnectionLost) => {
                Ok(Err(error))
            }
            result => result.map(Ok),
        });
        connected.await?.map_err(|error| error.on(endpoint.values.side()))
    }
}

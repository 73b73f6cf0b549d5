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
    report::{SettingOrigin, TargetUse},
    storage::{ConnectOptions, Connection, Connector, Count, Endpoint, Source, Target},
};

/// How much longer than a request may take a storage may need to say that connecting took too long.
const GRACE: Duration = Duration::from_secs(1);

/// A side that is connected to, and those of its workspaces that were opened and counted.
pub struct Connected<T: ?Sized> {
    pub(super) connector: &'static dyn Connector,
    pub(super) settings: Vec<SettingOrigin>,
    /// The storage.
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
}

/// A workspace that was opened and counted.
pub struct Counted<T: ?Sized> {
    pub(super) opened: Arc<T>,
    /// Its selected records.
    pub count: Count,
}

/// What the settings of a side are and where each came from.
fn setting_origins(values: &Values) -> Vec<SettingOrigin> {
    let told = values.iter().filter(|(field, value)| {
        // Of what nothing sets, only what LightRAG's configuration could have set.
        value.origin != Origin::Default || field.variable.is_some()
    });
    told.map(|(field, value)| SettingOrigin {
        name: field.name.to_owned(),
        value: values.printable(field.name, value).map(str::to_owned),
        origin: value.origin.to_string(),
    })
    .collect()
}

/// The workspace of a side as one of its settings, where one is named.
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
        let class = endpoint.connector.info().class_name;
        self.stats
            .run(|run| run.target_use = class.map_or(TargetUse::Kept, TargetUse::Class));
        Ok(Connected::new(endpoint, storage))
    }

    /// Connects. A server that is not there, or hangs up on the first word, is not waited for; one that is busy is.
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
        // The storages keep to the time themselves, and know better what it means that it is over.
        let lenient = Retrier {
            timeout: self.settings.timeout.saturating_add(GRACE),
            ..self.retrier()
        };
        let purpose = RequestContext {
            what: "connecting",
            side: endpoint.values.side(),
            workspace: None,
            batch: None,
        };
        let connected = lenient.run(purpose, async || match endpoint.connect(&options).await {
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::ConnectionLost) => {
                Ok(Err(error))
            }
            result => result.map(Ok),
        });
        connected.await?.map_err(|error| error.on(endpoint.values.side()))
    }
}

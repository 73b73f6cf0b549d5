//! Counting the rows of workspaces: of one, or of many with one statement.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::sync::OnceCell;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    connection::{Phase, Purpose, Server},
    schema::Schema,
};
use crate::{
    model::{Result, Selection},
    storage::gathered::Gathered,
};

/// How many workspaces are counted with one statement.
const AT_ONCE: usize = 256;

/// It takes as long as the workspaces are large.
const COUNT: Purpose = Purpose::new(Phase::Reading, "count the records").without_limit();

/// How many rows there are of a kind (see [`Schema::kind`]).
#[derive(Clone, Debug)]
pub(super) struct KindCount {
    /// The key of one of them.
    pub(super) key: String,
    pub(super) records: u64,
}

/// The counts of each workspace, by its name in the column.
type Counts = HashMap<String, Vec<KindCount>>;

/// The workspaces that are about to be counted, by their names in the column.
#[derive(Debug, Default)]
pub(super) struct CountsAhead(Gathered<Arc<CountsTogether>>);

/// Workspaces that are counted with one statement, once the first of the counts is needed.
#[derive(Debug)]
pub(super) struct CountsTogether {
    workspaces: Vec<String>,
    counts: OnceCell<Counts>,
}

impl CountsAhead {
    /// Announces workspaces, instead of those that were announced before.
    pub(super) fn announce<'a>(&self, workspaces: impl Iterator<Item = &'a str>) {
        // The empty workspace and `default` have one name.
        let names: Vec<String> = workspaces
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut ahead = HashMap::new();
        if names.len() > 1 {
            for names in names.chunks(AT_ONCE) {
                let together = Arc::new(CountsTogether {
                    workspaces: names.to_vec(),
                    counts: OnceCell::new(),
                });
                ahead.extend(names.iter().map(|name| (name.clone(), Arc::clone(&together))));
            }
        }
        self.0.replace(ahead);
    }

    /// What is to be counted together with a workspace, if it was announced and not taken yet.
    pub(super) fn take(&self, workspace: &str) -> Option<Arc<CountsTogether>> {
        self.0.take(workspace)
    }

    /// Forgets that a workspace was announced.
    pub(super) fn forget(&self, workspace: &str) {
        drop(self.take(workspace));
    }
}

impl CountsTogether {
    /// The counts of one of these workspaces.
    ///
    /// # Errors
    /// The server failed.
    pub(super) async fn of(
        &self,
        workspace: &str,
        server: &Server,
        selection: &Selection,
        schema: &Schema,
    ) -> Result<Vec<KindCount>> {
        let counting = || async {
            let names: Vec<&str> = self.workspaces.iter().map(String::as_str).collect();
            count_kinds(&names, server, selection, schema).await
        };
        let counts = self.counts.get_or_try_init(counting).await?;
        Ok(counts.get(workspace).cloned().unwrap_or_default())
    }
}

/// Counts the rows of each kind in workspaces, in the shard that is selected. A workspace without rows is left out.
///
/// # Errors
/// The server failed.
pub(super) async fn count_kinds(
    workspaces: &[&str],
    server: &Server,
    selection: &Selection,
    schema: &Schema,
) -> Result<Counts> {
    // Each workspace is compared as when it is read, by the rules of the column. For one, the server has more ways.
    let (name, rows_of) = match workspaces {
        [_] => ("$1", "WHERE t.workspace = $1"),
        _ => (
            "w.name",
            "JOIN unnest($1) w(name) ON t.workspace = w.name WHERE true",
        ),
    };
    let sql = format!(
        "SELECT {name}::text, min(({key}) COLLATE \"C\")::text, count(*) FROM {table} t \
         {rows_of}{first} AND {shard} GROUP BY {name}, {kind}",
        key = schema.key(),
        table = schema.table,
        first = schema.first_of_its_key(),
        shard = schema.of_shard(selection),
        kind = schema.kind(),
    );
    let parameter: (&(dyn ToSql + Sync), Type) = match workspaces {
        [one] => (one, Type::TEXT),
        _ => (&workspaces, Type::TEXT_ARRAY),
    };
    let rows = server.ask(COUNT, &sql, &[parameter]).await?;
    let mut counts = Counts::new();
    let mut add = |row: &Row| -> Result<(), tokio_postgres::Error> {
        let records: i64 = row.try_get(2)?;
        counts.entry(row.try_get(0)?).or_default().push(KindCount {
            key: row.try_get(1)?,
            records: records.unsigned_abs(),
        });
        Ok(())
    };
    server.read(COUNT, || rows.iter().try_for_each(&mut add))?;
    Ok(counts)
}

//! LightRAG's table: what it looks like in this database, and the statements for it.

use deadpool_postgres::Client;

use super::{
    codec::Limits,
    connection::{Phase, Server},
};
use crate::model::{Error, ErrorKind, Result, Selection};

/// The table's name; PostgreSQL folds LightRAG's `LIGHTRAG_LLM_CACHE` to it.
pub(super) const TABLE: &str = "lightrag_llm_cache";

/// LightRAG's own definition (`TABLES["LIGHTRAG_LLM_CACHE"]` in `postgres_impl.py`).
pub(super) const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS LIGHTRAG_LLM_CACHE (
    workspace varchar(255) NOT NULL,
    id varchar(255) NOT NULL,
    original_prompt text,
    return_value text,
    chunk_id varchar(255),
    cache_type varchar(32),
    queryparam jsonb,
    create_time timestamp DEFAULT CURRENT_TIMESTAMP,
    update_time timestamp DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT LIGHTRAG_LLM_CACHE_PK PRIMARY KEY (workspace, id)
)";

/// The columns of LightRAG's indexes, by name (`check_tables` in `postgres_impl.py`).
pub(super) const INDEXES: [(&str, &str); 2] = [
    ("idx_lightrag_llm_cache_id", "id"),
    ("idx_lightrag_llm_cache_workspace_id", "workspace, id"),
];

/// Columns that later versions of LightRAG added, and add to an old table when they start
/// (`_migrate_llm_cache_schema`).
pub(super) const ADDED_COLUMNS: [(&str, &str); 3] = [
    ("chunk_id", "varchar(255)"),
    ("cache_type", "varchar(32)"),
    ("queryparam", "jsonb"),
];

/// Columns without which it is no cache.
const NEEDED_COLUMNS: [&str; 6] = [
    "workspace",
    "id",
    "original_prompt",
    "return_value",
    "create_time",
    "update_time",
];

/// The table as it is in this database.
#[derive(Debug)]
pub(super) struct Schema {
    /// The table's name with its schema, quoted where need be.
    pub(super) table: String,
    /// Whether it is one heap: no view, nothing partitioned or inherited.
    is_heap: bool,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    /// The most characters that it holds.
    length: Option<usize>,
}

impl Schema {
    /// Looks the table up, as LightRAG's own statements find it: along the `search_path`. `None` where there is none.
    ///
    /// # Errors
    /// The server failed, or the table is another's.
    pub(super) async fn look_up(server: &Server, client: &Client) -> Result<Option<Self>> {
        let failed = |error| server.failed(Phase::Preparing, "look at the table", error);
        let rows = client
            .query(
                "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), a.attname::text,
                        CASE WHEN a.atttypid = 'pg_catalog.varchar'::regtype AND a.atttypmod > 4
                             THEN a.atttypmod - 4 END,
                        c.relkind = 'r' AND NOT c.relhassubclass AND m.amname IS NOT DISTINCT FROM 'heap'
                          -- from which a range of blocks can be read without going over all of them
                          AND current_setting('server_version_num')::int >= 140000
                 FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                 WHERE c.oid = pg_catalog.to_regclass($1)",
                &[&TABLE],
            )
            .await
            .map_err(failed)?;
        let mut table = String::new();
        let mut is_heap = false;
        let mut columns = Vec::with_capacity(rows.len());
        for row in &rows {
            table = row.try_get(0).map_err(failed)?;
            is_heap = row.try_get(3).map_err(failed)?;
            let length: Option<i32> = row.try_get(2).map_err(failed)?;
            columns.push(Column {
                name: row.try_get(1).map_err(failed)?,
                length: length.and_then(|length| usize::try_from(length).ok()),
            });
        }
        if columns.is_empty() {
            return Ok(None);
        }
        let schema = Self {
            table,
            is_heap,
            columns,
        };
        if let Some(missing) = NEEDED_COLUMNS.iter().find(|name| !schema.has(name)) {
            let message = format!(
                "{}: the table {} has no column {missing}, so it is no cache of LightRAG's",
                server.name(),
                schema.table
            );
            return Err(Error::new(ErrorKind::Damaged, message).with_remedy("check database and search_path"));
        }
        Ok(Some(schema))
    }

    /// Whether it has a column of this name.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known.name == column)
    }

    /// Whether its rows can be read by their places, and have nothing but an id for a name.
    pub(super) fn has_places(&self) -> bool {
        self.is_heap && !self.has_mode()
    }

    /// Whether it is of the time when a row's mode stood beside its id.
    pub(super) fn has_mode(&self) -> bool {
        self.has("mode")
    }

    /// What its columns can hold.
    pub(super) fn limits(&self) -> Limits {
        let length = |name| {
            let column = self.columns.iter().find(|column| column.name == name);
            column.and_then(|column| column.length)
        };
        Limits {
            id: length("id"),
            chunk_id: length("chunk_id"),
            cache_type: length("cache_type"),
        }
    }

    /// The most characters of a workspace's name.
    pub(super) fn workspace_limit(&self) -> Option<usize> {
        let column = self.columns.iter().find(|column| column.name == "workspace");
        column.and_then(|column| column.length)
    }

    /// The key of a row `t`, as SQL. Old rows have a mode beside an id without colons, and are named as LightRAG names
    /// entries of that time in its other storages: `mode:cache_type:id`.
    pub(super) fn key(&self) -> String {
        if !self.has_mode() {
            return "t.id".to_owned();
        }
        let cache_type = if self.has("cache_type") {
            "coalesce(t.cache_type, 'extract')"
        } else {
            "'extract'"
        };
        format!("CASE WHEN {HAS_COLON} THEN t.id ELSE t.mode || ':' || {cache_type} || ':' || t.id END")
    }

    /// Which rows `t` count where the table has two for one key, as SQL that begins with `AND`: the one that has the
    /// key for its id, under the first mode. Nothing where ids are unique.
    pub(super) fn first_of_its_key(&self) -> String {
        if !self.has_mode() {
            return String::new();
        }
        let (table, key) = (&self.table, self.key());
        format!(
            " AND NOT EXISTS (SELECT FROM {table} u WHERE u.workspace = t.workspace AND u.id = {key} \
             AND (u.id <> t.id OR u.mode < t.mode))"
        )
    }

    /// The fields of a row `t`, as SQL: what [`super::codec::Stored`] reads. Columns that an old table lacks are NULL,
    /// and the type then is that of the key, as LightRAG fills it in when it adds the column.
    pub(super) fn fields(&self) -> String {
        let column = |name: &str, sql: &str| {
            if self.has(name) {
                format!("{sql} AS {name}")
            } else {
                format!("NULL::text AS {name}")
            }
        };
        let key = self.key();
        let cache_type = if self.has("cache_type") {
            "t.cache_type".to_owned()
        } else {
            format!(
                "CASE WHEN ({key}) COLLATE \"C\" ~ '^[^:]+:[^:]+:' THEN split_part(({key}) COLLATE \"C\", ':', 2) ELSE 'extract' END"
            )
        };
        // Times as LightRAG reads them; an endless one has no seconds.
        let time = |name| {
            format!("CASE WHEN isfinite(t.{name}) THEN EXTRACT(EPOCH FROM t.{name})::bigint END AS {name}")
        };
        [
            format!("({key}) AS key"),
            "t.original_prompt".to_owned(),
            "t.return_value".to_owned(),
            column("chunk_id", "t.chunk_id"),
            format!("{cache_type} AS cache_type"),
            column("queryparam", "t.queryparam::text"),
            time("create_time"),
            time("update_time"),
        ]
        .join(", ")
    }

    /// Roughly the bytes of a row `t` as a record, as SQL that reads nothing but lengths.
    pub(super) fn size(&self) -> String {
        let queryparam = if self.has("queryparam") {
            " + coalesce(pg_column_size(t.queryparam), 0)"
        } else {
            ""
        };
        format!(
            "(coalesce(octet_length(t.original_prompt), 0) + coalesce(octet_length(t.return_value), 0){queryparam} \
             + {ROW_BYTES})"
        )
    }

    /// Which rows `t` are selected, as SQL. Compared byte for byte, whatever the column's collation takes for equal.
    pub(super) fn selected(&self, selection: &Selection) -> String {
        let key = format!("({}) COLLATE \"C\"", self.key());
        let types = selection.types().map(|t| {
            // The names of the types hold no character that LIKE would take for another.
            if t.is_from_files() {
                format!("{key} LIKE 'default:{t}:%'")
            } else {
                format!("({key} LIKE '%:{t}:%' AND split_part({key}, ':', 2) = '{t}')")
            }
        });
        format!("({})", types.collect::<Vec<_>>().join(" OR "))
    }
}

/// Whether the id of a row `t` holds a colon.
const HAS_COLON: &str = "strpos(t.id COLLATE \"C\", ':') > 0";

/// The bytes of a record beside its texts: key, names of fields, times, `chunk_id`.
const ROW_BYTES: u32 = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CacheType;

    fn schema(columns: &[&str]) -> Schema {
        Schema {
            table: "public.lightrag_llm_cache".to_owned(),
            is_heap: true,
            columns: columns
                .iter()
                .map(|name| Column {
                    name: (*name).to_owned(),
                    length: (*name == "id").then_some(255),
                })
                .collect(),
        }
    }

    #[test]
    fn a_table_of_today_is_read_by_its_own_columns() {
        let schema = schema(&["workspace", "id", "chunk_id", "cache_type", "queryparam"]);
        assert_eq!(schema.key(), "t.id");
        assert_eq!(schema.first_of_its_key(), "");
        assert!(!schema.fields().contains("NULL::text"));
        assert_eq!(schema.limits().id, Some(255));
        assert_eq!(schema.limits().chunk_id, None);
    }

    #[test]
    fn what_an_old_table_lacks_is_null_and_the_type_comes_from_the_key() {
        let fields = schema(&["workspace", "id", "mode"]).fields();
        assert!(fields.contains("NULL::text AS chunk_id"));
        assert!(fields.contains("split_part"));
        assert!(!fields.contains("t.queryparam"));
    }

    #[test]
    fn types_of_questions_are_selected_in_every_mode() {
        let selection = Selection::new([CacheType::Extract, CacheType::Query]).unwrap();
        assert_eq!(
            schema(&["id"]).selected(&selection),
            "((t.id) COLLATE \"C\" LIKE 'default:extract:%' OR ((t.id) COLLATE \"C\" LIKE '%:query:%' AND \
             split_part((t.id) COLLATE \"C\", ':', 2) = 'query'))"
        );
    }
}

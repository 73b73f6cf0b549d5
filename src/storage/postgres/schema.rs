//! LightRAG's table: what it looks like in this database, and the statements for it.

use tokio_postgres::{Row, types::Type};

use super::{
    codec::Limits,
    connection::{Phase, Purpose, Server},
};
use crate::model::{Error, ErrorKind, KeyRule, Result, Selection};

/// The table's name; PostgreSQL folds LightRAG's `LIGHTRAG_LLM_CACHE` to it.
pub(super) const TABLE: &str = "lightrag_llm_cache";

/// LightRAG's own definition (`TABLES["LIGHTRAG_LLM_CACHE"]` in `postgres_impl.py`). Without `IF NOT
/// EXISTS`, so that it fails if another process has created the table.
pub(super) const CREATE_TABLE: &str = "CREATE TABLE LIGHTRAG_LLM_CACHE (
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

/// Every column that LightRAG and this program write.
pub(super) const WRITTEN_COLUMNS: [&str; 9] = [
    "workspace",
    "id",
    "original_prompt",
    "return_value",
    "chunk_id",
    "cache_type",
    "queryparam",
    "create_time",
    "update_time",
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
#[derive(Clone, Debug)]
pub(super) struct Schema {
    /// The table's name with its schema, quoted where need be.
    pub(super) table: String,
    /// Whether it is one heap: no view, nothing partitioned or inherited.
    is_heap: bool,
    columns: Vec<Column>,
    /// Whether rows are found by ids of a time when a mode stood beside them, though the table has no modes any more.
    has_bare_ids: bool,
}

#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// The most characters that it allows.
    length: Option<usize>,
    /// Whether a row must have a value in it and is given none.
    is_required: bool,
    /// Whether the server computes its values.
    is_generated: bool,
}

const LOOK_UP: Purpose = Purpose::new(Phase::Preparing, "look at the table");

/// Table, whether it is one heap, and each column: name, length, required, generated.
const IN_CATALOG: &str = "\
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
           c.relkind = 'r' AND NOT c.relhassubclass AND m.amname IS NOT DISTINCT FROM 'heap'
             -- from which a range of blocks can be read without going over all of them
             AND pg_catalog.current_setting('server_version_num')::int >= 140000,
           a.attname::text,
           CASE WHEN a.atttypid = 'pg_catalog.varchar'::regtype AND a.atttypmod > 4 THEN a.atttypmod - 4 END,
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
           a.attgenerated <> '' OR a.attidentity = 'a'
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = pg_catalog.to_regclass($1)";

/// The same of the standard's views, which LightRAG reads too.
const IN_STANDARD_VIEWS: &str = "\
    SELECT c.table_name::text, false, c.column_name::text, c.character_maximum_length::int, \
           c.is_nullable = 'NO' AND c.column_default IS NULL, false
    FROM information_schema.columns c
    WHERE c.table_name = $1 AND c.table_schema = ANY(current_schemas(false)::text[])";

impl Schema {
    /// Looks the table up, as LightRAG's own statements find it: along the `search_path`. `None` where there is none.
    ///
    /// # Errors
    /// The server failed, or the table is another's.
    pub(super) async fn look_up(server: &Server) -> Result<Option<Self>> {
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] = [(&TABLE, Type::TEXT)];
        let rows = match server.ask_if_able(LOOK_UP, IN_CATALOG, &parameters).await? {
            Some(rows) => rows,
            None => server.ask(LOOK_UP, IN_STANDARD_VIEWS, &parameters).await?,
        };
        let Some(schema) = server.read(LOOK_UP, || Self::of_rows(&rows))? else {
            return Ok(None);
        };
        if let Some(missing) = NEEDED_COLUMNS.iter().find(|name| !schema.has(name)) {
            let message = format!(
                "{}: the table {} has no column {missing}, so it is not a cache of LightRAG",
                server.name(),
                schema.table
            );
            return Err(Error::new(ErrorKind::Damaged, message).with_remedy("check database and search_path"));
        }
        Ok(Some(schema))
    }

    fn of_rows(rows: &[Row]) -> Result<Option<Self>, tokio_postgres::Error> {
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let column = |row: &Row| {
            let length: Option<i32> = row.try_get(3)?;
            Ok(Column {
                name: row.try_get(2)?,
                length: length.and_then(|length| usize::try_from(length).ok()),
                is_required: row.try_get(4)?,
                is_generated: row.try_get(5)?,
            })
        };
        Ok(Some(Self {
            table: first.try_get(0)?,
            is_heap: first.try_get(1)?,
            columns: rows.iter().map(column).collect::<Result<_, _>>()?,
            has_bare_ids: false,
        }))
    }

    /// Looks whether a workspace has rows with ids of an old time, which are to be read by the keys that LightRAG would
    /// have made of them.
    ///
    /// # Errors
    /// The server failed.
    pub(super) async fn look_for_bare_ids(&mut self, server: &Server, workspace: &str) -> Result<()> {
        if self.has_mode() {
            return Ok(());
        }
        let purpose = Purpose::new(Phase::Reading, "look for ids of an old layout").without_limit();
        let sql = format!(
            "SELECT EXISTS(SELECT FROM {} t WHERE t.workspace = $1 AND {IS_BARE})",
            self.table
        );
        let rows = server.ask(purpose, &sql, &[(&workspace, Type::TEXT)]).await?;
        self.has_bare_ids = server.read(purpose, || rows.first().map_or(Ok(false), |row| row.try_get(0)))?;
        Ok(())
    }

    /// A column that requires a value but gets none.
    pub(super) fn unknown_column(&self) -> Option<&str> {
        let unknown =
            |column: &&Column| column.is_required && !WRITTEN_COLUMNS.contains(&column.name.as_str());
        self.columns
            .iter()
            .find(unknown)
            .map(|column| column.name.as_str())
    }

    /// A column that is to be written and whose values the server computes.
    pub(super) fn generated_column(&self) -> Option<&str> {
        let generated =
            |column: &&Column| column.is_generated && WRITTEN_COLUMNS.contains(&column.name.as_str());
        self.columns
            .iter()
            .find(generated)
            .map(|column| column.name.as_str())
    }

    /// Whether it has a column of this name.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known.name == column)
    }

    /// The columns of a row `t` that are read, as SQL. A login need not have a right to any other.
    pub(super) fn read_columns(&self) -> String {
        let read = WRITTEN_COLUMNS
            .iter()
            .chain(&["mode"])
            .filter(|name| self.has(name));
        let columns: Vec<String> = read.map(|name| format!("t.{name}")).collect();
        columns.join(", ")
    }

    /// Whether its rows can be read by their places, and have nothing but an id for a name.
    pub(super) fn has_places(&self) -> bool {
        self.is_heap && !self.has_mode()
    }

    /// Whether it is of the time when a row's mode stood beside its id.
    pub(super) fn has_mode(&self) -> bool {
        self.has("mode")
    }

    /// Whether rows are read by other keys than their ids.
    pub(super) fn has_old_ids(&self) -> bool {
        self.has_mode() || self.has_bare_ids
    }

    /// What a person should know of it.
    pub(super) fn warning(&self) -> Option<String> {
        let how = match (self.has_mode(), self.has_bare_ids) {
            (true, _) => {
                "rows without a colon in their id are read as {mode}:extract:{MD5 of the prompt}, the name that \
                          LightRAG gives them when it brings the table up to date"
            }
            (false, true) => {
                "rows without a colon in their id are read as default:extract:{id} where the id is the MD5 \
                              of the prompt; LightRAG itself does not find them"
            }
            (false, false) => return None,
        };
        Some(format!(
            "the table {} was created by an older LightRAG: {how}",
            self.table
        ))
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

    /// The key of a row `t`, as SQL. Rows of an old time have an id without colons, which was made of the prompt; they are
    /// named as LightRAG names them when it brings a table up to date.
    pub(super) fn key(&self) -> String {
        if !self.has_mode() {
            return match self.has_bare_ids {
                true => format!("CASE WHEN {IS_BARE} THEN 'default:extract:' || t.id ELSE t.id END"),
                false => "t.id".to_owned(),
            };
        }
        let other_modes = "CASE WHEN t.mode = 'default' THEN 'extract' ELSE 'unknown' END";
        let cache_type = if self.has("cache_type") {
            format!("coalesce(t.cache_type, {other_modes})")
        } else {
            other_modes.to_owned()
        };
        format!(
            "CASE WHEN {HAS_COLON} THEN t.id ELSE t.mode || ':' || {cache_type} || ':' || {} END",
            old_hash("t")
        )
    }

    /// Which rows `t` count where the table has two for one key, as SQL that begins with `AND`: the one that has the
    /// key for its id, then the first of a mode and an id. Nothing where ids are unique.
    pub(super) fn first_of_its_key(&self) -> String {
        let (table, key) = (&self.table, self.key());
        if self.has_mode() {
            return format!(
                " AND NOT EXISTS (SELECT FROM {table} u WHERE u.workspace = t.workspace AND u.id = {key} \
                 AND (u.id <> t.id OR u.mode < t.mode)) \
                 AND NOT EXISTS (SELECT FROM {table} u WHERE u.workspace = t.workspace AND u.mode = t.mode \
                 AND {hash_of_u} = {hash_of_t} AND u.id < t.id AND strpos(u.id, ':') = 0 AND strpos(t.id, ':') = 0)",
                hash_of_u = old_hash("u"),
                hash_of_t = old_hash("t"),
            );
        }
        match self.has_bare_ids {
            true => format!(
                " AND NOT EXISTS (SELECT FROM {table} u WHERE u.workspace = t.workspace AND u.id = {key} \
                 AND u.id <> t.id)"
            ),
            false => String::new(),
        }
    }

    /// Which rows `t` have one of the keys `$2`, as SQL. `$3` are the last parts of those keys.
    pub(super) fn has_key(&self) -> String {
        match (self.has_mode(), self.has_bare_ids) {
            (true, _) => format!(
                "(t.id = ANY($2) OR (NOT {HAS_COLON} AND {} = ANY($3)))",
                old_hash("t")
            ),
            (false, true) => format!("(t.id = ANY($2) OR (t.id = ANY($3) AND {IS_BARE}))"),
            (false, false) => "t.id = ANY($2)".to_owned(),
        }
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
        // Times as LightRAG reads them; an endless one has no seconds. Texts as `text`, so that the driver need not ask for
        // the type of a column that somebody made.
        let time = |name| {
            format!("CASE WHEN isfinite(t.{name}) THEN EXTRACT(EPOCH FROM t.{name})::bigint END AS {name}")
        };
        [
            format!("({key})::text AS key"),
            "t.original_prompt::text".to_owned(),
            "t.return_value::text".to_owned(),
            column("chunk_id", "t.chunk_id::text"),
            format!("({cache_type})::text AS cache_type"),
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
        let shard = self.of_shard(selection);
        let Some(rules) = selection.rules() else {
            return shard;
        };
        let rules = rules.into_iter().map(|rule| match rule {
            // The one character of a rule that LIKE would take for another.
            KeyRule::Prefix(prefix) if prefix.contains('_') => {
                format!("{key} LIKE '{}%' ESCAPE '!'", prefix.replace('_', "!_"))
            }
            KeyRule::Prefix(prefix) => format!("{key} LIKE '{prefix}%'"),
            KeyRule::Type(t) => format!("({key} LIKE '%:{t}:%' AND split_part({key}, ':', 2) = '{t}')"),
        });
        let rules = format!("({})", rules.collect::<Vec<_>>().join(" OR "));
        match selection.shard() {
            None => rules,
            Some(_) => format!("{rules} AND {shard}"),
        }
    }

    /// Which rows `t` are of the shard that is selected, as SQL.
    pub(super) fn of_shard(&self, selection: &Selection) -> String {
        let Some(shard) = selection.shard() else {
            return "true".to_owned();
        };
        let hash = format!("right(({}) COLLATE \"C\", 32)", self.key());
        let (low, high) = shard.digits();
        let ours = format!("({hash} ~ '^[0-9a-f]{{32}}$' AND left({hash}, 4) BETWEEN '{low}' AND '{high}')");
        if shard.takes_other_keys() {
            return format!("({ours} OR {hash} !~ '^[0-9a-f]{{32}}$')");
        }
        ours
    }

    /// The kind of row `t` (see [`crate::model::LeftOutKind`]), as SQL.
    pub(super) fn kind(&self) -> String {
        let key = format!("({}) COLLATE \"C\"", self.key());
        format!(
            "CASE WHEN {key} LIKE '%:%:%' THEN split_part({key}, ':', 1) || ':' || split_part({key}, ':', 2) || ':' \
             WHEN {key} LIKE '%:%' THEN split_part({key}, ':', 1) || ':' \
             WHEN {key} ~ '^[0-9a-f]{{32}}$' THEN 'md5' END"
        )
    }
}

/// Whether the id of a row `t` contains a colon.
const HAS_COLON: &str = "strpos(t.id COLLATE \"C\", ':') > 0";

/// Whether a row `t` has an id from before keys were introduced, and its key can be derived.
const IS_BARE: &str = "(strpos(t.id COLLATE \"C\", ':') = 0 AND t.id = md5(t.original_prompt))";

/// The hash that LightRAG makes of a row without a colon in its id.
fn old_hash(row: &str) -> String {
    format!("coalesce(md5({row}.original_prompt), {row}.id)")
}

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
                    is_required: false,
                    is_generated: false,
                })
                .collect(),
            has_bare_ids: false,
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

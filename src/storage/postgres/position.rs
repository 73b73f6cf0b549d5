//! The position of a scan of the table.
//!
//! A scan reads along the heap first, block by block, as the server's own `COPY` does. Keys are hashes: in their order,
//! each row would lie somewhere else. But an update moves a row, perhaps to where the scan has been. So a scan has a
//! *horizon*: every transaction before it had ended when the scan began. Along the heap it reads only what those wrote,
//! and such a row stays in its place for as long as it is there. What transactions since the horizon wrote is read
//! afterwards in the order of keys, which no update changes. Together that is every row that was there all the while,
//! under its old value or its new one; only a row that somebody changed may come twice. Both kinds of position hold in
//! another process.
//!
//! Source: PostgreSQL's documentation, "System Columns" (`ctid`, `xmin`) and "Transaction ID and Snapshot Information
//! Functions" (`pg_current_snapshot`).

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::connection::Server;
use crate::{model::Error, storage::Cursor};

/// A position in a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Position {
    /// Along the heap.
    Heap(HeapPosition),
    /// In the order of keys.
    Keys(KeyPosition),
}

/// After a position in the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeapPosition {
    /// The table's file. It gets another one when it is written anew (`VACUUM FULL`, `CLUSTER`, `TRUNCATE`), and then
    /// no row is where it was.
    pub(super) file: u32,
    /// The number of blocks when the scan started: later ones contain nothing from before the horizon.
    pub(super) blocks: u32,
    pub(super) horizon: Horizon,
    /// The last place that was read.
    pub(super) after: TupleId,
}

/// After a row, in the order of the primary key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyPosition {
    /// Only rows that were written since; all rows where the heap was not read.
    pub(super) since: Option<Horizon>,
    pub(super) after: Option<RowName>,
    /// Where a stretch ends that has rows written since. `None`: it is yet to be found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<RowId>,
}

/// The first transaction, by its 64-bit number, that may not have ended yet when a scan began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Horizon(pub(super) u64);

impl Horizon {
    /// The number that rows carry: the lower 32 bits.
    pub(super) fn xid(self) -> u64 {
        self.0 % (1 << 32)
    }

    /// Whether the numbers of rows still distinguish what is before it from what is after it, at a later horizon.
    pub(super) fn is_near(self, now: Self) -> bool {
        now.0.checked_sub(self.0).is_some_and(|passed| passed < (1 << 31))
    }
}

/// A row's place in the heap: `ctid`. Offsets in a block begin with 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct TupleId {
    pub(super) block: u32,
    pub(super) offset: u16,
}

impl TupleId {
    /// Before every row of a block and after every row of the previous block.
    pub(super) fn begin_of(block: u32) -> Self {
        Self { block, offset: 0 }
    }
}

/// Sent and received as the block and the offset in it, in network order (`tidsend` in PostgreSQL's `tid.c`).
impl<'a> FromSql<'a> for TupleId {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let [a, b, c, d, offset @ ..] = <[u8; 6]>::try_from(raw)?;
        Ok(Self {
            block: u32::from_be_bytes([a, b, c, d]),
            offset: u16::from_be_bytes(offset),
        })
    }

    accepts!(TID);
}

impl ToSql for TupleId {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_u32(self.block);
        out.put_u16(self.offset);
        Ok(IsNull::No)
    }

    accepts!(TID);
    to_sql_checked!();
}

/// What a row is called among those of its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowName {
    pub(super) id: RowId,
    /// In an old table, where a row's mode is part of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
}

/// An id as stored in the table. In a database with the encoding `SQL_ASCII` it may not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum RowId {
    Text(String),
    Bytes { bytes: Vec<u8> },
}

impl<'a> FromSql<'a> for RowId {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match std::str::from_utf8(raw) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { bytes: raw.to_vec() },
        })
    }

    fn accepts(kind: &Type) -> bool {
        <&str as FromSql<'_>>::accepts(kind)
    }
}

impl ToSql for RowId {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_slice(match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes { bytes } => bytes,
        });
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl Position {
    /// In the order of keys from the first, all of them.
    pub(super) const ALL_KEYS: Self = Self::Keys(KeyPosition {
        since: None,
        after: None,
        until: None,
    });

    pub(super) fn to_cursor(&self) -> Cursor {
        // Numbers and strings always have a JSON form.
        Cursor(serde_json::to_string(self).unwrap_or_default())
    }

    /// # Errors
    /// It is not a position in this storage.
    pub(super) fn from_cursor(cursor: &Cursor, server: &Server) -> crate::model::Result<Self> {
        serde_json::from_str(&cursor.0)
            .map_err(|_| Error::checkpoint(format!("`{}` is not a position in {}", cursor.0, server.name())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_sent() {
        let place = TupleId {
            block: 0x0102_0304,
            offset: 0x0506,
        };
        let mut sent = BytesMut::new();
        place.to_sql(&Type::TID, &mut sent).unwrap();
        assert_eq!(*sent, [1, 2, 3, 4, 5, 6]);
        assert_eq!(TupleId::from_sql(&Type::TID, &sent).unwrap(), place);
        TupleId::from_sql(&Type::TID, &sent[1..]).unwrap_err();
    }

    #[test]
    fn a_horizon_is_near_for_half_of_the_numbers_that_rows_carry() {
        let horizon = Horizon((5 << 32) + 734);
        assert_eq!(horizon.xid(), 734);
        assert!(horizon.is_near(horizon));
        assert!(horizon.is_near(Horizon(horizon.0 + (1 << 31) - 1)));
        assert!(!horizon.is_near(Horizon(horizon.0 + (1 << 31))));
        assert!(!horizon.is_near(Horizon(horizon.0 - 1)), "of another server");
    }

    #[test]
    fn a_cursor_is_a_position_again() {
        let heap = Position::Heap(HeapPosition {
            file: 16_395,
            blocks: 7,
            horizon: Horizon(734),
            after: TupleId { block: 3, offset: 12 },
        });
        let keys = Position::Keys(KeyPosition {
            since: Some(Horizon(734)),
            after: Some(RowName {
                id: RowId::Text("default:extract:\"é".to_owned()),
                mode: None,
            }),
            until: Some(RowId::Bytes { bytes: vec![0xff] }),
        });
        for position in [heap, keys, Position::ALL_KEYS] {
            let cursor = position.to_cursor();
            assert_eq!(
                serde_json::from_str::<Position>(&cursor.0).unwrap(),
                position,
                "{cursor:?}"
            );
        }
    }
}

//! The workspaces of a run as a table.

use std::{cmp::Reverse, fmt::Write as _};

use unicode_width::UnicodeWidthStr;

use crate::{
    model::{Mode, Workspace},
    report::{
        Report, WorkspaceReport,
        style::{cut, grouped},
    },
};

/// How many workspaces a table lists.
const MOST_ROWS: usize = 20;
/// The blanks before a column.
const GAP: usize = 2;
/// The least width of the names.
const LEAST_NAME: usize = 9;

/// A line of the table.
pub(crate) struct Row {
    /// The workspace, or a pair of them.
    pub(crate) name: String,
    /// A text for each column.
    pub(crate) cells: Vec<String>,
    /// Those with the largest value are listed if the table cannot list all.
    pub(crate) weight: (u64, u64),
}

/// The name of a workspace on both sides.
pub(crate) fn pair_name(from: &Workspace, to: &Workspace) -> String {
    if from == to {
        from.to_string()
    } else {
        format!("{from} → {to}")
    }
}

/// The table, each line after a line break and at most `width` columns wide. `more` says where the rows are that it does not
/// list.
pub(crate) fn table(headings: &[&str], mut rows: Vec<Row>, width: usize, more: &str) -> String {
    let number = rows.len();
    if number > MOST_ROWS {
        rows.sort_by_key(|row| Reverse(row.weight));
        rows.truncate(MOST_ROWS);
    }
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(at, heading)| {
            let cells = rows.iter().filter_map(|row| row.cells.get(at));
            cells.map(|cell| cell.width()).fold(heading.width(), usize::max)
        })
        .collect();
    let taken: usize = widths.iter().map(|width| width + GAP).sum();
    let longest = rows.iter().map(|row| row.name.width()).max().unwrap_or_default();
    let name_width = longest.min(width.saturating_sub(taken)).max(LEAST_NAME);
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let name = cut(name, name_width);
        let mut line = format!("{name}{}", " ".repeat(name_width.saturating_sub(name.width())));
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(
                line,
                "{}{cell}",
                " ".repeat(GAP + width.saturating_sub(cell.width()))
            );
        }
        cut(&line, width)
    };
    let mut text = format!("\n{}", line("Workspace", &mut headings.iter().copied()));
    for row in &rows {
        let mut cells = row.cells.iter().map(String::as_str);
        let _ = write!(text, "\n{}", line(&row.name, &mut cells));
    }
    if number > rows.len() {
        let more = format!("… and {} more{more}", grouped((number - rows.len()) as u64));
        let _ = write!(text, "\n{}", cut(&more, width));
    }
    text
}

/// The workspaces of a report with several.
pub(super) fn of_report(report: &Report, width: usize) -> Option<String> {
    if report.workspaces.len() < 2 {
        return None;
    }
    let headings: &[&str] = match report.mode {
        Mode::DryRun => &["To move", "Already there"],
        Mode::Migrate => &["To move", "Already there", "Written", "Skipped", "Rejected"],
        Mode::Verify => return None,
    };
    let rows = report
        .workspaces
        .iter()
        .map(|workspace| row(workspace, headings.len()));
    Some(table(
        headings,
        rows.collect(),
        width,
        "; --report has all of them",
    ))
}

fn row(workspace: &WorkspaceReport, columns: usize) -> Row {
    let totals = &workspace.totals;
    let number = |number: Option<u64>| number.map_or_else(|| "?".to_owned(), grouped);
    let rehearsal = workspace.rehearsal.as_ref();
    let to_move = rehearsal.map(|found| found.to_move).or(workspace.source_records);
    let existing = rehearsal.map(|found| found.existing);
    let mut cells = vec![
        number(to_move),
        number(existing.or(workspace.target_records_before)),
        grouped(totals.written),
        grouped(totals.skipped),
        grouped(totals.rejected),
    ];
    cells.truncate(columns);
    Row {
        name: pair_name(&workspace.from, &workspace.to),
        cells,
        weight: (
            totals.rejected + totals.not_attempted,
            to_move.unwrap_or_default(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, to_move: u64, rejected: u64) -> Row {
        Row {
            name: name.to_owned(),
            cells: [to_move, 0, to_move - rejected, 0, rejected].map(grouped).into(),
            weight: (rejected, to_move),
        }
    }

    const HEADINGS: [&str; 5] = ["To move", "Already there", "Written", "Skipped", "Rejected"];

    #[test]
    fn columns_align_and_long_names_lose_their_middle() {
        let rows = vec![
            row("a", 12_345_678, 0),
            row(&"long_".repeat(12), 1, 1),
            row("缓存", 22, 0),
        ];
        let text = table(&HEADINGS, rows, 80, "");
        insta::assert_snapshot!(text);
        let widths: Vec<usize> = text.lines().skip(1).map(UnicodeWidthStr::width).collect();
        assert_eq!(widths, [80; 4]);
    }

    #[test]
    fn a_table_lists_what_was_rejected_then_the_largest_and_counts_the_rest() {
        let mut rows: Vec<Row> = (0..500).map(|n| row(&format!("w{n}"), n, 0)).collect();
        rows.push(row("bad", 3, 2));
        let text = table(&HEADINGS, rows, 80, "; --report has all of them");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 1 + MOST_ROWS + 1);
        assert!(
            lines[1].starts_with("bad ") && lines[2].starts_with("w499 "),
            "{text}"
        );
        assert_eq!(lines.last(), Some(&"… and 481 more; --report has all of them"));
        // As many as fit stay in their order.
        let rows: Vec<Row> = (0..20).map(|n| row(&format!("w{n}"), n, 0)).collect();
        let text = table(&HEADINGS, rows, 80, "");
        assert!(text.lines().nth(2).unwrap().starts_with("w0 "), "{text}");
    }

    #[test]
    fn a_narrow_terminal_is_not_exceeded() {
        for width in [20, 40, 60] {
            let text = table(&HEADINGS, vec![row("some_workspace", 1_000, 0)], width, "");
            assert!(text.lines().all(|line| line.width() <= width), "{text}");
        }
    }
}

//! The text between the questions.

use std::{fmt::Write as _, path::Path};

use bytesize::ByteSize;

use crate::{
    engine::Prepared,
    model::{ForetoldHits, Location, NamedWorkspace, OnConflict, Origin, Side, Workspace, redact_url},
    report::{
        Row, TOOL, hits_sentence, pair_name,
        style::{Palette, cut, grouped, grouped_of, terminal_width, wrap},
        table,
    },
    storage::{self, Count, Endpoint},
};

pub(super) struct Words {
    palette: Palette,
    width: usize,
}

impl Words {
    pub(super) fn new(palette: Palette) -> Self {
        Self {
            palette,
            width: terminal_width(),
        }
    }

    /// The settings of a side: those that are set with their origins, then the defaults.
    pub(super) fn settings(&self, endpoint: &Endpoint) -> String {
        let Endpoint { connector, values } = endpoint;
        let mut text = format!("\nChecking the settings of {}...", connector.class_name());
        let mut defaults = Vec::new();
        for field in connector.fields() {
            let name = field.variable.unwrap_or(field.name);
            match values.get(field.name).map(|value| &value.origin) {
                Some(Origin::Default) if field.variable.is_none() => {}
                Some(Origin::Default) => {
                    defaults.push(default_of(name, field.default.unwrap_or_default()));
                }
                Some(origin) => {
                    let mark = self.palette.good("✓");
                    let line = format!("{name} ({})", whence(origin));
                    let line = cut(&line, self.width.saturating_sub(2));
                    let _ = write!(text, "\n{mark} {line}");
                }
                None => {}
            }
        }
        if !defaults.is_empty() {
            let line = format!("- By default: {}", defaults.join(", "));
            let _ = write!(text, "\n{}", wrap(&line, self.width, "  "));
        }
        text
    }

    /// The text before connecting to a side.
    pub(super) fn opening(&self, endpoint: &Endpoint, workspace: Option<&NamedWorkspace>) -> String {
        let side = endpoint.values.side();
        let mut text = format!(
            "\nInitializing the {side} storage...\n- Storage type: {}",
            endpoint.connector.class_name()
        );
        if let Some(NamedWorkspace {
            workspace, origin, ..
        }) = workspace
        {
            let line = format!("- Workspace: {workspace} ({origin})");
            let _ = write!(text, "\n{}", cut(&line, self.width));
        }
        text
    }

    /// The text after connecting to a side.
    pub(super) fn connected(&self, location: &Location) -> String {
        let place = cut(&format!("- Address: {}", location.location), self.width);
        format!("{place}\n- Connection: {}", self.palette.good("✓ success"))
    }

    /// The number of records in a workspace.
    pub(super) fn counted(&self, workspace: &Workspace, count: &Count) -> String {
        let line = format!("- Records in workspace {workspace}: {}", in_words(count));
        cut(&line, self.width)
    }

    /// The summary before the confirmation.
    pub(super) fn confirmation(
        &self,
        source: Option<Location>,
        target: Option<Location>,
        prepared: &[Prepared],
        on_conflict: OnConflict,
    ) -> String {
        let rule = "=".repeat(50);
        let heading = self.palette.strong("Migration confirmation");
        let mut text = format!("\n{rule}\n{heading}\n{rule}");
        for (name, location) in [("Source", &source), ("Target", &target)] {
            if let Some(location) = location {
                let class = storage::find(&location.kind).map_or("", |connector| connector.class_name());
                let line = format!("{name}: {class} {}", location.location);
                let _ = write!(text, "\n{}", cut(&line, self.width));
            }
        }
        text.push_str(&self.workspaces(prepared));
        let sum = |of: &dyn Fn(&Prepared) -> u64| prepared.iter().map(of).sum::<u64>();
        let (moving, there) = (sum(&|pair| pair.count.total()), sum(&|pair| pair.before.total()));
        if prepared.len() > 1 {
            let _ = write!(
                text,
                "\nTotal: {} to move, {} already on the target",
                grouped_of(moving, "record"),
                grouped(there)
            );
        }
        if let Some(batch) = prepared.first().map(|pair| pair.batch) {
            let _ = write!(
                text,
                "\nBatch size: at most {} and {}",
                grouped_of(batch.records.get() as u64, "record"),
                ByteSize(batch.bytes.get() as u64).display().iec()
            );
        }
        if there > 0 {
            let warning = format!(
                "Warning: the target already has {}. {}",
                grouped_of(there, "record"),
                what_becomes_of_them(on_conflict)
            );
            let _ = write!(
                text,
                "\n{}",
                self.palette.warning(&wrap(&warning, self.width, ""))
            );
        }
        text
    }

    /// The workspaces with the records of both sides.
    fn workspaces(&self, prepared: &[Prepared]) -> String {
        if let [one] = prepared {
            let sides = [
                (Side::Source, &one.pair.from, &one.count),
                (Side::Target, &one.pair.to, &one.before),
            ];
            let lines = sides.map(|(side, workspace, count)| {
                let line = format!("  {side} workspace {workspace}: {}", in_words(count));
                format!("\n{}", cut(&line, self.width))
            });
            return lines.concat();
        }
        let rows = prepared.iter().map(|prepared| Row {
            name: pair_name(&prepared.pair.from, &prepared.pair.to),
            cells: vec![number(&prepared.count), number(&prepared.before)],
            weight: (0, prepared.count.total()),
        });
        table(&["To move", "Already there"], rows.collect(), self.width, "")
    }

    /// The width of the terminal, in columns.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The same run as a command, broken into lines for a shell where it is wider than the terminal.
    pub(super) fn command(&self, parts: &[String]) -> String {
        let mut lines = vec!["  ".to_owned()];
        let space = self.width.saturating_sub(" \\".len());
        for part in parts {
            match lines.last_mut() {
                Some(line) if line.trim().is_empty() => line.push_str(part),
                Some(line) if line.chars().count() + 1 + part.chars().count() <= space => {
                    line.push(' ');
                    line.push_str(part);
                }
                _ => lines.push(format!("    {part}")),
            }
        }
        format!("\nThe same run as a command:\n{}", lines.join(" \\\n"))
    }

    /// The text after a job file was saved.
    pub(super) fn saved(&self, path: &Path) -> String {
        let done = format!("✓ Saved. To run it: {TOOL} --job {} --yes", path.display());
        self.palette.good(&cut(&done, self.width))
    }

    /// How many of the first records LightRAG will use.
    pub(super) fn hits_of_sample(&self, sample: &ForetoldHits) -> String {
        let text = format!("In the first records of the source: {}", hits_sentence(sample));
        format!("\n{}", wrap(&text, self.width, ""))
    }
}

fn what_becomes_of_them(policy: OnConflict) -> &'static str {
    match policy {
        OnConflict::Overwrite => "Those with the same keys will be overwritten.",
        OnConflict::Skip => "Those with the same keys will be kept.",
        OnConflict::Newer => "Those with the same keys will be overwritten if they are older.",
        OnConflict::Fail => "The run will stop at the first one with the same key.",
    }
}

/// A count without its types.
fn number(count: &Count) -> String {
    let about = if count.exact { "" } else { "about " };
    format!("{about}{}", grouped(count.total()))
}

/// A count and its types.
fn in_words(count: &Count) -> String {
    let types: Vec<String> = count
        .by_type
        .iter()
        .filter(|(_, records)| *records > 0)
        .map(|(cache_type, records)| format!("{cache_type} {}", grouped(records)))
        .collect();
    let types = if types.is_empty() {
        String::new()
    } else {
        format!(" ({})", types.join(", "))
    };
    format!("{}{types}", number(count))
}

/// The origin of a setting whose name is printed before it.
fn whence(origin: &Origin) -> String {
    match origin {
        Origin::Variable(_) => "environment".to_owned(),
        Origin::DotEnv { file, line, .. } => format!("{} line {line}", file.display()),
        other => other.to_string(),
    }
}

/// A setting with its default. Default passwords are documented, but masked all the same.
fn default_of(name: &str, value: &str) -> String {
    if name.to_ascii_lowercase().contains("password") {
        format!("{name} ***")
    } else if value.contains("://") {
        format!("{name} {}", redact_url(value, &[]))
    } else {
        format!("{name} {value}")
    }
}

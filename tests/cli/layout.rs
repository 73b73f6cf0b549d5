//! The layout of the crate: which module may import which.

use std::{collections::BTreeSet, path::Path};

/// Each module of `src/`, and the modules it may import beside itself. Together they have no cycle.
const MAY_IMPORT: [(&str, &[&str]); 7] = [
    ("model", &[]),
    ("system", &["model"]),
    ("storage", &["model", "system"]),
    ("report", &["model", "system"]),
    ("engine", &["model", "system", "storage", "report"]),
    ("config", &["model", "system", "storage", "report"]),
    (
        "interactive",
        &["model", "system", "storage", "report", "engine", "config"],
    ),
];

/// The modules that a source file imports from this crate, by `crate::…` or by a `use crate::{…}` tree.
fn imported(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, matched) in source.match_indices("crate::") {
        let rest = &source[at + matched.len()..];
        match rest.strip_prefix('{') {
            None => {
                found.insert(first_name(rest));
            }
            Some(tree) => found.extend(top_level_names(tree)),
        }
    }
    found
}

fn first_name(path: &str) -> String {
    path.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first name of each item of a `use` tree, up to the brace that closes it.
fn top_level_names(tree: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut item = String::new();
    for character in tree.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut item)),
            _ => {}
        }
        if depth == 0 && character != ',' {
            item.push(character);
        }
    }
    names.push(item);
    names
        .iter()
        .map(|item| first_name(item.trim()))
        .filter(|name| !name.is_empty())
        .collect()
}

fn source_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn imports_point_one_way() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (module, allowed) in MAY_IMPORT {
        let files = source_files(&sources.join(module));
        assert!(!files.is_empty(), "src/{module} has no source files");
        for file in files {
            for other in imported(&std::fs::read_to_string(&file).unwrap()) {
                if other != module && !allowed.contains(&other.as_str()) {
                    wrong.push(format!("{} imports {other}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_line_in_the_table() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = std::fs::read_to_string(sources.join("lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|line| {
        line.trim_start_matches("pub ")
            .strip_prefix("mod ")?
            .strip_suffix(';')
    });
    for module in declared.filter(|module| *module != "app") {
        assert!(
            MAY_IMPORT.iter().any(|(known, _)| *known == module),
            "src/{module} is not in MAY_IMPORT"
        );
    }
}

#[test]
fn imports_are_found_in_paths_and_in_trees() {
    let source =
        "use crate::{\n    config::{self, Args},\n    model::Error,\n};\nfn f() { crate::report::word(&1); }";
    let found: Vec<String> = imported(source).into_iter().collect();
    assert_eq!(found, ["config", "model", "report"]);
}

//! The shapes that real cache files have, each read by LightRAG as well: every entry that it can find is read under the
//! same key.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use migrate_llm_cache::{model::Selection, storage::Page};

use crate::{
    cases::{keys_of, pages_of, scan, source},
    support::{oracle, place::Place},
};

const FILE: &str = "kv_store_llm_response_cache.json";

/// What is read besides what LightRAG finds: entries that it leaves in an old object which it does not take apart.
const READ_BEYOND_LIGHTRAG: &[(&str, &[&str])] = &[
    // It looks at the first key alone.
    (
        "09_flat_then_nested.json",
        &["default:extract:92eb5ffee6ae2fec3ad71c777531578f"],
    ),
    // One entry without an answer has it leave all of them.
    (
        "12_nested_one_without_return.json",
        &[
            "default:extract:0cc175b9c0f1b6a831c399e269772661",
            "default:extract:92eb5ffee6ae2fec3ad71c777531578f",
        ],
    ),
];

fn shapes() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/shapes"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// The keys that LightRAG has after it opened a file. It writes back what it changed.
fn keys_of_lightrag(place: &Place, workspace: &str, file: &Path) -> BTreeSet<String> {
    oracle::read(place, workspace, &["default:extract:0".to_owned()]);
    let data: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    data.into_iter().map(|(key, _)| key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shape_is_read_with_the_keys_that_lightrag_gives_it() {
    let shapes = shapes();
    assert!(shapes.len() >= 17, "{shapes:?}");
    for shape in shapes {
        let name = shape.file_name().unwrap().to_str().unwrap();
        let place = Place::new("json");
        let file = Path::new(&place.address).join("w").join(FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(&shape, &file).unwrap();

        let source = source(&place, "w").await;
        let pages: Vec<Page> = scan(&source, &Selection::all(), pages_of(100), None).await;
        let ours: BTreeSet<String> = keys_of(&pages).into_iter().collect();
        let theirs = keys_of_lightrag(&place, "w", &file);

        let beyond = READ_BEYOND_LIGHTRAG.iter().find(|(shape, _)| *shape == name);
        let expected: BTreeSet<String> = match beyond {
            None => theirs,
            // The object that LightRAG does not take apart is none of its entries.
            Some((_, beyond)) => {
                let kept = theirs.into_iter().filter(|key| key != "default");
                kept.chain(beyond.iter().map(|key| (*key).to_owned())).collect()
            }
        };
        assert_eq!(ours, expected, "{name}");
    }
}

#[tokio::test]
async fn what_a_selection_leaves_out_of_each_shape_is_counted() {
    for shape in shapes() {
        let name = shape.file_name().unwrap().to_str().unwrap().to_owned();
        let place = Place::new("json");
        let file = Path::new(&place.address).join(FILE);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::copy(&shape, &file).unwrap();
        let source = source(&place, "").await;
        let all = source.count(&Selection::all(), &|_| ()).await.unwrap();
        for types in ["default", "extract", "query,keywords"] {
            let selection = Selection::parse(types.split(',')).unwrap();
            let count = source.count(&selection, &|_| ()).await.unwrap();
            let left_out = count.left_out.as_ref().unwrap();
            assert_eq!(
                count.total() + left_out.total(),
                all.total(),
                "{name} {types}: {left_out:?}"
            );
        }
    }
}

/// What LightRAG takes for a cache without records, it works on with; so do we.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_empty_for_lightrag_is_empty_here() {
    for text in ["", "null", "[]", "{}", "false", "0", "\"\""] {
        let place = Place::new("json");
        let file = place.file("w");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        let source = source(&place, "w").await;
        let count = source.count(&Selection::all(), &|_| ()).await.unwrap();
        assert_eq!(count.total(), 0, "{text:?}");
        let key = "default:extract:0".to_owned();
        let read = oracle::read(&place, "w", std::slice::from_ref(&key));
        assert!(read.iter().all(|found| found.is_none()), "{text:?}: {read:?}");
    }
}

//! Keys, as five releases make them out of any text.

use serde_json::{Value, json};

use crate::{
    lightrag::{analyses, hashes},
    support::{place::Place, tool::Tool},
};

/// How many prompts a release is tried with.
const PROMPTS: usize = 60;

/// Names that a careless way of writing JSON would change.
const NAMES: [&str; 4] = ["openai", "模型 \"q\" \\n", "é\u{7f}<|#|>\t", ""];

/// Numbers that are always the same.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// A prompt as JSON: every kind of character, and halves of surrogate pairs where the release can hash them.
    fn prompt(&mut self, with_halves: bool) -> String {
        let whole = [
            "a",
            "Zz ",
            "é",
            "日本",
            "😀",
            "\\n",
            "\\r\\n",
            "\\\"",
            "\\\\",
            "\\u0000",
            "\\u001f",
            "\\ud83d\\ude00",
            "/",
            "<llm_identity>",
        ];
        let halves = ["\\ud83d", "\\udc00", "\\ude00\\ud83d"];
        let mut text = String::from("\"");
        for _ in 0..self.below(200) {
            let is_half = with_halves && self.below(9) == 0;
            text += self.pick(if is_half { &halves } else { &whole });
        }
        text + "\""
    }
}

/// What the program finds out about a cache of these prompts under these hashes.
fn examined(release: &str, identity: &Value, json: bool, prompts: &[String], hashes: &[String]) -> Value {
    examined_of("extract", release, identity, json, prompts, hashes)
}

/// A value as YAML, in which not every character of a JSON text may stand by itself.
fn as_yaml(value: &Value) -> String {
    let mut text = String::new();
    for character in value.to_string().chars() {
        match u32::from(character) {
            0x20..0x7f => text.push(character),
            code @ ..=0xffff => text.push_str(&format!("\\u{code:04x}")),
            code => text.push_str(&format!("\\U{code:08x}")),
        }
    }
    text
}

fn examined_of(
    cache_type: &str,
    release: &str,
    identity: &Value,
    json: bool,
    prompts: &[String],
    hashes: &[String],
) -> Value {
    let place = Place::new("json");
    let file = place.file("w");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let entries: Vec<String> = prompts
        .iter()
        .zip(hashes)
        .map(|(prompt, hash)| {
            format!("\"default:{cache_type}:{hash}\": {{\"return\": \"x\", \"original_prompt\": {prompt}}}")
        })
        .collect();
    std::fs::write(&file, format!("{{{}}}", entries.join(",\n"))).unwrap();
    let job = place.file("").with_file_name("job.yaml");
    let lightrag = json!({
        "version": release, "binding": identity["binding"], "model": identity["model"], "host": identity["host"],
        "json_extraction": json,
    });
    std::fs::write(&job, as_yaml(&json!({"lightrag": lightrag}))).unwrap();
    let target = Place::new("json");
    let run = Tool::new(&[
        "--job",
        job.to_str().unwrap(),
        "--source",
        &place.address,
        "--target",
        &target.address,
        "--workspace",
        "w",
        "--dry-run",
        "--hits",
        "--output",
        "jsonl",
    ])
    .run();
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.events
        .iter()
        .find(|event| event["event"] == "hits")
        .expect("a hits event")
        .clone()
}

fn are_explained(release: &str) {
    let has_identity = release != "1.4.16";
    let mut numbers = Numbers(release.len() as u64 + 42);
    let mut prompts: Vec<String> = (0..PROMPTS).map(|_| numbers.prompt(true)).collect();
    prompts.sort();
    prompts.dedup();
    for json in [false, true] {
        let identity =
            json!({"binding": "open\"ai", "model": numbers.pick(&NAMES), "host": numbers.pick(&NAMES)});
        let case =
            |prompt: &String| format!("{{\"prompt\": {prompt}, \"json\": {json}, \"identity\": {identity}}}");
        let cases: Vec<String> = prompts.iter().map(case).collect();
        let hashes = hashes(release, &cases);
        let hits = examined(release, &identity, json, &prompts, &hashes);
        let records = prompts.len() as u64;
        assert_eq!(hits["total"]["records"], records);
        // Under the scheme and the identity of this LightRAG, and of no template.
        assert_eq!(
            hits["total"]["unknown_prompt"], records,
            "{release} {identity}: {hits}"
        );
        let made_for = if has_identity { identity } else { Value::Null };
        assert_eq!(hits["identities"][0]["identity"], made_for);
        assert_eq!(hits["identities"][0]["records"], records);

        // The same keys under other prompts are explained by nothing.
        let changed: Vec<String> = prompts
            .iter()
            .map(|prompt| prompt.replacen('"', "\"!", 1))
            .collect();
        let hits = examined(
            release,
            &hits["identities"][0]["identity"],
            json,
            &changed,
            &hashes,
        );
        assert_eq!(hits["total"]["unexplained"], records);
    }
}

macro_rules! releases {
    ($($name:ident $release:literal)*) => {
        mod keys_are_explained_that_were_made_by {
            $(
                #[test]
                fn $name() {
                    super::are_explained($release);
                }
            )*
        }
    };
}

releases! {
    lightrag_1_4_16 "1.4.16"
    lightrag_1_5_0 "1.5.0"
    lightrag_1_5_4 "1.5.4"
    lightrag_1_5_5 "1.5.5"
    lightrag_1_5_7 "1.5.7"
}

#[test]
fn analyses_of_tables_equations_and_images_are_hits() {
    let identity = json!({"binding": "openai", "model": "m", "host": "http://h"});
    for (release, asked) in [("1.5.0", 1), ("1.5.4", 3), ("1.5.5", 3), ("1.5.7", 3)] {
        let made = analyses(release, &identity, &["table", "equation", "drawing"]);
        let (hashes, prompts): (Vec<_>, Vec<_>) = made
            .into_iter()
            .map(|(hash, prompt)| (hash, json!(prompt).to_string()))
            .unzip();
        let hits = examined_of("analysis", release, &identity, false, &prompts, &hashes);
        assert_eq!(hits["total"]["will_hit"], 3, "{release}: {hits}");
        // Under the newest release's scheme, where that still asks the prompt.
        let hits = examined_of("analysis", "1.5.7", &identity, false, &prompts, &hashes);
        let total = &hits["total"];
        let found = total["will_hit"].as_u64().unwrap() + total["older_scheme"].as_u64().unwrap();
        assert_eq!(found, asked, "{release}: {hits}");
    }
}

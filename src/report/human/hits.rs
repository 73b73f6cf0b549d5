//! Which records LightRAG will find, and what to do about the others, in one sentence.

use std::collections::BTreeSet;

use crate::{
    model::{ForetoldHits, Identity, Rekey, plural},
    report::style::{grouped, grouped_of},
};

/// How many hosts or models are listed.
const MOST_NAMED: usize = 3;

/// The number of records that LightRAG will find, and why it will not find the others.
pub(crate) fn sentence(foretold: &ForetoldHits) -> String {
    let (lightrag, counts) = (&foretold.lightrag, &foretold.hits.total);
    let mut clauses = vec![format!(
        "{} of {} will be used by LightRAG {} with {}",
        grouped(counts.will_hit + counts.rekeyed),
        grouped_of(counts.records, "record"),
        lightrag.version,
        lightrag.identity
    )];
    let mut add = |number: u64, what: &dyn Fn(u64) -> String| {
        if number > 0 {
            clauses.push(format!("{} {}", grouped(number), what(number)));
        }
    };
    add(counts.rekeyed, &|number| {
        format!(
            "of them by {} that {} added",
            plural(number, "a copy", "copies"),
            were(number)
        )
    });
    if counts.rekeyed + counts.rekey_existing + counts.rekey_rejected == 0 {
        add(counts.to_rekey, &|number| {
            format!(
                "{} under its keys will be added",
                plural(number, "copy", "copies")
            )
        });
    }
    add_misses(foretold, &mut add);
    clauses.join("; ") + "."
}

/// Adds the clauses about records that LightRAG will not find, or not for certain.
fn add_misses(foretold: &ForetoldHits, add: &mut impl FnMut(u64, &dyn Fn(u64) -> String)) {
    let (rekey, counts) = (foretold.lightrag.rekey, &foretold.hits.total);
    let host = if rekey == Rekey::Off {
        ": add --rekey host"
    } else {
        ""
    };
    add(counts.other_host, &|number| {
        format!("{} made for {}{host}", were(number), hosts(foretold))
    });
    add(counts.older_scheme, &|number| {
        format!(
            "{} a key of an older LightRAG{host}",
            plural(number, "has", "have")
        )
    });
    let model = if rekey == Rekey::Model {
        ""
    } else {
        ": add --rekey model to use them anyway"
    };
    add(counts.other_model, &|number| {
        format!("{} made for {}{model}", were(number), models(foretold))
    });
    add(counts.older_prompt, &|number| {
        format!(
            "{} a prompt that it no longer sends, and {} useful only for rebuilds",
            plural(number, "answers", "answer"),
            plural(number, "is", "are")
        )
    });
    add(counts.unknown_prompt, &|number| {
        format!(
            "{} a custom prompt, and will be used if you have not changed it",
            plural(number, "answers", "answer")
        )
    });
    add(counts.unexplained, &|number| {
        format!(
            "{} a key that cannot be recomputed",
            plural(number, "has", "have")
        )
    });
}

/// The form of a verb for so many records.
fn were(number: u64) -> &'static str {
    plural(number, "was", "were")
}

/// The other hosts that keys were made for.
fn hosts(foretold: &ForetoldHits) -> String {
    let asked = &foretold.lightrag.identity;
    let others = others(foretold).filter(|identity| identity.has_same_model(asked));
    named(others.map(|identity| identity.host.clone().unwrap_or_else(|| "no host".to_owned())))
}

/// The other models that keys were made for.
fn models(foretold: &ForetoldHits) -> String {
    let asked = &foretold.lightrag.identity;
    let others = others(foretold).filter(|identity| !identity.has_same_model(asked));
    named(others.map(ToString::to_string))
}

fn others(foretold: &ForetoldHits) -> impl Iterator<Item = &Identity> {
    let origins = foretold.hits.identities.iter();
    origins
        .filter_map(|origin| origin.identity.as_ref())
        .filter(|identity| **identity != foretold.lightrag.identity)
}

fn named(names: impl Iterator<Item = String>) -> String {
    let names: BTreeSet<String> = names.collect();
    let more = names.len().saturating_sub(MOST_NAMED);
    let mut shown: Vec<String> = names.into_iter().take(MOST_NAMED).collect();
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AskingLightRag, HitCounts, Hits, KeyOrigin};

    fn foretold(rekey: Rekey, total: HitCounts) -> ForetoldHits {
        let old = Identity::new("openai", "gpt-4o-mini", "http://localhost:11434");
        ForetoldHits {
            lightrag: AskingLightRag {
                version: "1.5.7".to_owned(),
                identity: Identity::new("openai", "gpt-4o-mini", "https://api.openai.com/v1"),
                json_extraction: false,
                origins: Vec::new(),
                rekey,
            },
            hits: Hits {
                total,
                identities: vec![KeyOrigin {
                    releases: "1.5.5-".to_owned(),
                    identity: Some(old),
                    records: 1880,
                }],
                ..Hits::default()
            },
        }
    }

    #[test]
    fn records_of_another_host_are_counted_with_a_remedy() {
        let counts = HitCounts {
            records: 50_000,
            will_hit: 48_120,
            other_host: 1_880,
            ..HitCounts::default()
        };
        assert_eq!(
            sentence(&foretold(Rekey::Off, counts)),
            "48,120 of 50,000 records will be used by LightRAG 1.5.7 with openai / gpt-4o-mini at \
             https://api.openai.com/v1; 1,880 were made for http://localhost:11434: add --rekey host."
        );
    }

    #[test]
    fn copies_are_hits_too() {
        let counts = HitCounts {
            records: 3,
            other_host: 1,
            older_prompt: 1,
            unknown_prompt: 1,
            to_rekey: 1,
            rekeyed: 1,
            ..HitCounts::default()
        };
        assert_eq!(
            sentence(&foretold(Rekey::Host, counts)),
            "1 of 3 records will be used by LightRAG 1.5.7 with openai / gpt-4o-mini at https://api.openai.com/v1; 1 of \
              them by a copy that was added; 1 was made for http://localhost:11434; 1 answers a prompt that it no longer \
              sends, and is useful only for rebuilds; 1 answers a custom prompt, and will be used if you have not changed it."
        );
    }
}

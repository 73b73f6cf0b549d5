//! Which records LightRAG will find, and what to do about the others, in one sentence.

use std::collections::BTreeSet;

use crate::{
    model::{ForetoldHits, HitCounts, Identity, Rekey, plural},
    report::style::{grouped, grouped_of},
};

/// How many hosts or models are listed.
const MOST_NAMED: usize = 3;

/// The number of records that LightRAG will find, why it will not find the others, and what was copied.
pub(crate) fn sentence(foretold: &ForetoldHits) -> String {
    let (lightrag, counts) = (&foretold.lightrag, &foretold.hits.total);
    let copies = Copies::of(counts);
    let found = counts.will_hit + copies.all().saturating_sub(counts.to_rekey_unknown_prompt);
    let if_unchanged = counts.unknown_prompt + copies.all().min(counts.to_rekey_unknown_prompt);
    const IF: &str = "if you have not changed your custom prompts";
    let (found, condition) = match (found, if_unchanged) {
        (0, 1..) => (if_unchanged, format!(" {IF}")),
        (_, 0) => (found, String::new()),
        (_, more) => (found, format!(", and {} more {IF}", grouped(more))),
    };
    let mut clauses = vec![format!(
        "{} of {} will be used by LightRAG {} with {}{}{condition}",
        grouped(found),
        grouped_of(counts.records, "record"),
        lightrag.version,
        lightrag.identity,
        if lightrag.is_default {
            " (LightRAG's defaults, since no model is configured)"
        } else {
            ""
        }
    )];
    let mut add = |number: u64, what: &dyn Fn(u64) -> String| {
        if number > 0 {
            clauses.push(format!("{} {}", grouped(number), what(number)));
        }
    };
    add_misses(foretold, &mut add);
    copies.add(&mut add);
    clauses.join("; ") + "."
}

/// The copies under the keys that LightRAG will look up.
struct Copies {
    /// That a run with `--yes` will add.
    to_add: u64,
    added: u64,
    /// Keys that source or target have already.
    existing: u64,
    /// Records that have no copy, since the target rejected them or their copies.
    missing: u64,
}

impl Copies {
    fn of(counts: &HitCounts) -> Self {
        let (added, existing) = (counts.rekeyed, counts.rekey_existing);
        let rest = counts.to_rekey.saturating_sub(added + existing);
        let is_done = added + existing + counts.rekey_rejected > 0;
        Self {
            to_add: if is_done { 0 } else { rest },
            added,
            existing,
            missing: if is_done { rest } else { 0 },
        }
    }

    fn all(&self) -> u64 {
        self.to_add + self.added + self.existing
    }

    fn add(&self, add: &mut impl FnMut(u64, &dyn Fn(u64) -> String)) {
        const KEYS: &str = "under the keys that it looks up";
        let copies = |number| plural(number, "copy", "copies");
        add(self.to_add, &|number| {
            format!("{} will be added {KEYS}", copies(number))
        });
        add(self.added, &|number| {
            format!("{} {} added {KEYS}", copies(number), were(number))
        });
        add(self.existing, &|number| {
            format!("{} {KEYS} {} there already", copies(number), were(number))
        });
        add(self.missing, &|number| {
            format!(
                "{} no copy, since the target rejected {}",
                plural(number, "record has", "records have"),
                plural(number, "it", "them")
            )
        });
    }
}

/// Adds the clauses about records that LightRAG will not find, or not for certain. Of those that `--rekey` copies, the
/// copies are counted.
fn add_misses(foretold: &ForetoldHits, add: &mut impl FnMut(u64, &dyn Fn(u64) -> String)) {
    let (rekey, counts) = (foretold.lightrag.rekey, &foretold.hits.total);
    if rekey == Rekey::Off {
        add(counts.other_host, &|number| {
            format!("{} made for {}: add --rekey host", were(number), hosts(foretold))
        });
        add(counts.older_scheme, &|number| {
            format!(
                "{} a key of an older LightRAG: add --rekey host",
                plural(number, "has", "have")
            )
        });
    }
    if rekey != Rekey::Model {
        add(counts.other_model, &|number| {
            format!(
                "{} made for {}: add --rekey model to use them anyway",
                were(number),
                models(foretold)
            )
        });
    }
    add(counts.older_prompt, &|number| {
        format!(
            "{} a prompt that it no longer sends, and {} useful only for rebuilds",
            plural(number, "answers", "answer"),
            plural(number, "is", "are")
        )
    });
    add(counts.unexplained, &|number| {
        format!(
            "{} a key that cannot be recomputed, so whether it is used is unknown",
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
    use crate::model::{AskingLightRag, Hits, KeyOrigin};

    fn foretold(rekey: Rekey, total: HitCounts) -> ForetoldHits {
        let old = Identity::new("openai", "gpt-4o-mini", "http://localhost:11434");
        ForetoldHits {
            lightrag: AskingLightRag {
                version: "1.5.7".to_owned(),
                identity: Identity::new("openai", "gpt-4o-mini", "https://api.openai.com/v1"),
                json_extraction: false,
                origins: Vec::new(),
                is_default: false,
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
    fn a_model_that_is_not_configured_is_said_to_be_a_default() {
        let mut foretold = foretold(Rekey::Off, HitCounts::default());
        foretold.lightrag.is_default = true;
        assert_eq!(
            sentence(&foretold),
            "0 of 0 records will be used by LightRAG 1.5.7 with openai / gpt-4o-mini at https://api.openai.com/v1 \
             (LightRAG's defaults, since no model is configured)."
        );
    }

    #[test]
    fn records_of_custom_prompts_alone_are_counted_with_their_condition() {
        let counts = HitCounts {
            records: 3,
            unknown_prompt: 3,
            ..HitCounts::default()
        };
        assert_eq!(
            sentence(&foretold(Rekey::Off, counts)),
            "3 of 3 records will be used by LightRAG 1.5.7 with openai / gpt-4o-mini at https://api.openai.com/v1 if you \
             have not changed your custom prompts."
        );
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
            "1 of 3 records will be used by LightRAG 1.5.7 with openai / gpt-4o-mini at https://api.openai.com/v1, and 1 \
             more if you have not changed your custom prompts; 1 answers a prompt that it no longer sends, and is useful \
             only for rebuilds; 1 copy was added under the keys that it looks up."
        );
    }

    #[test]
    fn the_number_of_records_that_will_be_used_is_the_same_before_the_copies_are_added_and_after() {
        let counts = HitCounts {
            records: 12,
            older_scheme: 10,
            unexplained: 2,
            to_rekey: 10,
            to_rekey_unknown_prompt: 3,
            ..HitCounts::default()
        };
        let of = |rekeyed, rekey_existing, rekey_rejected| {
            sentence(&foretold(
                Rekey::Host,
                HitCounts {
                    rekeyed,
                    rekey_existing,
                    rekey_rejected,
                    ..counts.clone()
                },
            ))
        };
        let rest = ", and 3 more if you have not changed your custom prompts; 2 have a key that cannot be recomputed, so \
                    whether it is used is unknown";
        let with = "LightRAG 1.5.7 with openai / gpt-4o-mini at https://api.openai.com/v1";
        assert_eq!(
            of(0, 0, 0),
            format!(
                "7 of 12 records will be used by {with}{rest}; 10 copies will be added under the keys that it looks up."
            )
        );
        assert_eq!(
            of(6, 4, 0),
            format!(
                "7 of 12 records will be used by {with}{rest}; 6 copies were added under the keys that it looks up; 4 \
                 copies under the keys that it looks up were there already."
            )
        );
        assert_eq!(
            of(9, 0, 1),
            format!(
                "6 of 12 records will be used by {with}{rest}; 9 copies were added under the keys that it looks up; 1 \
                 record has no copy, since the target rejected it."
            )
        );
    }
}

//! Examines records: how their keys were made, and whether LightRAG will find them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    candidates::{Analysis, Candidates, Explanation, Order, analysis_hash, chat_hash},
    scheme::{Hash, PromptHasher, Scheme, parse, written},
    templates::{Pattern, TEMPLATES, Templates},
};
use crate::model::{
    AskingLightRag, Error, HitCounts, Hits, Identity, KeyOrigin, LightRag, Rekey, Result, Settings,
    record::{CacheKey, Record},
};

/// Examines the records of a run. Shared by all batches.
#[derive(Debug)]
pub struct Examiner {
    lightrag: LightRag,
    /// The number of the release in the table.
    release: usize,
    scheme: Scheme,
    rekey: Rekey,
    candidates: Candidates,
    templates: &'static Templates,
}

/// The result of examining records.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    /// Counts by type and by the origin of the keys.
    pub(crate) hits: Hits,
    /// Copies to add. Two may have the same key.
    pub(crate) copies: Vec<Copy>,
}

/// A copy of a record under the key that LightRAG will use.
#[derive(Debug)]
pub(crate) struct Copy {
    /// The index of the record among the examined ones.
    pub(crate) of: usize,
    /// The copy.
    pub(crate) record: Record,
}

/// Whether LightRAG will find a record, and if not, why. The first variant that applies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// No candidate explains the key.
    Unexplained,
    /// This LightRAG no longer sends the prompt.
    OlderPrompt,
    /// The key was made for another model.
    OtherModel,
    /// The key was made for the same model at another host.
    OtherHost,
    /// The key was made under another LightRAG's scheme.
    OlderScheme,
    /// No release sends the prompt: a hit if the user's template is unchanged.
    UnknownPrompt,
    /// LightRAG looks up this prompt under this key.
    WillHit,
}

fn count(counts: &mut HitCounts, verdict: Verdict) {
    counts.records += 1;
    *match verdict {
        Verdict::Unexplained => &mut counts.unexplained,
        Verdict::OlderPrompt => &mut counts.older_prompt,
        Verdict::OtherModel => &mut counts.other_model,
        Verdict::OtherHost => &mut counts.other_host,
        Verdict::OlderScheme => &mut counts.older_scheme,
        Verdict::UnknownPrompt => &mut counts.unknown_prompt,
        Verdict::WillHit => &mut counts.will_hit,
    } += 1;
}

/// The types whose keys can be recomputed.
const COMPUTABLE: [&str; 4] = ["extract", "summary", "smartheading", "analysis"];

/// Whether the keys of a type can be recomputed from their records.
fn is_computable(cache_type: &str) -> bool {
    COMPUTABLE.contains(&cache_type)
}

impl Examiner {
    /// An examiner for this LightRAG.
    ///
    /// # Errors
    /// The prompts of the release are unknown.
    pub fn new(lightrag: LightRag, rekey: Rekey) -> Result<Arc<Self>> {
        let templates = &*TEMPLATES;
        let releases = templates.releases();
        let newest = releases.len().saturating_sub(1);
        let release = match &lightrag.version {
            None => Some(newest),
            Some(version) => releases.iter().position(|known| known == version),
        };
        let release = release.ok_or_else(|| {
            let version = lightrag.version.as_deref().unwrap_or_default();
            let [first, last] =
                [releases.first(), releases.last()].map(|release| release.map_or("", String::as_str));
            Error::config(format!("the prompts of LightRAG {version} are unknown")).with_remedy(format!(
                "choose a release from {first} to {last}; the default is {last}"
            ))
        })?;
        let numbers: Vec<u32> = releases[release]
            .split('.')
            .filter_map(|number| number.parse().ok())
            .collect();
        Ok(Arc::new(Self {
            candidates: Candidates::new(lightrag.identities()),
            scheme: Scheme::of_release(&numbers),
            release,
            templates,
            lightrag,
            rekey,
        }))
    }

    /// Which records get a copy.
    pub(crate) fn rekey(&self) -> Rekey {
        self.rekey
    }

    /// The examiner for the settings of a run; `None` without `--hits`.
    ///
    /// # Errors
    /// As [`Examiner::new`].
    pub fn of(settings: &Settings) -> Result<Option<Arc<Self>>> {
        let lightrag = settings.lightrag.clone();
        lightrag
            .map(|lightrag| Self::new(lightrag, settings.rekey))
            .transpose()
    }

    /// The LightRAG whose hits are counted.
    pub(crate) fn lightrag(&self) -> AskingLightRag {
        AskingLightRag {
            version: self.templates.releases()[self.release].clone(),
            identity: self.lightrag.extract.clone(),
            json_extraction: self.lightrag.json_extraction,
            origins: self.lightrag.origins.clone(),
            is_default: self.lightrag.is_default,
            rekey: self.rekey,
        }
    }

    /// Examines the records to count. Takes some milliseconds of CPU time per megabyte.
    pub(crate) fn examine(&self, records: &[Record], is_counted: impl Fn(&Record) -> bool) -> Examined {
        let mut worker = Worker {
            examiner: self,
            order: self.candidates.order(),
            recent: usize::MAX,
            counts: BTreeMap::new(),
            origins: HashMap::new(),
            copies: Vec::new(),
        };
        let counted = records
            .iter()
            .enumerate()
            .filter(|(_, record)| is_counted(record));
        let mut subjects: Vec<Subject<'_>> = counted
            .filter_map(|(at, record)| Subject::of(at, record))
            .collect();
        worker.explain_likeliest(&mut subjects);
        for subject in subjects {
            worker.examine(subject);
        }
        self.candidates.remember(&worker.order);
        worker.finish()
    }
}

/// Examines one batch.
struct Worker<'a> {
    examiner: &'a Examiner,
    order: Order,
    /// The pattern of the previous prompt.
    recent: usize,
    counts: BTreeMap<String, HitCounts>,
    origins: HashMap<(Scheme, Option<usize>), u64>,
    copies: Vec<Copy>,
}

/// A record to examine.
struct Subject<'a> {
    /// Its place among the records.
    at: usize,
    record: &'a Record,
    cache_type: &'a str,
    /// Its prompt and the hash of its key, where the one may have been made from the other.
    prompt: Option<(PromptHasher, Hash)>,
    /// The candidate that explains its key, where that was found already.
    explained_by: Option<usize>,
}

impl<'a> Subject<'a> {
    /// `None` where its key is none of LightRAG's.
    fn of(at: usize, record: &'a Record) -> Option<Self> {
        let mut parts = record.key().as_str().splitn(3, ':');
        let (mode, cache_type, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let prompt = || {
            let key = parse(hash).filter(|_| mode == "default" && is_computable(cache_type))?;
            let prompt = PromptHasher::of_json(record.fields().get("original_prompt")?)?;
            Some((prompt, key))
        };
        Some(Self {
            at,
            record,
            cache_type,
            prompt: prompt(),
            explained_by: None,
        })
    }
}

/// The result of examining a record.
struct Finding {
    verdict: Verdict,
    explanation: Option<Explanation>,
    /// The hash that LightRAG will use, if a copy is needed there.
    asked: Option<Hash>,
    /// Whether the prompt is of no release.
    is_custom: bool,
}

const UNEXPLAINED: Finding = Finding {
    verdict: Verdict::Unexplained,
    explanation: None,
    asked: None,
    is_custom: false,
};

impl Worker<'_> {
    /// Notes which chats the likeliest candidate explains.
    fn explain_likeliest(&self, subjects: &mut [Subject<'_>]) {
        let chats = subjects
            .iter_mut()
            .filter(|subject| subject.cache_type != "analysis");
        let (mut chats, explained_by): (Vec<_>, Vec<_>) = chats
            .filter_map(|subject| {
                let (hasher, key) = subject.prompt.as_mut()?;
                Some(((hasher, *key), &mut subject.explained_by))
            })
            .unzip();
        let found = self
            .examiner
            .candidates
            .explain_likeliest(&mut chats, &self.order);
        for (explained_by, found) in explained_by.into_iter().zip(found) {
            *explained_by = found;
        }
    }

    fn examine(&mut self, subject: Subject<'_>) {
        let Subject {
            at,
            record,
            cache_type,
            ..
        } = subject;
        let finding = match subject.prompt {
            Some((hasher, key)) if cache_type == "analysis" => self.analysis(hasher.prompt(), key),
            Some((hasher, key)) => self.chat(cache_type, hasher, key, subject.explained_by),
            None => None,
        };
        let finding = finding.unwrap_or(UNEXPLAINED);
        if !self.counts.contains_key(cache_type) {
            self.counts.insert(cache_type.to_owned(), HitCounts::default());
        }
        if let Some(counts) = self.counts.get_mut(cache_type) {
            count(counts, finding.verdict);
            counts.to_rekey += u64::from(finding.asked.is_some());
            counts.to_rekey_unknown_prompt += u64::from(finding.asked.is_some() && finding.is_custom);
        }
        if let Some(Explanation { scheme, identity, .. }) = finding.explanation {
            *self.origins.entry((scheme, identity)).or_default() += 1;
        }
        if let Some(asked) = finding.asked {
            let key = CacheKey::new(format!("default:{cache_type}:{}", written(asked)));
            // A valid record is valid under any key.
            let copy = Record::new(key, record.value().clone());
            self.copies.extend(copy.map(|record| Copy { of: at, record }));
        }
    }

    fn finish(self) -> Examined {
        let mut hits = Hits::default();
        for counts in self.counts.values() {
            hits.total.add(counts);
        }
        hits.by_cache_type = self.counts;
        let origin = |((scheme, identity), records): ((Scheme, Option<usize>), u64)| KeyOrigin {
            releases: scheme.releases().to_owned(),
            identity: identity.and_then(|number| self.examiner.candidates.identity(number).cloned()),
            records,
        };
        hits.identities = self.origins.into_iter().map(origin).collect();
        Examined {
            hits,
            copies: self.copies,
        }
    }

    fn chat(
        &mut self,
        cache_type: &str,
        mut hasher: PromptHasher,
        key: Hash,
        explained_by: Option<usize>,
    ) -> Option<Finding> {
        let examiner = self.examiner;
        let explanation = match explained_by {
            Some(candidate) => examiner.candidates.explained(&mut self.order, candidate),
            None => examiner
                .candidates
                .explain_chat(&mut hasher, key, &mut self.order)?,
        };
        let prompt = hasher.prompt();
        let pattern = examiner.templates.recognize(cache_type, prompt, &mut self.recent);
        let lightrag = &examiner.lightrag;
        let is_extract = cache_type == "extract";
        // For a custom template, only the key is known.
        let json = match pattern {
            Some(pattern) => pattern.json,
            None => explanation.json.unwrap_or(is_extract && lightrag.json_extraction),
        };
        let other_form = is_extract && json != lightrag.json_extraction;
        let verdict = self.verdict(pattern, explanation, &lightrag.extract, other_form);
        let asked = self
            .gets_copy(verdict)
            .then(|| chat_hash(&mut hasher, examiner.scheme, json, &lightrag.extract));
        Some(Finding {
            verdict,
            explanation: Some(explanation),
            asked,
            is_custom: is_custom(pattern),
        })
    }

    fn analysis(&mut self, stored: &[u8], key: Hash) -> Option<Finding> {
        let examiner = self.examiner;
        let (prompt, images) = split_images(stored)?;
        let pattern = examiner.templates.recognize("analysis", prompt, &mut self.recent);
        let kinds: &[&str] = match (images.is_some(), pattern.map(|pattern| pattern.part.as_str())) {
            (true, _) => &["drawing"],
            (false, Some("table")) => &["table"],
            (false, Some("equation")) => &["equation"],
            (false, _) => &["table", "equation"],
        };
        let images = images.unwrap_or_else(|| "[]".to_owned());
        let mut hasher = PromptHasher::new(prompt);
        let (analysis, explanation) = kinds.iter().find_map(|kind| {
            let analysis = Analysis {
                kind,
                images: &images,
            };
            let explanation = examiner
                .candidates
                .explain_analysis(&mut hasher, key, &analysis)?;
            Some((analysis, explanation))
        })?;
        let lightrag = &examiner.lightrag;
        let identity = if analysis.kind == "drawing" {
            &lightrag.vlm
        } else {
            &lightrag.extract
        };
        let verdict = self.verdict(pattern, explanation, identity, false);
        // There were no analyses before 1.5.
        let asked = (self.gets_copy(verdict) && examiner.scheme.has_identity())
            .then(|| analysis_hash(&mut hasher, examiner.scheme, &analysis, identity));
        Some(Finding {
            verdict,
            explanation: Some(explanation),
            asked,
            is_custom: is_custom(pattern),
        })
    }

    /// Whether LightRAG, with this identity, will find a record whose key is explained.
    fn verdict(
        &self,
        pattern: Option<&Pattern>,
        explanation: Explanation,
        identity: &Identity,
        other_form: bool,
    ) -> Verdict {
        let scheme = self.examiner.scheme;
        let is_asked = pattern.is_none_or(|pattern| pattern.releases.contains(self.examiner.release));
        if !is_asked || other_form {
            return Verdict::OlderPrompt;
        }
        let made_for = explanation
            .identity
            .and_then(|number| self.examiner.candidates.identity(number));
        match made_for {
            Some(made_for) if scheme.has_identity() && made_for != identity => {
                if made_for.has_same_model(identity) {
                    Verdict::OtherHost
                } else {
                    Verdict::OtherModel
                }
            }
            _ if explanation.scheme != scheme => Verdict::OlderScheme,
            _ if is_custom(pattern) => Verdict::UnknownPrompt,
            _ => Verdict::WillHit,
        }
    }

    fn gets_copy(&self, verdict: Verdict) -> bool {
        match self.examiner.rekey {
            Rekey::Off => false,
            Rekey::Host => matches!(verdict, Verdict::OtherHost | Verdict::OlderScheme),
            Rekey::Model => matches!(
                verdict,
                Verdict::OtherHost | Verdict::OlderScheme | Verdict::OtherModel
            ),
        }
    }
}

/// Whether a prompt is of no release, so that only its user knows whether it is still sent.
fn is_custom(pattern: Option<&Pattern>) -> bool {
    pattern.is_none_or(|pattern| pattern.custom)
}

/// Splits the stored prompt of an analysis into the prompt and what LightRAG hashes of the images listed at its end.
///
/// `None` if that list cannot be parsed.
fn split_images(stored: &[u8]) -> Option<(&[u8], Option<String>)> {
    const BEGIN: &[u8] = b"\n<vlm_images>";
    const HASHED: [&str; 6] = ["bytes", "height", "index", "mime_type", "sha256", "width"];
    let Some(block) = stored.strip_suffix(b"</vlm_images>") else {
        return Some((stored, None));
    };
    let begin = memchr::memmem::rfind(block, BEGIN)?;
    let images: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_slice(&block[begin + BEGIN.len()..]).ok()?;
    let hashed = |image: &serde_json::Map<String, serde_json::Value>| {
        let fields = HASHED
            .iter()
            .map(|name| Some(((*name).to_owned(), image.get(*name)?.clone())));
        fields.collect::<Option<serde_json::Map<_, _>>>()
    };
    let hashed: Vec<_> = images.iter().map(hashed).collect::<Option<_>>()?;
    Some((&stored[..begin], Some(serde_json::to_string(&hashed).ok()?)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use md5::{Digest as _, Md5};

    use super::*;
    use crate::{engine::hits::templates::tests::templates, model::Named};

    const NEW: [&str; 2] = ["модель", "http://new"];
    const OLD_HOST: [&str; 2] = ["модель", "http://old"];
    const OTHER_MODEL: [&str; 2] = ["other", "http://new"];

    /// Asked by release 2.0, by release 1.0, and by none.
    const ASKED: &str = "Ask 7 of 中文:\né\nThe end of the prompt.";
    const NO_LONGER: &str = "Ask 7 of 中文:\né\nEnd.";
    const OWN: &str = "Fragt selbst: é";

    fn examiner(rekey: Rekey) -> Examiner {
        let identity = Identity::new("openai", NEW[0], NEW[1]);
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let lightrag = LightRag {
            version: None,
            extract: identity.clone(),
            vlm: identity,
            json_extraction: false,
            named: Named {
                bindings: list(&["openai"]),
                models: list(&[NEW[0], OTHER_MODEL[0]]),
                hosts: list(&[NEW[1], OLD_HOST[1]]),
            },
            origins: Vec::new(),
            is_default: false,
        };
        Examiner {
            candidates: Candidates::new(lightrag.identities()),
            lightrag,
            release: 1,
            scheme: Scheme::LengthPrefixed,
            rekey,
            templates: Box::leak(Box::new(templates())),
        }
    }

    fn md5(text: &str) -> String {
        let hash: Hash = Md5::digest(text).into();
        written(hash)
    }

    fn parts(prompt: &str, format: &str, [model, host]: [&str; 2]) -> [String; 5] {
        let identity =
            format!(r#"{{"binding":"openai","host":"{host}","model":"{model}","role":"extract"}}"#);
        let format = if format.is_empty() {
            ""
        } else {
            r#"{"type":"json_object"}"#
        };
        [
            prompt,
            "\n<response_format>\n",
            format,
            "\n<llm_identity>\n",
            &identity,
        ]
        .map(str::to_owned)
    }

    /// As LightRAG 1.5.0 makes a key.
    fn joined(prompt: &str, identity: [&str; 2]) -> String {
        md5(&parts(prompt, "", identity).concat())
    }

    /// As LightRAG 1.5.5 makes it.
    fn prefixed(prompt: &str, format: &str, identity: [&str; 2]) -> String {
        let prefixed = |part: &String| format!("{}:{part}", part.chars().count());
        md5(&parts(prompt, format, identity)
            .iter()
            .map(prefixed)
            .collect::<String>())
    }

    fn answer(cache_type: &str, prompt: &str, hash: &str) -> Record {
        let value = serde_json::json!({"return": "x", "original_prompt": prompt}).to_string();
        let key = CacheKey::new(format!("default:{cache_type}:{hash}"));
        Record::new(key, Bytes::from(value)).unwrap()
    }

    /// A verdict of each kind, most of them more than once, and which of the records get a copy under which key.
    #[test]
    fn every_record_gets_its_verdict_and_its_copy_also_between_others() {
        let extract = |prompt: &'static str, hash: String| ("extract", prompt, hash);
        let cases = [
            extract(ASKED, prefixed(ASKED, "", NEW)),
            extract(ASKED, prefixed(ASKED, "", OLD_HOST)),
            extract(ASKED, prefixed(ASKED, "", OTHER_MODEL)),
            extract(ASKED, joined(ASKED, NEW)),
            extract(ASKED, joined(ASKED, OLD_HOST)),
            extract(ASKED, md5(ASKED)),
            extract(NO_LONGER, prefixed(NO_LONGER, "", NEW)),
            extract(NO_LONGER, prefixed(NO_LONGER, "", OLD_HOST)),
            extract(OWN, prefixed(OWN, "", NEW)),
            extract(OWN, prefixed(OWN, "", OLD_HOST)),
            // Answers in JSON, which this LightRAG does not ask for.
            extract(OWN, prefixed(OWN, "json", NEW)),
            extract(ASKED, md5("another prompt")),
            ("summary", OWN, prefixed(OWN, "", OLD_HOST)),
            ("summary", OWN, md5(OWN)),
        ];
        let records: Vec<Record> = cases
            .iter()
            .map(|(cache_type, prompt, hash)| answer(cache_type, prompt, hash))
            .collect();
        let expected = HitCounts {
            records: 14,
            will_hit: 1,
            other_host: 4,
            other_model: 1,
            older_scheme: 3,
            older_prompt: 3,
            unknown_prompt: 1,
            unexplained: 1,
            ..HitCounts::default()
        };
        for (rekey, copied, custom) in [
            (Rekey::Off, &[][..], 0),
            (Rekey::Host, &[1, 3, 4, 5, 9, 12, 13], 3),
            (Rekey::Model, &[1, 2, 3, 4, 5, 9, 12, 13], 3),
        ] {
            let examined = examiner(rekey).examine(&records, |_| true);
            let counts = HitCounts {
                to_rekey: copied.len() as u64,
                to_rekey_unknown_prompt: custom,
                ..expected.clone()
            };
            assert_eq!(examined.hits.total, counts, "{rekey:?}");
            let found: Vec<(usize, &str)> = examined
                .copies
                .iter()
                .map(|copy| (copy.of, copy.record.key().as_str()))
                .collect();
            let keys = copied.iter().map(|of| {
                let (cache_type, prompt, _) = &cases[*of];
                (*of, format!("default:{cache_type}:{}", prefixed(prompt, "", NEW)))
            });
            let keys: Vec<(usize, String)> = keys.collect();
            let keys: Vec<(usize, &str)> = keys.iter().map(|(of, key)| (*of, key.as_str())).collect();
            assert_eq!(found, keys, "{rekey:?}");
        }
    }

    #[test]
    fn what_explained_a_key_is_told_with_how_often_it_did() {
        let records: Vec<Record> = [
            prefixed(OWN, "", OLD_HOST),
            md5(OWN),
            prefixed(ASKED, "", OLD_HOST),
        ]
        .iter()
        .zip([OWN, OWN, ASKED])
        .map(|(hash, prompt)| {
            let value = serde_json::json!({"return": "x", "original_prompt": prompt}).to_string();
            Record::new(
                CacheKey::new(format!("default:extract:{hash}")),
                Bytes::from(value),
            )
            .unwrap()
        })
        .collect();
        let examined = examiner(Rekey::Off).examine(&records, |_| true);
        let mut found: Vec<(Option<&str>, u64)> = examined
            .hits
            .identities
            .iter()
            .map(|origin| {
                let host = origin
                    .identity
                    .as_ref()
                    .and_then(|identity| identity.host.as_deref());
                (host, origin.records)
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(None, 1), (Some("http://old"), 2)]);
    }
}

//! Examines records: how their keys were made, and whether LightRAG will find them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    candidates::{Analysis, Candidates, Explanation, Order, analysis_hash, chat_hash},
    prompt::decode,
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
        let mut buffer = Vec::new();
        for (at, record) in records.iter().enumerate() {
            if is_counted(record) {
                worker.examine(at, record, &mut buffer);
            }
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

/// The result of examining a record.
struct Finding {
    verdict: Verdict,
    explanation: Option<Explanation>,
    /// The hash that LightRAG will use, if a copy is needed there.
    asked: Option<Hash>,
}

const UNEXPLAINED: Finding = Finding {
    verdict: Verdict::Unexplained,
    explanation: None,
    asked: None,
};

impl Worker<'_> {
    fn examine(&mut self, at: usize, record: &Record, buffer: &mut Vec<u8>) {
        let mut parts = record.key().as_str().splitn(3, ':');
        let (Some(mode), Some(cache_type), Some(hash)) = (parts.next(), parts.next(), parts.next()) else {
            return;
        };
        let finding = match parse(hash) {
            Some(hash) if mode == "default" && is_computable(cache_type) => {
                self.finding(record, cache_type, hash, buffer)
            }
            _ => None,
        };
        let finding = finding.unwrap_or(UNEXPLAINED);
        if !self.counts.contains_key(cache_type) {
            self.counts.insert(cache_type.to_owned(), HitCounts::default());
        }
        if let Some(counts) = self.counts.get_mut(cache_type) {
            count(counts, finding.verdict);
            counts.to_rekey += u64::from(finding.asked.is_some());
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

    fn finding(
        &mut self,
        record: &Record,
        cache_type: &str,
        key: Hash,
        buffer: &mut Vec<u8>,
    ) -> Option<Finding> {
        let fields = record.fields();
        let prompt = decode(fields.get("original_prompt")?, buffer)?;
        if cache_type == "analysis" {
            self.analysis(prompt, key)
        } else {
            self.chat(cache_type, prompt, key)
        }
    }

    fn chat(&mut self, cache_type: &str, prompt: &[u8], key: Hash) -> Option<Finding> {
        let examiner = self.examiner;
        let mut hasher = PromptHasher::new(prompt);
        let explanation = examiner
            .candidates
            .explain_chat(&mut hasher, key, &mut self.order)?;
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
            _ if pattern.is_none_or(|pattern| pattern.custom) => Verdict::UnknownPrompt,
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

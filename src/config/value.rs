//! The types of the options: how each is parsed from a flag or a field of the job file, and how layers are merged.

use std::{marker::PhantomData, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use bytesize::ByteSize;
use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value as Json, json};
use serde_yaml::{Mapping, Value as Yaml};

use super::{
    Color, OutputFormat,
    generate::Generate,
    options::{Entry, IdentitySpec},
    schema,
};
use crate::{
    model::{
        MaxErrors, OnConflict, Origin, PushUrl, RateLimit, Rekey, Result, Secret, Shard, VerifyLevel,
        record::OnInvalid,
    },
    report::logging::LogFormat,
};

/// Called for every entry of the table, with the origin of its value if the type stores one.
pub(super) type Visitor<'a> = dyn FnMut(&'static Entry, Option<&mut Origin>) + 'a;

/// The value of an entry, or a group of entries.
pub(super) trait Setting {
    /// Merges two layers: this value if it is set, else the lower one.
    fn over(self, lower: Self) -> Self;

    /// Passes the entry, and those of a group, to a visitor.
    fn visit(&mut self, entry: &'static Entry, visitor: &mut Visitor<'_>);

    /// Adds the value, as the job file writes it, if it is set; of a group, those of its entries.
    fn collect(&self, entry: &'static Entry, given: &mut Vec<Given>);

    /// JSON Schema of the field in the job file.
    fn schema() -> Json;
}

/// A value that was given.
pub(super) type Given = (&'static Entry, Yaml);

impl Setting for bool {
    fn over(self, lower: Self) -> Self {
        self || lower
    }

    fn visit(&mut self, entry: &'static Entry, visitor: &mut Visitor<'_>) {
        visitor(entry, None);
    }

    fn collect(&self, entry: &'static Entry, given: &mut Vec<Given>) {
        if *self {
            given.push((entry, Yaml::Bool(true)));
        }
    }

    fn schema() -> Json {
        schema::or_null(schema::or_variable(&json!({ "type": "boolean" })))
    }
}

impl<T: OptionValue> Setting for Option<T> {
    fn over(self, lower: Self) -> Self {
        self.or(lower)
    }

    fn visit(&mut self, entry: &'static Entry, visitor: &mut Visitor<'_>) {
        visitor(entry, self.as_mut().and_then(OptionValue::origin));
    }

    fn collect(&self, entry: &'static Entry, given: &mut Vec<Given>) {
        let value = self.as_ref().and_then(OptionValue::yaml);
        given.extend(value.map(|value| (entry, value)));
    }

    fn schema() -> Json {
        schema::or_null(T::schema())
    }
}

impl<T: OptionValue> Setting for Vec<T> {
    fn over(self, lower: Self) -> Self {
        if self.is_empty() { lower } else { self }
    }

    fn visit(&mut self, entry: &'static Entry, visitor: &mut Visitor<'_>) {
        visitor(entry, None);
    }

    fn collect(&self, entry: &'static Entry, given: &mut Vec<Given>) {
        let items: Vec<Yaml> = self.iter().filter_map(OptionValue::yaml).collect();
        if !items.is_empty() {
            given.push((entry, Yaml::Sequence(items)));
        }
    }

    fn schema() -> Json {
        schema::or_null(json!({ "type": "array", "items": T::schema() }))
    }
}

/// A value that is optional in each layer.
pub(super) trait OptionValue {
    /// Where it came from, for a value that is parsed only when it is used.
    fn origin(&mut self) -> Option<&mut Origin> {
        None
    }

    /// The value as the job file writes it; `None` if no flag can give it.
    fn yaml(&self) -> Option<Yaml>;

    /// JSON Schema of the value.
    fn schema() -> Json;
}

impl OptionValue for PathBuf {
    fn yaml(&self) -> Option<Yaml> {
        Some(self.to_string_lossy().into_owned().into())
    }

    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

impl OptionValue for String {
    fn yaml(&self) -> Option<Yaml> {
        Some(self.clone().into())
    }

    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

impl OptionValue for StorageSpec {
    fn yaml(&self) -> Option<Yaml> {
        match self {
            Self::Text(text) => Some(text.expose().into()),
            Self::Settings(_) => None,
        }
    }

    fn schema() -> Json {
        schema::storage()
    }
}

impl OptionValue for WorkspacesSpec {
    fn yaml(&self) -> Option<Yaml> {
        None
    }

    fn schema() -> Json {
        schema::workspaces()
    }
}

impl OptionValue for IdentitySpec {
    fn yaml(&self) -> Option<Yaml> {
        None
    }

    fn schema() -> Json {
        schema::or_null(<Self as Setting>::schema())
    }
}

impl OptionValue for Scalar<bool> {
    fn yaml(&self) -> Option<Yaml> {
        Some(self.0.into())
    }

    fn schema() -> Json {
        schema::or_variable(&json!({ "type": "boolean" }))
    }
}

macro_rules! choices {
    ($($type:ty),*) => {$(
        impl OptionValue for $type {
            fn yaml(&self) -> Option<Yaml> {
                Some(self.to_possible_value()?.get_name().into())
            }

            fn schema() -> Json {
                schema::choices::<Self>()
            }
        }
    )*};
}

choices!(
    Color,
    Generate,
    LogFormat,
    OnConflict,
    OnInvalid,
    OutputFormat,
    Rekey,
    VerifyLevel
);

impl OptionValue for ListSpec {
    fn origin(&mut self) -> Option<&mut Origin> {
        Some(&mut self.origin)
    }

    fn yaml(&self) -> Option<Yaml> {
        let words = self.words.iter().map(|word| Yaml::from(word.as_str()));
        Some(Yaml::Sequence(words.collect()))
    }

    fn schema() -> Json {
        json!({ "type": ["array", "string"], "items": { "type": "string" } })
    }
}

impl<T> OptionValue for Text<T> {
    fn origin(&mut self) -> Option<&mut Origin> {
        Some(&mut self.origin)
    }

    fn yaml(&self) -> Option<Yaml> {
        let number = serde_yaml::from_str(&self.text)
            .ok()
            .filter(|value| matches!(value, Yaml::Number(_)));
        let number = number.filter(|value| scalar_text(value).as_ref() == Some(&self.text));
        Some(number.unwrap_or_else(|| self.text.as_str().into()))
    }

    fn schema() -> Json {
        json!({ "type": ["string", "number"] })
    }
}

/// A group whose value may be null.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A flag without a value, in the job file: true or false, which `${NAME}` may give as text.
pub(super) fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let scalar = Option::<Scalar<bool>>::deserialize(deserializer)?;
    Ok(scalar.is_some_and(|scalar| scalar.0))
}

/// A storage: a kind or an address as text, or a mapping of settings.
#[derive(Clone, Debug)]
pub enum StorageSpec {
    /// A kind or an address, as for the flag.
    Text(Secret),
    /// `kind` or `uri`, and settings whose names the storage checks.
    Settings(Mapping),
}

impl From<String> for StorageSpec {
    fn from(text: String) -> Self {
        Self::Text(Secret::new(text))
    }
}

impl<'de> Deserialize<'de> for StorageSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Yaml::deserialize(deserializer)? {
            Yaml::String(text) => Ok(Self::Text(Secret::new(text))),
            Yaml::Mapping(settings) => Ok(Self::Settings(settings)),
            _ => Err(D::Error::custom(
                "expected a kind, an address, or a mapping with `kind`",
            )),
        }
    }
}

/// One workspace, a list of them, or all.
#[derive(Clone, Debug)]
pub enum WorkspacesSpec {
    /// All workspaces of the source.
    All,
    /// Pairs of names, `(from, to)`.
    Pairs(Vec<(String, String)>),
}

impl<'de> Deserialize<'de> for WorkspacesSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Pair {
            from: String,
            to: String,
        }
        let expected =
            || D::Error::custom("expected a name, `all`, or a list of names and `{ from: a, to: b }`");
        let pair = |item: Yaml| match item {
            Yaml::String(name) => Ok((name.clone(), name)),
            item @ Yaml::Mapping(_) => serde_yaml::from_value::<Pair>(item)
                .map(|pair| (pair.from, pair.to))
                .map_err(D::Error::custom),
            _ => Err(expected()),
        };
        match Yaml::deserialize(deserializer)? {
            Yaml::String(name) if name == "all" => Ok(Self::All),
            Yaml::Sequence(items) if items.is_empty() => Err(expected()),
            Yaml::Sequence(items) => items
                .into_iter()
                .map(pair)
                .collect::<Result<_, _>>()
                .map(Self::Pairs),
            item => Ok(Self::Pairs(vec![pair(item)?])),
        }
    }
}

/// A list of words, or one text with commas.
#[derive(Clone, Debug)]
pub struct ListSpec {
    /// The words, unparsed.
    pub words: Vec<String>,
    /// Where they came from.
    pub origin: Origin,
}

impl From<String> for ListSpec {
    fn from(text: String) -> Self {
        Self {
            words: text.split(',').map(str::to_owned).collect(),
            origin: Origin::Default,
        }
    }
}

impl<'de> Deserialize<'de> for ListSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = match Yaml::deserialize(deserializer)? {
            Yaml::String(text) => return Ok(text.into()),
            Yaml::Sequence(items) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        Ok(Self {
            words: words.ok_or_else(|| D::Error::custom("expected a list of words"))?,
            origin: Origin::Default,
        })
    }
}

/// The text of a value such as `1000`, `8MiB` or `30s`: a flag's, or text or a number in the job file. It is parsed when it
/// is used, so a value that a flag overrides need not be valid.
#[derive(Clone, Debug)]
pub struct Text<T> {
    /// The text, unparsed.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
    value: PhantomData<fn() -> T>,
}

impl<T> From<String> for Text<T> {
    fn from(text: String) -> Self {
        Self {
            text,
            origin: Origin::Default,
            value: PhantomData,
        }
    }
}

impl<'de, T> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar_text(&Yaml::deserialize(deserializer)?)
            .map(Self::from)
            .ok_or_else(|| D::Error::custom("expected a number or text"))
    }
}

/// Parses the value of an option.
///
/// # Errors
/// The text is not valid for the type. The message names its origin and what was expected.
pub(super) fn parsed<T: Parse>(text: Option<Text<T>>) -> Result<Option<T>> {
    let parse = |text: Text<T>| {
        let value = T::parse(text.text.trim());
        value.ok_or_else(|| {
            let what = format!("expected {}, found `{}`", T::EXPECTED, text.text);
            let error = text.origin.error(&what);
            match T::remedy(text.text.trim()) {
                Some(remedy) => error.with_remedy(remedy),
                None => error,
            }
        })
    };
    text.map(parse).transpose()
}

/// A type that is parsed from text.
pub(super) trait Parse: Sized {
    /// What is expected, for the error.
    const EXPECTED: &'static str;

    /// Parses text without surrounding white space; `None` if it is not valid.
    fn parse(text: &str) -> Option<Self>;

    /// What to write instead of a text that is not valid, unless [`Self::EXPECTED`] says it.
    fn remedy(_text: &str) -> Option<String> {
        None
    }
}

impl Parse for NonZeroUsize {
    const EXPECTED: &'static str = "a whole number above 0";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Parse for usize {
    const EXPECTED: &'static str = "a whole number";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Parse for Duration {
    const EXPECTED: &'static str = "a duration above 0 such as 30s";

    fn parse(text: &str) -> Option<Self> {
        let duration = humantime::parse_duration(text).ok()?;
        (!duration.is_zero()).then_some(duration)
    }

    fn remedy(text: &str) -> Option<String> {
        let number = text.parse::<u64>().ok().filter(|number| *number > 0)?;
        Some(format!("add a unit: {number}s, {number}m or {number}h"))
    }
}

impl Parse for MaxErrors {
    const EXPECTED: &'static str = "a number of records or a percentage such as 1%";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Parse for RateLimit {
    const EXPECTED: &'static str = "a number of records or bytes per second such as 1000/s or 20MiB/s";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Parse for PushUrl {
    const EXPECTED: &'static str = "the http:// or https:// address of a Pushgateway, without a query";

    fn parse(text: &str) -> Option<Self> {
        Self::parse(text)
    }

    fn remedy(text: &str) -> Option<String> {
        let with_scheme = format!("http://{text}");
        let lacks_scheme = !text.contains("://") && Self::parse(&with_scheme).is_some();
        Some(match lacks_scheme {
            true => format!("write {with_scheme}"),
            false => "write http://host:9091, or http://host:9091/metrics/job/NAME/LABEL/VALUE for a group of its own".into(),
        })
    }
}

/// A shard of the records, as it is given.
#[derive(Clone, Copy, Debug)]
pub enum ShardSpec {
    /// This one.
    Of(Shard),
    /// The one of the task in which the program runs.
    Auto,
}

impl Parse for ShardSpec {
    const EXPECTED: &'static str = "I/N with I from 0 to N-1 and N up to 4096, or auto";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            text => Shard::parse(text).map(Self::Of),
        }
    }

    fn remedy(text: &str) -> Option<String> {
        let (index, count) = text.split_once('/')?;
        let (index, count): (u32, u32) = (index.trim().parse().ok()?, count.trim().parse().ok()?);
        let last = count.checked_sub(1)?;
        let is_known = index >= count && count <= Shard::MOST;
        is_known.then(|| format!("count from 0: the shards of {count} are 0/{count} to {last}/{count}"))
    }
}

/// The limit of a batch in bytes, from 1 KiB to 1 GiB.
#[derive(Clone, Copy, Debug)]
pub struct BatchBytes(pub NonZeroUsize);

impl Parse for BatchBytes {
    const EXPECTED: &'static str = "a size from 1KiB to 1GiB such as 8MiB";

    fn parse(text: &str) -> Option<Self> {
        let bytes = ByteSize::from_str(text).ok()?.as_u64();
        if !(bytesize::KIB..=bytesize::GIB).contains(&bytes) {
            return None;
        }
        NonZeroUsize::new(usize::try_from(bytes).ok()?).map(Self)
    }
}

/// A value that `${NAME}` may give as text.
#[derive(Debug, Clone, Copy)]
pub struct Scalar<T>(pub T);

impl<'de> Deserialize<'de> for Scalar<bool> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Yaml::deserialize(deserializer)?;
        let text = scalar_text(&value).unwrap_or_default();
        text.parse()
            .map(Self)
            .map_err(|_| D::Error::custom("expected true or false"))
    }
}

/// A scalar as text; `None` for lists, mappings and null.
pub(super) fn scalar_text(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) => Some(text.clone()),
        Yaml::Number(number) => Some(number.to_string()),
        Yaml::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

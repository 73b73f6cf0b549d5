//! Text that must not be printed.

use std::{borrow::Cow, fmt};

/// A password, or text that may contain one. `Debug` and serialization show `***`; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, to parse it or to send it to a server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Removes secrets from printed text, even if they were mistyped into the wrong setting.
///
/// In any text, the password is masked in words that look like an address (`user:password@host`, with or without a
/// scheme), and so is the value of parameters such as `password=`. Settings that contain such an address are also searched
/// for as a whole, since white space or quotes in a password would end the word.
#[derive(Debug, Default)]
pub struct Redactor {
    /// Texts that must not be printed and their replacements; the longest first.
    replacements: Vec<(String, String)>,
}

impl Redactor {
    /// A redactor for these settings: arguments, variables, lines of a job file.
    pub fn new(settings: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut replacements: Vec<(String, String)> = Vec::new();
        for setting in settings {
            let setting = setting.as_ref();
            if !setting.contains('@') {
                continue;
            }
            // `--target=ADDRESS`, `uri: ADDRESS`, `MONGO_URI=ADDRESS`
            let values = [Some(setting)]
                .into_iter()
                .chain(["=", ": "].map(|sign| setting.split_once(sign).map(|(_, value)| value)));
            for value in values.flatten().map(|value| value.trim().trim_matches(QUOTES)) {
                replacements.extend(known_address(value));
            }
        }
        replacements.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        replacements.dedup();
        Self { replacements }
    }

    /// Whether the text may contain a secret. A cheap check, since most texts do not.
    pub fn may_redact(&self, text: &str) -> bool {
        !self.replacements.is_empty() || text.contains(['@', '='])
    }

    /// The text with secrets masked. Idempotent.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.may_redact(text) {
            return Cow::Borrowed(text);
        }
        let mut text = Cow::Borrowed(text);
        for (secret, shown) in &self.replacements {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), shown));
            }
        }
        match redact_words(&text) {
            Some(redacted) => Cow::Owned(redacted),
            None => text,
        }
    }

    /// Applies [`Redactor::redact`] to every text in compact JSON, except field names.
    ///
    /// Goes from text to text: the report of a run with thousands of workspaces, parsed, takes ten times its size.
    pub fn redact_json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        if !self.may_redact(json) {
            return Cow::Borrowed(json);
        }
        let mut redacted = String::with_capacity(json.len());
        let mut rest = json;
        while let Some(start) = rest.find('"') {
            let (before, text) = rest.split_at(start);
            let (text, after) = text.split_at(end_of_text(text));
            redacted.push_str(before);
            match self.redact_text(text) {
                Some(changed) if !after.starts_with(':') => redacted.push_str(&changed),
                _ => redacted.push_str(text),
            }
            rest = after;
        }
        redacted.push_str(rest);
        Cow::Owned(redacted)
    }

    /// A text in JSON with secrets masked; `None` if nothing changes.
    fn redact_text(&self, json: &str) -> Option<String> {
        if !self.may_redact(json) {
            return None;
        }
        let text: Cow<'_, str> = match json.contains('\\') {
            true => Cow::Owned(serde_json::from_str(json).ok()?),
            false => Cow::Borrowed(json.get(1..json.len() - 1)?),
        };
        match self.redact(&text) {
            Cow::Borrowed(_) => None,
            Cow::Owned(redacted) => serde_json::to_string(&redacted).ok(),
        }
    }
}

/// Where a text in JSON ends that begins with its quote: after the next quote that is not escaped.
fn end_of_text(json: &str) -> usize {
    let mut is_escaped = true; // the first one begins it
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

const MASK: &str = "***";
const QUOTES: [char; 3] = ['"', '\'', '`'];
/// Suffixes of parameters whose values are secrets: `sslpassword`, `access_token`.
const SECRET_PARAMETERS: [&str; 6] = ["password", "passwd", "pwd", "secret", "token", "apikey"];

fn ends_word(character: char) -> bool {
    character.is_whitespace() || QUOTES.contains(&character) || matches!(character, '<' | '>' | '|')
}

/// The replacements for a setting that is an address.
fn known_address(address: &str) -> Vec<(String, String)> {
    let Some(secret) = password_in(address) else {
        return Vec::new();
    };
    let password = address[secret.clone()].to_owned();
    let shown = format!("{}{MASK}{}", &address[..secret.start], &address[secret.end..]);
    let mut found = vec![(address.to_owned(), shown.clone()), (escaped(address), shown)];
    if password.contains(ends_word) {
        // Only such a password can be recognized without its address.
        found.push((escaped(&password), MASK.to_owned()));
        found.push((password, MASK.to_owned()));
    }
    found
}

/// A text as messages quote it.
fn escaped(text: &str) -> String {
    let quoted = format!("{text:?}");
    quoted[1..quoted.len() - 1].to_owned()
}

/// The range of the password in an address: from the colon after the user to the last `@`.
fn password_in(address: &str) -> Option<std::ops::Range<usize>> {
    let user = address.find("://").map_or(0, |at| at + 3);
    let end = address.rfind('@').filter(|end| *end > user)?;
    let colon = address[user..end].find(':')?;
    Some(user + colon + 1..end)
}

/// An address with each of its secrets replaced by what `replacement` makes of it. A password may be empty.
pub fn replace_secrets(address: &str, mut replacement: impl FnMut(&str) -> String) -> String {
    let mut replaced = String::with_capacity(address.len());
    push_replaced(address, &mut replacement, &mut replaced);
    replaced
}

fn push_replaced(address: &str, replacement: &mut dyn FnMut(&str) -> String, replaced: &mut String) {
    let mut address = Cow::Borrowed(address);
    if let Some(secret) = password_in(&address) {
        let (before, after) = (&address[..secret.start], &address[secret.end..]);
        let shown = replacement(&address[secret.clone()]);
        address = Cow::Owned(format!("{before}{shown}{after}"));
    }
    // `name=value` pairs, as in a query, or in PostgreSQL's `host=db password=…`.
    for (at, pair) in address.split('&').enumerate() {
        if at > 0 {
            replaced.push('&');
        }
        match pair.split_once('=') {
            Some((name, value)) if !value.is_empty() && names_a_secret(name) => {
                replaced.push_str(name);
                replaced.push('=');
                replaced.push_str(&replacement(value));
            }
            _ => replaced.push_str(pair),
        }
    }
}

/// The text with every word redacted; `None` if nothing changes.
fn redact_words(text: &str) -> Option<String> {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(ends_word).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        push_replaced(word, &mut |_| MASK.to_owned(), &mut redacted);
        let separator = after.chars().next();
        redacted.extend(separator);
        rest = &after[separator.map_or(0, char::len_utf8)..];
    }
    (redacted != text).then_some(redacted)
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_PARAMETERS.iter().any(|secret| name.ends_with(secret))
}

/// An address with its secrets masked: the password, and the values of all parameters but the harmless ones.
pub fn redact_url(address: &str, harmless_parameters: &[&str]) -> String {
    let Ok(mut url) = url::Url::parse(address) else {
        return "(unreadable address)".to_owned();
    };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "(unreadable address)".to_owned();
    }
    let parameters: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    if !parameters.is_empty() {
        let shown = parameters.into_iter().map(|(name, value)| {
            let shown = if harmless_parameters.contains(&name.as_str()) {
                value
            } else {
                "***".to_owned()
            };
            (name, shown)
        });
        url.query_pairs_mut().clear().extend_pairs(shown);
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_no_printed_form() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    fn redacted(text: &str) -> String {
        Redactor::default().redact(text).into_owned()
    }

    #[test]
    fn what_looks_like_an_address_loses_its_password_in_any_text() {
        for (text, shown) in [
            (
                "cannot use `redis://me:hunter2@h:1/0` here",
                "cannot use `redis://me:***@h:1/0` here",
            ),
            ("postgres:/rag:pa/ss@w@host", "postgres:***@host"),
            ("rag:hunter2@db/x", "rag:***@db/x"),
            ("redis://:hunter2@h", "redis://:***@h"),
            (
                "mongodb://h/?authSource=a&tlsCertificateKeyFilePassword=hunter2&w=1",
                "mongodb://h/?authSource=a&tlsCertificateKeyFilePassword=***&w=1",
            ),
            (
                "host=db password=hunter2 user=rag",
                "host=db password=*** user=rag",
            ),
            ("write to me@example.org: now", "write to me@example.org: now"),
            ("default:extract:0123", "default:extract:0123"),
        ] {
            assert_eq!(redacted(text), shown);
            assert_eq!(redacted(shown), shown);
        }
    }

    #[test]
    fn a_known_setting_may_have_blanks_and_quotes_in_its_password() {
        let redactor = Redactor::new(["--target=postgres://rag:hunter2 'x\"@db/rag"]);
        for text in [
            "bad address `postgres://rag:hunter2 'x\"@db/rag`",
            "bad address \"postgres://rag:hunter2 'x\\\"@db/rag\"",
            "the password hunter2 'x\" is wrong",
        ] {
            let shown = redactor.redact(text);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn each_secret_of_an_address_can_be_replaced_by_a_name() {
        let replaced = |address| {
            let mut numbers = 0..;
            replace_secrets(address, |_| format!("${{P{}}}", numbers.next().unwrap()))
        };
        for (address, expected) in [
            ("redis://me:hunter2@h:1/0", "redis://me:${P0}@h:1/0"),
            ("postgres://rag:a 'b\"@db/rag", "postgres://rag:${P0}@db/rag"),
            (
                "mongodb://u:p@h/?w=1&tlsCertificateKeyFilePassword=x&tls=true",
                "mongodb://u:${P0}@h/?w=1&tlsCertificateKeyFilePassword=${P1}&tls=true",
            ),
        ] {
            assert_eq!(replaced(address), expected);
        }
        for address in ["redis://me@h", "./a=b/c@d", "postgres://h/?sslmode=require"] {
            assert_eq!(replaced(address), address);
        }
    }

    #[test]
    fn texts_in_json_are_redacted_one_by_one() {
        let redactor = Redactor::new(["redis://:p \"q\\@h"]);
        for (given, expected) in [
            (
                r#"{"a":["x:hunter2@h",1],"b":"fine"}"#,
                r#"{"a":["x:***@h",1],"b":"fine"}"#,
            ),
            (r#"{"u:hunter2@h":"u:hunter2@h"}"#, r#"{"u:hunter2@h":"u:***@h"}"#),
            (
                r#"["\"u:hunter2@h\"","\\","é u:hunter2@h\n",""]"#,
                r#"["\"u:***@h\"","\\","é u:***@h\n",""]"#,
            ),
            (r#"{"a":"redis://:p \"q\\@h"}"#, r#"{"a":"redis://:***@h"}"#),
            (
                r#"{"a":1.50,"b":null,"c":"@="}"#,
                r#"{"a":1.50,"b":null,"c":"@="}"#,
            ),
        ] {
            assert_eq!(redactor.redact_json(given), expected);
        }
    }

    #[test]
    fn an_address_loses_its_password_and_unknown_parameters() {
        let shown = redact_url("redis://me:hunter2@h:1/0?token=hunter2&tls=true", &["tls"]);
        assert_eq!(shown, "redis://me:***@h:1/0?token=***&tls=true");
        assert!(!redact_url("redis://:hunter2@[", &[]).contains("hunter2"));
    }
}

//! Text that must not be printed.

use std::fmt;

/// A password, or text that may hold one. It has no form that prints it: neither `Debug` nor serialization show
/// more than `***`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for whoever sends it to a server.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An address without its secrets: the password becomes `***`, and so does the value of every parameter that is
/// not known to be harmless.
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

    #[test]
    fn an_address_loses_its_password_and_unknown_parameters() {
        let shown = redact_url("redis://me:hunter2@h:1/0?token=hunter2&tls=true", &["tls"]);
        assert_eq!(shown, "redis://me:***@h:1/0?token=***&tls=true");
        assert!(!redact_url("redis://:hunter2@[", &[]).contains("hunter2"));
    }
}

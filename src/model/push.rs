//! The address of a Pushgateway.

use std::{collections::BTreeMap, fmt};

use url::Url;

use super::redact_url;

/// The job of the metrics, unless the address names another.
const JOB: &str = "migrate-llm-cache";

/// The address of a Pushgateway (`http://host:9091`), or of a group of metrics in it (`…/metrics/job/NAME/LABEL/VALUE`).
/// What is printed has its password masked.
#[derive(Clone, PartialEq, Eq)]
pub struct PushUrl(Url);

impl PushUrl {
    /// Reads an `http://` or `https://` address; `None` if it is not one, has a query, or names a label without a value.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_whole = group(&url).is_none_or(|(_, parts)| {
            parts.len().is_multiple_of(2) && parts.iter().all(|part| !part.is_empty())
        });
        let is_plain = url.query().is_none() && url.fragment().is_none();
        (is_http && is_whole && is_plain).then_some(Self(url))
    }

    /// The address of the group whose metrics a run replaces, with its password: of the job `migrate-llm-cache`, unless the
    /// address names a group. Each shard (`0/4`) has its own group, unless the address names a `shard`.
    #[must_use]
    pub fn of_group(&self, shard: Option<&str>) -> Self {
        let mut url = self.0.clone();
        let labels = self.labels();
        // Only the address of a server without a path has none, such as `mailto:`.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
            if labels.is_empty() {
                path.extend(["metrics", "job", JOB]);
            }
            if let Some(shard) = shard.filter(|_| !labels.contains_key("shard")) {
                path.extend(["shard", &shard.replace('/', "-")]);
            }
        }
        Self(url)
    }

    /// The labels of the group, none if the address names no group. Values in Base64 stay as they are.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let (_, parts) = group(&self.0).unwrap_or_default();
        let pairs = parts.chunks_exact(2);
        pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    /// The job of the metrics.
    pub fn job(&self) -> String {
        let mut labels = self.labels();
        labels.remove("job").unwrap_or_else(|| JOB.to_owned())
    }

    /// Where the Pushgateway lists the groups that it has, as JSON.
    #[must_use]
    pub fn listing(&self) -> Self {
        let mut url = self.0.clone();
        let base = group(&url).map_or_else(|| url.path().to_owned(), |(base, _)| base);
        url.set_path(&format!("{}/api/v1/metrics", base.trim_end_matches('/')));
        Self(url)
    }

    /// The address itself, to send a request to.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for PushUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_url(self.0.as_str(), &[]))
    }
}

impl fmt::Debug for PushUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The path before the group that an address names, and the group's labels and values in turn.
fn group(url: &Url) -> Option<(String, Vec<String>)> {
    let path = url.path();
    let at = ["/metrics/job/", "/metrics/job@base64/"]
        .iter()
        .filter_map(|mark| path.find(mark))
        .min()?;
    let (base, rest) = path.split_at(at);
    let parts = rest.strip_suffix('/').unwrap_or(rest).split('/').skip(2);
    let decoded = |part: &str| {
        percent_encoding::percent_decode_str(part)
            .decode_utf8_lossy()
            .into_owned()
    };
    Some((base.to_owned(), parts.map(decoded).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed_to(text: &str, shard: Option<&str>) -> String {
        let group = PushUrl::parse(text).unwrap().of_group(shard);
        group.expose().to_string()
    }

    #[test]
    fn metrics_go_to_a_group_of_the_job_and_the_shard() {
        for (given, shard, group) in [
            (
                "http://h:9091",
                None,
                "http://h:9091/metrics/job/migrate-llm-cache",
            ),
            (
                "http://h:9091/",
                Some("0/4"),
                "http://h:9091/metrics/job/migrate-llm-cache/shard/0-4",
            ),
            (
                "https://u:p@h/push/",
                None,
                "https://u:p@h/push/metrics/job/migrate-llm-cache",
            ),
            (
                "http://h/metrics/job/nightly/team/a%2Fb/",
                Some("3/4"),
                "http://h/metrics/job/nightly/team/a%2Fb/shard/3-4",
            ),
            (
                "http://h/metrics/job/x/shard/east",
                Some("3/4"),
                "http://h/metrics/job/x/shard/east",
            ),
        ] {
            assert_eq!(pushed_to(given, shard), group);
        }
    }

    #[test]
    fn labels_and_listing_belong_to_the_address() {
        let url = PushUrl::parse("http://h/push/metrics/job/nightly/team/a%20b").unwrap();
        assert_eq!(url.job(), "nightly");
        assert_eq!(url.labels()["team"], "a b");
        assert_eq!(url.listing().expose().as_str(), "http://h/push/api/v1/metrics");
        let url = PushUrl::parse("http://h:9091").unwrap();
        assert_eq!((url.job().as_str(), url.labels().len()), (JOB, 0));
        assert_eq!(url.listing().expose().as_str(), "http://h:9091/api/v1/metrics");
    }

    #[test]
    fn what_is_not_such_an_address_is_refused_and_passwords_are_masked() {
        for text in [
            "h:9091",
            "/metrics",
            "ftp://h",
            "http://",
            "http://h?x=1",
            "http://h/metrics/job/",
            "http://h/metrics/job/x/team",
        ] {
            assert_eq!(PushUrl::parse(text), None, "{text}");
        }
        let url = PushUrl::parse("http://u:hunter2@h").unwrap();
        assert_eq!(format!("{url} {url:?}"), "http://u:***@h/ http://u:***@h/");
    }
}

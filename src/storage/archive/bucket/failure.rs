//! Errors of the services, and what to do about them.

use std::{error::Error as StdError, time::Duration};

use object_store::{
    Error as Failed,
    client::{HttpError, HttpErrorKind},
};

use super::Bucket;
use crate::model::{Error, ErrorKind};

/// The address and the variables of a service, for remedies.
pub(super) struct Service {
    pub(super) scheme: &'static str,
    pub(super) example: &'static str,
    credentials: &'static str,
    address: &'static str,
}

const SERVICES: [Service; 3] = [
    Service {
        scheme: "s3:",
        example: "s3://bucket/key.jsonl.zst",
        credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        address: "AWS_REGION, AWS_ENDPOINT_URL",
    },
    Service {
        scheme: "gs:",
        example: "gs://bucket/key.jsonl.zst",
        credentials: "GOOGLE_APPLICATION_CREDENTIALS",
        address: "the name of the bucket",
    },
    Service {
        scheme: "az:",
        example: "az://container/key.jsonl.zst",
        credentials: "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        address: "AZURE_STORAGE_ACCOUNT_NAME, AZURE_ENDPOINT",
    },
];

impl Service {
    /// The service of an address.
    pub(super) fn of(address: &str) -> &'static Self {
        let address = address.to_ascii_lowercase();
        let of_scheme = |service: &&Self| address.starts_with(service.scheme);
        SERVICES.iter().find(of_scheme).unwrap_or(&SERVICES[0])
    }

    pub(super) fn check_credentials(&self) -> String {
        format!("check the credentials: {}", self.credentials)
    }
}

impl Bucket {
    /// The error for a request that failed.
    pub(super) fn failed(&self, action: &str, error: &Failed) -> Error {
        let service = self.service;
        let mut what = brief(&error.to_string());
        if let Some(cause) = cause(error).filter(|cause| !what.contains(cause)) {
            what = format!("{what}: {cause}");
        }
        let (kind, remedy) = match error {
            _ if asked_for_credentials(&what) => {
                what = format!("no credentials are set, and this machine provides none: {what}");
                (ErrorKind::Login, Some(format!("set {}", service.credentials)))
            }
            Failed::Unauthenticated { .. } => (ErrorKind::Login, Some(service.check_credentials())),
            Failed::PermissionDenied { .. } => (
                ErrorKind::Permission,
                Some(format!(
                    "check the credentials ({}); they must be allowed to read, write and list this part of the bucket",
                    service.credentials
                )),
            ),
            Failed::NotFound { .. } => (
                ErrorKind::NotFound,
                Some("check the name of the bucket; it is not created".to_owned()),
            ),
            _ => match kind(error) {
                kind @ (ErrorKind::Unreachable | ErrorKind::Server) => {
                    (kind, Some(format!("check the address ({})", service.address)))
                }
                kind => (kind, None),
            },
        };
        let failed = Error::new(kind, format!("cannot {action} {}: {what}", self.name.display()));
        match remedy {
            Some(remedy) => failed.with_remedy(remedy),
            None => failed,
        }
    }

    /// The error for a request without an answer.
    pub(super) fn silent(&self, action: &str, limit: Duration) -> Error {
        let message = format!(
            "cannot {action} {}: no answer within {}",
            self.name.display(),
            humantime::format_duration(limit)
        );
        Error::new(ErrorKind::Timeout, message)
    }

    /// The error for an object that changed during a download.
    pub(super) fn was_replaced(&self) -> Error {
        let message = format!("{} was replaced while it was read", self.name.display());
        Error::new(ErrorKind::Busy, message).with_remedy("run the same command again")
    }
}

/// The errors that led to this one, this one first.
fn causes(error: &Failed) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |error: &&(dyn StdError + 'static)| (*error).source())
}

/// The first cause, such as "Connection refused".
fn cause(error: &Failed) -> Option<String> {
    error.source()?;
    causes(error).last().map(|cause| brief(&cause.to_string()))
}

/// The kind of an error for which the client has no name.
fn kind(error: &Failed) -> ErrorKind {
    if causes(error).any(is_tls) {
        return ErrorKind::Tls;
    }
    match causes(error).find_map(|cause| cause.downcast_ref::<HttpError>()) {
        Some(error) => match error.kind() {
            HttpErrorKind::Connect => ErrorKind::Unreachable,
            HttpErrorKind::Timeout => ErrorKind::Timeout,
            HttpErrorKind::Request | HttpErrorKind::Interrupted | HttpErrorKind::Decode => {
                ErrorKind::ConnectionLost
            }
            _ => ErrorKind::Server,
        },
        None if asks_to_come_back(&error.to_string()) => ErrorKind::Busy,
        None => ErrorKind::Server,
    }
}

fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    // As a cause, an error of the system hides the one that it consists of.
    let inner = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// Whether the service was overloaded or failed: the client keeps the status of its answer only in the text. S3 answers some
/// requests with a success and such an error as content.
fn asks_to_come_back(message: &str) -> bool {
    if message.contains("Server returned error response: ") {
        return true;
    }
    let comes_later = |status: &str| ["5", "429", "408"].iter().any(|code| status.starts_with(code));
    status(message).is_some_and(comes_later)
}

/// The status of an answer, with what follows it in the message of an error.
fn status(message: &str) -> Option<&str> {
    Some(message.split_once("status code: ")?.1)
}

/// Whether a service cannot make a request depend on the version of an object, or is set not to.
pub(super) fn lacks_conditions(error: &Failed) -> bool {
    let is_not_implemented = |status: &str| status.starts_with("501");
    matches!(error, Failed::NotImplemented { .. })
        || status(&error.to_string()).is_some_and(is_not_implemented)
}

/// Whether a request to the metadata service of AWS failed: the client makes it if no keys are set.
fn asked_for_credentials(message: &str) -> bool {
    ["/latest/api/token", "/latest/meta-data/"]
        .iter()
        .any(|path| message.contains(path))
}

/// Whether a service answers that there is no such bucket, not only no such object in it.
pub(super) fn lacks_bucket(response: &str) -> bool {
    const CODES: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];
    CODES.iter().any(|code| response.contains(code))
}

/// A message on one line, with code and message of a response in XML instead of the whole response.
pub(super) fn brief(message: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = message.split_once(&format!("<{name}>"))?;
        let (text, _) = rest.split_once(&format!("</{name}>"))?;
        text.lines().next()
    };
    let (head, response) = match message.find("<?xml").or_else(|| message.find("<Error>")) {
        Some(at) => message.split_at(at),
        None => (message, ""),
    };
    let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
    // The answer may have no content.
    let mut parts = vec![head.trim_end_matches(':').to_owned()];
    if !response.is_empty() {
        parts.extend(
            ["Code", "Message"]
                .iter()
                .filter_map(|name| Some(element(name)?.to_owned())),
        );
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_response_in_xml_code_and_message_are_shown_on_one_line() {
        let message = "Error performing GET http://h/b in 5ms - Server returned non-2xx status code: 403 Forbidden: <?xml \
                       version=\"1.0\"?>\n<Error>\n  <Code>AuthorizationFailure</Code>\n  <Message>Server failed to \
                       authenticate.\nRequestId:1\nTime:2</Message>\n</Error>";
        assert_eq!(
            brief(message),
            "Error performing GET http://h/b in 5ms - Server returned non-2xx status code: 403 Forbidden: \
             AuthorizationFailure: Server failed to authenticate."
        );
        assert_eq!(
            brief("error sending request\n  for url"),
            "error sending request for url"
        );
    }

    #[test]
    fn a_status_says_whether_a_retry_helps() {
        let with = |status: &str| format!("in 5ms - Server returned non-2xx status code: {status}: ");
        for status in [
            "500 Internal Server Error",
            "503 Slow Down",
            "429 Too Many Requests",
        ] {
            assert!(asks_to_come_back(&with(status)), "{status}");
        }
        assert!(!asks_to_come_back(&with("400 Bad Request")));
        assert!(!asks_to_come_back("Missing part"));
    }

    #[test]
    fn a_missing_bucket_is_not_a_missing_object() {
        assert!(lacks_bucket("<Error><Code>NoSuchBucket</Code></Error>"));
        assert!(lacks_bucket("<Error><Code>ContainerNotFound</Code></Error>"));
        assert!(!lacks_bucket("<Error><Code>NoSuchKey</Code></Error>"));
        assert!(!lacks_bucket("<Error><Code>BlobNotFound</Code></Error>"));
    }
}

//! What can be wrong with a host, whatever is asked for there.

use std::error::Error as StdError;

use crate::model::{Error, ErrorKind};

/// Whether a text says that a name leads to no address. The system's resolver has no kind of error for it.
pub(super) fn is_unresolved(text: &str) -> bool {
    [
        "failed to lookup address",
        "Name or service not known",
        "nodename nor servname",
        "No such host",
        "Temporary failure in name resolution",
    ]
    .iter()
    .any(|said| text.contains(said))
}

/// The error for a host whose name leads to no address. `service` is what was looked for there: `Redis`.
pub(super) fn unresolved(service: &str, host: &str, cause: impl StdError + Send + Sync + 'static) -> Error {
    let message = format!("the host name of {service} at {host} does not resolve: {cause}");
    let error = Error::new(ErrorKind::Unreachable, message).caused_by(cause);
    error.with_remedy(if host.contains('.') {
        "check the spelling of the host"
    } else {
        "check the spelling of the host; a name from Docker Compose is known to its containers only: publish the port \
         and use localhost"
    })
}

/// The end of a sentence about a login: where it came from, if that is known.
pub(super) fn login_from(origin: &str) -> String {
    match origin {
        "" => String::new(),
        origin => format!("; the login is from {origin}"),
    }
}

//! Errors that any service can have with a host: the name does not resolve, or another service listens on the port.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::model::{Error, ErrorKind};

/// Whether an error message says that a name does not resolve. The system's resolver has no error kind for it.
pub(super) fn is_unresolved(text: &str) -> bool {
    [
        "failed to lookup address",
        "could not resolve",
        "Name or service not known",
        "nodename nor servname",
        "No such host",
        "Temporary failure in name resolution",
    ]
    .iter()
    .any(|said| text.contains(said))
}

/// The error for a host whose name does not resolve. `service` is the expected one: `Redis`.
pub(super) fn unresolved(service: &str, host: &str, cause: &str) -> Error {
    let message = format!("the host name of {service} at {host} does not resolve: {cause}");
    Error::new(ErrorKind::Unreachable, message).with_remedy(if host.contains('.') {
        "check the spelling of the host"
    } else {
        "check the spelling of the host; a name from Docker Compose is known to its containers only: publish the port \
         and use localhost"
    })
}

/// A login that takes longer, which is several round trips, is worth beginning before its connection is needed.
#[cfg_attr(not(any(feature = "postgres", feature = "mongo")), allow(dead_code))]
pub(super) const LONG_LOGIN: Duration = Duration::from_millis(20);

/// The time limit for a server to identify itself.
const PROBE_TIME: Duration = Duration::from_millis(500);

/// A request to start TLS, which PostgreSQL answers with one letter (PostgreSQL documentation, "SSLRequest").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Identifies the service on a host and port, if possible. Called after a failed connection, to distinguish a wrong port
/// from an unreachable server.
pub(super) async fn service_at(address: &str) -> Option<&'static str> {
    // Redis waits for the end of a line, so it does not answer the other request.
    match answer_to(address, b"GET / HTTP/1.0\r\n\r\n").await {
        answer if answer.starts_with(b"HTTP/") => {
            // The answer of mongod to a browser.
            let is_mongo = memchr::memmem::find(&answer, b"MongoDB").is_some();
            return Some(if is_mongo { "MongoDB" } else { "an HTTP server" });
        }
        answer if answer.starts_with(b"-ERR") || answer.starts_with(b"-NOAUTH") => return Some("Redis"),
        _ => {}
    }
    let letter = answer_to(address, &SSL_REQUEST).await;
    matches!(letter[..], [b'S' | b'N']).then_some("PostgreSQL")
}

/// The first bytes of an answer; empty if there is none in time.
async fn answer_to(address: &str, question: &[u8]) -> Vec<u8> {
    let mut answer = vec![0; 512];
    let asking = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(question).await.ok()?;
        stream.read(&mut answer).await.ok()
    };
    let read = tokio::time::timeout(PROBE_TIME, asking).await.ok().flatten();
    answer.truncate(read.unwrap_or(0));
    answer
}

/// The error for a port on which another service listens.
pub(super) fn another_service(service: &str, host: &str, found: &str) -> Error {
    let message = format!("{host} answered, but not as {service}: {found} listens there");
    Error::new(ErrorKind::Unreachable, message).with_remedy("check host and port")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every connection with these bytes.
    async fn server(answers: &'static [(&'static [u8], &'static [u8])]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = [0; 512];
                let read = stream.read(&mut question).await.unwrap_or(0);
                for (begins, answer) in answers {
                    if question[..read].starts_with(begins) {
                        let _ = stream.write_all(answer).await;
                    }
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn a_service_is_known_by_its_first_answer() {
        let http: &[(&[u8], &[u8])] = &[(b"GET", b"HTTP/1.1 400 Bad Request\r\n")];
        assert_eq!(service_at(&server(http).await).await, Some("an HTTP server"));
        let redis: &[(&[u8], &[u8])] = &[(b"GET", b"-NOAUTH Authentication required.\r\n")];
        assert_eq!(service_at(&server(redis).await).await, Some("Redis"));
        let postgres: &[(&[u8], &[u8])] = &[(&[0, 0, 0, 8], b"N")];
        assert_eq!(service_at(&server(postgres).await).await, Some("PostgreSQL"));
        let mongo: &[(&[u8], &[u8])] = &[(b"GET", b"HTTP/1.0 200 OK\r\n\r\nyou access MongoDB over HTTP")];
        assert_eq!(service_at(&server(mongo).await).await, Some("MongoDB"));
        assert_eq!(service_at(&server(&[]).await).await, None);
        assert_eq!(service_at("127.0.0.1:1").await, None);
    }

    #[test]
    fn a_name_that_leads_nowhere_is_told_from_a_server_that_is_away() {
        let lookup = "failed to lookup address information: Name or service not known";
        assert!(is_unresolved(lookup));
        assert!(!is_unresolved("Connection refused (os error 111)"));
        let of_compose = unresolved("Redis", "redis:6379", lookup);
        assert!(of_compose.remedy().unwrap().contains("Docker"));
        let spelled = unresolved("Redis", "cache.example.com:6379", lookup);
        assert!(!spelled.remedy().unwrap().contains("Docker"));
    }
}

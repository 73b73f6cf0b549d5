//! TLS: trusted authorities and the client certificate. Every driver uses rustls; most take the configuration made here, the
//! others take a file with the system's authorities.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

use crate::model::{Error, ErrorKind, Result};

/// How a server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Not at all: the connection is encrypted, but any server can answer.
    None,
    /// It must be issued by a trusted authority, for any host.
    Authority,
    /// It must be issued by a trusted authority for the host.
    Host,
}

/// The trusted authorities and the client certificate, as PEM files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsOptions<'a> {
    /// How the server's certificate is checked.
    pub(crate) verification: Verification,
    /// The authorities to trust, instead of the system's.
    pub(crate) root_cert: Option<&'a Path>,
    /// A certificate revocation list; requires `root_cert`.
    pub(crate) crl: Option<&'a Path>,
    /// The client certificate and its chain; requires `key`.
    pub(crate) cert: Option<&'a Path>,
    /// The private key of the client certificate, not encrypted.
    pub(crate) key: Option<&'a Path>,
}

/// The TLS configuration for a driver.
///
/// # Errors
/// [`ErrorKind::Config`] if a file cannot be read or a required one is missing; [`ErrorKind::Tls`] if the system has no
/// trusted authorities.
pub(crate) fn client_config(options: &TlsOptions<'_>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(options, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, "TLS has no versions to offer").caused_by(error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match (options.cert, options.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => {
            let chain = read_all::<CertificateDer<'static>>(cert, "certificate")?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable(key, "private key without a passphrase", error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| {
                let (cert, key) = (cert.display(), key.display());
                Error::config(format!(
                    "{cert} and {key} are not a certificate and its key: {error}"
                ))
            })
        }
        (Some(_), None) => Err(Error::config("a client certificate requires its private key")),
        (None, Some(_)) => Err(Error::config("a private key requires its certificate")),
    }
}

fn verifier(options: &TlsOptions<'_>, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let authorities = match options.verification {
        Verification::None => None,
        Verification::Authority | Verification::Host => Some(authorities(options, provider)?),
    };
    Ok(match authorities {
        Some(authorities) if options.verification == Verification::Host => authorities,
        authorities => Arc::new(Lenient {
            authorities,
            provider: Arc::clone(provider),
        }),
    })
}

/// A verifier that trusts the configured authorities, or the system's.
fn authorities(
    options: &TlsOptions<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    match (options.root_cert, options.crl) {
        (Some(path), crl) => trusting(path, crl, provider),
        (None, Some(_)) => Err(Error::config(
            "a revocation list requires the certificate of its authority",
        )),
        (None, None) => {
            let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider));
            Ok(Arc::new(
                verifier.map_err(|error| no_authorities().caused_by(error))?,
            ))
        }
    }
}

fn no_authorities() -> Error {
    Error::new(
        ErrorKind::Tls,
        "this system has no trusted certificate authorities",
    )
    .with_remedy("install them (Debian: ca-certificates), or configure the authority's certificate")
}

/// The file with the system's authorities, for a driver that takes only a file: `SSL_CERT_FILE`, or the usual paths of
/// operating systems.
///
/// # Errors
/// [`ErrorKind::Tls`] if there is none.
pub(crate) fn system_authorities() -> Result<PathBuf> {
    openssl_probe::probe().cert_file.ok_or_else(no_authorities)
}

/// The warning about a connection whose server is not verified.
pub(crate) fn unverified(place: &str, remedy: &str) -> String {
    format!("{place}: the server's certificate is not checked, so any server could answer; {remedy}")
}

/// A verifier that trusts the authorities in a file, and rejects certificates in the revocation list.
fn trusting(
    path: &Path,
    crl: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_all::<CertificateDer<'static>>(path, "certificate")? {
        roots.add(certificate).map_err(|error| {
            Error::config(format!(
                "{} contains no valid certificate of an authority: {error}",
                path.display()
            ))
        })?;
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(crl) = crl {
        builder = builder.with_crls(read_all::<CertificateRevocationListDer<'static>>(
            crl,
            "revocation list",
        )?);
    }
    let verifier = builder
        .build()
        .map_err(|error| Error::config(format!("{} cannot be trusted: {error}", path.display())))?;
    Ok(verifier)
}

fn read_all<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>> {
    let failed = |error| unreadable(path, what, error);
    let found: Vec<T> = T::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn unreadable(path: &Path, what: &str, error: pem::Error) -> Error {
    let message = match &error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", path.display()),
        _ => format!("{} contains no {what} in PEM format", path.display()),
    };
    Error::config(message).caused_by(error)
}

/// Deliberately checks less than is safe: that the server has the key of its certificate and, if there are authorities, that
/// one of them issued it, for any host.
#[derive(Debug)]
struct Lenient {
    authorities: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.authorities.as_ref().map(|authorities| {
            authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        match verified {
            // Verifiers check the name last: a certificate with a wrong name has passed all other checks.
            None
            | Some(Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ))) => Ok(ServerCertVerified::assertion()),
            Some(verified) => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

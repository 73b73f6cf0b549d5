//! TLS: whom to trust, and who we are. Every driver here speaks it by rustls; most take its configuration as it is made
//! here, the others a file with the system's authorities.

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

/// How far a server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Not at all: what is sent is encrypted, and anybody may be at the other end.
    None,
    /// It must come from a trusted authority, for whatever host.
    Authority,
    /// It must come from a trusted authority, and be made out to the host.
    Host,
}

/// Whom to trust, and who we are: PEM files all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsOptions<'a> {
    /// How far the server's certificate is looked at.
    pub(crate) verification: Verification,
    /// The authorities to trust, instead of the system's.
    pub(crate) root_cert: Option<&'a Path>,
    /// The certificates that the authorities have revoked; takes `root_cert` beside it.
    pub(crate) crl: Option<&'a Path>,
    /// Our certificate and those up to its authority; takes `key` beside it.
    pub(crate) cert: Option<&'a Path>,
    /// The private key of our certificate, without a passphrase.
    pub(crate) key: Option<&'a Path>,
}

/// What a driver needs to speak TLS.
///
/// # Errors
/// [`ErrorKind::Config`] where a file cannot be read, or one is missing beside another; [`ErrorKind::Tls`] where the
/// system has no authorities to trust.
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
                    "{cert} and {key} are no certificate and its key: {error}"
                ))
            })
        }
        (Some(_), None) => Err(Error::config(
            "a client certificate is of no use without its private key",
        )),
        (None, Some(_)) => Err(Error::config(
            "a private key is of no use without its certificate",
        )),
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

/// A verifier that trusts the authorities that are named, or the system's.
fn authorities(
    options: &TlsOptions<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    match (options.root_cert, options.crl) {
        (Some(path), crl) => trusting(path, crl, provider),
        (None, Some(_)) => Err(Error::config(
            "a revocation list is of no use without the certificate of its authority",
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
        "this system has no certificate authorities to trust",
    )
    .with_remedy("install them (Debian: ca-certificates), or name the authority's certificate")
}

/// The file with the system's authorities, for a driver that takes no more than a file: the one that `SSL_CERT_FILE`
/// names, or where the systems have theirs.
///
/// # Errors
/// [`ErrorKind::Tls`] where there is none.
pub(crate) fn system_authorities() -> Result<PathBuf> {
    openssl_probe::probe().cert_file.ok_or_else(no_authorities)
}

/// What a person should know of a connection to whoever answers.
pub(crate) fn unverified(place: &str, remedy: &str) -> String {
    format!("{place}: the server's certificate is not checked, so anybody may have answered; {remedy}")
}

/// A verifier that trusts the authorities in a file, and no certificate that is on the list.
fn trusting(
    path: &Path,
    crl: Option<&Path>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_all::<CertificateDer<'static>>(path, "certificate")? {
        roots.add(certificate).map_err(|error| {
            Error::config(format!(
                "{} holds no certificate of an authority: {error}",
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
        _ => format!("{} holds no {what} in PEM form", path.display()),
    };
    Error::config(message).caused_by(error)
}

/// Trusts more than is safe, because that was asked for: whoever has the key to the certificate that it shows, and if
/// there are authorities, has it from one of them, for whatever host.
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
            // The name is the last thing that verifiers look at: a certificate with the wrong one has passed all else.
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

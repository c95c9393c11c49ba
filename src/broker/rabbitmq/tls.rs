//! TLS to the broker: what is trusted, who we are, and what it is called when that fails.

use std::fmt;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, InvalidMessage,
    OtherError, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

use crate::config::TlsSettings;
use crate::error::{Error, Result};

/// What every connection of a broker shares.
pub struct Tls {
    connector: TlsConnector,
    server_name: String,
}

impl Tls {
    pub fn new(settings: &TlsSettings) -> Result<Tls> {
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&settings.trusted)?);
        let pinned = settings.pinned.iter().map(|of| {
            let certificate =
                CertificateDer::from_pem_slice(of.certificate.as_bytes()).map_err(|error| unusable(&error))?;
            Ok(PinnedVerifier { certificate, from: of.from, until: of.until })
        });
        let verifier = Verifier {
            webpki: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| unusable(&error))?,
            pinned: pinned.collect::<Result<_>>()?,
            reject_unauthorized: settings.reject_unauthorized,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = if settings.key.is_empty() {
            config.with_no_client_auth()
        } else {
            let key = PrivateKeyDer::from_pem_slice(settings.key.as_bytes()).map_err(|error| unusable(&error))?;
            let chain = certificates(&settings.certificate)?;
            config.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
        };
        Ok(Tls { connector: Arc::new(config).into(), server_name: settings.server_name.clone() })
    }

    pub async fn connect(&self, host: &str, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let name = if self.server_name.is_empty() { host } else { &self.server_name };
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        self.connector.connect(name, stream).await
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: std::result::Result<_, PemError> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    all.map_err(|error| unusable(&error))
}

/// lib/options/tls.js has checked all of it, so this is what it cannot see.
fn unusable(error: &dyn fmt::Display) -> Error {
    Error::Invalid { detail: format!("mqConf.ssl cannot be used: {error}") }
}

#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<PinnedVerifier>,
    reject_unauthorized: bool,
}

/// A certificate that is trusted itself: one that a server has signed for itself is often marked as an authority's, and
/// webpki takes none of those from a server.
#[derive(Debug)]
struct PinnedVerifier {
    certificate: CertificateDer<'static>,
    from: u64,
    until: u64,
}

impl PinnedVerifier {
    fn verify(&self, name: &ServerName<'_>, now: UnixTime) -> std::result::Result<(), TlsError> {
        if now.as_secs() > self.until {
            return Err(CertificateError::Expired.into());
        }
        if now.as_secs() < self.from {
            return Err(CertificateError::NotValidYet.into());
        }
        verify_server_name(&ParsedCertificate::try_from(&self.certificate)?, name)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        if !self.reject_unauthorized {
            return Ok(ServerCertVerified::assertion());
        }
        if let Some(pinned) = self.pinned.iter().find(|pinned| pinned.certificate == *server) {
            return pinned.verify(name, now).map(|()| ServerCertVerified::assertion());
        }
        let verified = self.webpki.verify_server_cert(server, between, name, ocsp, now);
        verified.map_err(|error| match error {
            TlsError::InvalidCertificate(CertificateError::UnknownIssuer) => Untrusted::of(server, between).into(),
            TlsError::InvalidCertificate(CertificateError::Other(_)) if is_self_signed(server) => {
                Untrusted::of(server, between).into()
            }
            error => error,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// A chain that leads to nobody who is trusted, by Node's name for it.
#[derive(Clone, Copy, Debug)]
struct Untrusted(&'static str, &'static str);

impl Untrusted {
    fn of(server: &CertificateDer<'_>, between: &[CertificateDer<'_>]) -> Self {
        if is_self_signed(server) {
            Untrusted("DEPTH_ZERO_SELF_SIGNED_CERT", "the certificate is self-signed and not trusted")
        } else if between.iter().any(is_self_signed) {
            Untrusted("SELF_SIGNED_CERT_IN_CHAIN", "the root of the certificate is not trusted")
        } else if between.is_empty() {
            Untrusted("UNABLE_TO_VERIFY_LEAF_SIGNATURE", "who signed the certificate is not known")
        } else {
            Untrusted("UNABLE_TO_GET_ISSUER_CERT_LOCALLY", "who signed the certificate's chain is not known")
        }
    }
}

impl From<Untrusted> for TlsError {
    fn from(untrusted: Untrusted) -> Self {
        CertificateError::Other(OtherError(Arc::new(untrusted))).into()
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }
}

impl std::error::Error for Untrusted {}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|parsed| parsed.issuer() == parsed.subject())
}

/// The code that Node has for a failure of TLS, and a sentence; None for other failures.
pub fn failure(error: &std::io::Error) -> Option<(&'static str, String)> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    let code = match error {
        TlsError::InvalidCertificate(certificate) => match certificate {
            CertificateError::Other(OtherError(other)) => {
                let Some(untrusted) = other.downcast_ref::<Untrusted>() else {
                    return Some(("CERT_REJECTED", other.to_string()));
                };
                return Some((untrusted.0, untrusted.to_string()));
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "CERT_HAS_EXPIRED",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "CERT_NOT_YET_VALID",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "ERR_TLS_CERT_ALTNAME_INVALID"
            }
            CertificateError::BadSignature => "CERT_SIGNATURE_FAILURE",
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "INVALID_PURPOSE",
            _ => "CERT_REJECTED",
        },
        TlsError::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => "ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED",
            AlertDescription::UnknownCA => "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA",
            AlertDescription::BadCertificate => "ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE",
            AlertDescription::HandshakeFailure => "ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE",
            AlertDescription::ProtocolVersion => "ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION",
            _ => "EPROTO",
        },
        TlsError::InvalidMessage(InvalidMessage::InvalidContentType) => {
            let text = "this port speaks no TLS: use an amqp: url or leave mqConf.ssl out, or give the broker's port for TLS \
                        (5671 by default)";
            return Some(("ERR_SSL_WRONG_VERSION_NUMBER", text.to_owned()));
        }
        TlsError::InvalidMessage(_) => "ERR_SSL_WRONG_VERSION_NUMBER",
        TlsError::PeerIncompatible(_) => "ERR_SSL_UNSUPPORTED_PROTOCOL",
        _ => "EPROTO",
    };
    Some((code, error.to_string()))
}

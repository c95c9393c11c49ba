//! What a PKCS #12 file (PFX) holds.

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as PfxError;

use crate::error::{Error, Result};

/// All of it DER.
pub struct Pfx {
    /// PKCS #8
    pub keys: Vec<Vec<u8>>,
    /// X.509, in the order of the file.
    pub certificates: Vec<Vec<u8>>,
}

pub fn read(data: &[u8], passphrase: &str) -> Result<Pfx> {
    let archive = Pkcs12Archive::from_pkcs12(data, passphrase).map_err(|error| Error::Invalid {
        detail: match error {
            PfxError::MacError(_) | PfxError::UnpadError | PfxError::Pkcs5Error(_) => {
                "cannot be decrypted with mqConf.ssl.passphrase".into()
            }
            other => format!("cannot be read ({other})"),
        },
    })?;
    Ok(Pfx {
        keys: archive.keys.iter().map(|bag| bag.key.as_der().to_vec()).collect(),
        certificates: archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect(),
    })
}

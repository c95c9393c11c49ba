//! PKCS #12 files, which Node's own crypto does not open.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::to_js;
use crate::pfx;

/// All of it DER.
#[napi(object, object_from_js = false)]
pub struct NativePfx {
    /// PKCS #8
    pub keys: Vec<Buffer>,
    /// X.509
    pub certificates: Vec<Buffer>,
}

#[napi(catch_unwind)]
pub fn read_pfx(data: Buffer, passphrase: String) -> Result<NativePfx> {
    let pfx = pfx::read(&data, &passphrase).map_err(to_js)?;
    let buffers = |of: Vec<Vec<u8>>| of.into_iter().map(Buffer::from).collect();
    Ok(NativePfx { keys: buffers(pfx.keys), certificates: buffers(pfx.certificates) })
}

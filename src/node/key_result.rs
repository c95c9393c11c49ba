//! What the function for keys answers.

use napi::bindgen_prelude::*;
use napi::sys;

use super::check_status;
use crate::host::Keys;

/// Most keys are shorter, and read in one step.
const SHORT: usize = 256;

/// For each message a key, several, or none; of a single message it may be the key as it is.
pub(super) struct KeyAnswer(pub Vec<Keys>);

impl FromNapiValue for KeyAnswer {
    #[allow(unsafe_code, reason = "Node-API")]
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        let value = JsValue { env, value };
        let keys = match value.kind()? {
            sys::ValueType::napi_string => vec![Keys::One(value.text()?)],
            _ => value.each(JsValue::keys)?,
        };
        Ok(KeyAnswer(keys))
    }
}

/// A value of the environment whose thread this is, in the scope of whoever asked.
#[derive(Clone, Copy)]
struct JsValue {
    env: sys::napi_env,
    value: sys::napi_value,
}

#[allow(unsafe_code, reason = "Node-API")]
impl JsValue {
    fn kind(self) -> Result<sys::napi_valuetype> {
        let mut kind = sys::ValueType::napi_undefined;
        // SAFETY: see `JsValue`; so below.
        check_status(unsafe { sys::napi_typeof(self.env, self.value, &raw mut kind) })?;
        Ok(kind)
    }

    fn keys(self) -> Result<Keys> {
        match self.kind()? {
            sys::ValueType::napi_string => Ok(Keys::One(self.text()?)),
            sys::ValueType::napi_object => Ok(Keys::Many(self.each(JsValue::text)?)),
            _ => Ok(Keys::None),
        }
    }

    /// Of an array.
    fn each<T>(self, read: impl Fn(JsValue) -> Result<T>) -> Result<Vec<T>> {
        let JsValue { env, value } = self;
        let mut length = 0;
        // SAFETY: as above.
        check_status(unsafe { sys::napi_get_array_length(env, value, &raw mut length) })?;
        let element = |index| {
            let mut element = std::ptr::null_mut();
            // SAFETY: as above.
            check_status(unsafe { sys::napi_get_element(env, value, index, &raw mut element) })?;
            read(JsValue { env, value: element })
        };
        (0..length).map(element).collect()
    }

    /// Of a string.
    fn text(self) -> Result<Box<str>> {
        let JsValue { env, value } = self;
        let (mut short, mut length) = ([0_u8; SHORT], 0);
        // SAFETY: as above, with room for as many bytes as it is told.
        check_status(unsafe {
            sys::napi_get_value_string_utf8(env, value, short.as_mut_ptr().cast(), SHORT, &raw mut length)
        })?;
        // A character of four bytes may not have found room, and a nul comes behind.
        if length < SHORT - 4
            && let Ok(text) = std::str::from_utf8(&short[..length])
        {
            return Ok(text.into());
        }
        // SAFETY: as above.
        Ok(unsafe { String::from_napi_value(env, value) }?.into())
    }
}

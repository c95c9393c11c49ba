//! The functions of libuv that watch a socket and call a thread, as Node exports them. Looked up, since other runtimes that
//! load this addon have none of them.

use std::ffi::{CStr, c_int, c_void};
use std::io::{Error, Result};
use std::sync::{Arc, OnceLock};

use napi::sys::{self, uv_loop_s};

pub(crate) const READABLE: c_int = 1;

/// Of `uv_handle_type`.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Async = 1,
    Poll = 8,
}

/// A `uv_handle_t` of one kind or the other, of a size that only libuv knows.
#[repr(C)]
pub(crate) struct UvHandle {
    _opaque: [u8; 0],
}

/// Whom a handle belongs to; alive as long as the handle is.
pub(crate) trait UvOwner: Send + Sync + 'static {
    const KIND: Kind;
    /// The environment ends, and waits until the handle is closed.
    fn end(&self);
}

struct Held<T> {
    owner: Arc<T>,
    hook: sys::napi_async_cleanup_hook_handle,
}

type OnAsync = unsafe extern "C" fn(*mut UvHandle);
type OnPoll = unsafe extern "C" fn(*mut UvHandle, c_int, c_int);
type OnClose = unsafe extern "C" fn(*mut UvHandle);

pub(crate) struct LibUv {
    pub async_init: unsafe extern "C" fn(*mut uv_loop_s, *mut UvHandle, OnAsync) -> c_int,
    pub async_send: unsafe extern "C" fn(*mut UvHandle) -> c_int,
    pub poll_init: unsafe extern "C" fn(*mut uv_loop_s, *mut UvHandle, c_int) -> c_int,
    pub poll_start: unsafe extern "C" fn(*mut UvHandle, c_int, OnPoll) -> c_int,
    pub poll_stop: unsafe extern "C" fn(*mut UvHandle) -> c_int,
    close: unsafe extern "C" fn(*mut UvHandle, OnClose),
    unref: unsafe extern "C" fn(*mut UvHandle),
    set_data: unsafe extern "C" fn(*mut UvHandle, *mut c_void),
    get_data: unsafe extern "C" fn(*const UvHandle) -> *mut c_void,
    handle_size: unsafe extern "C" fn(c_int) -> usize,
}

#[allow(unsafe_code, reason = "libuv")]
impl LibUv {
    /// None where the process has no libuv to call.
    pub(crate) fn find() -> Option<&'static LibUv> {
        static FOUND: OnceLock<Option<LibUv>> = OnceLock::new();
        FOUND.get_or_init(LibUv::look_up).as_ref()
    }

    fn look_up() -> Option<LibUv> {
        // SAFETY: each is given the type that it has in uv.h, in every release of libuv 1.
        unsafe {
            Some(LibUv {
                async_init: symbol(c"uv_async_init")?,
                async_send: symbol(c"uv_async_send")?,
                poll_init: symbol(c"uv_poll_init")?,
                poll_start: symbol(c"uv_poll_start")?,
                poll_stop: symbol(c"uv_poll_stop")?,
                close: symbol(c"uv_close")?,
                unref: symbol(c"uv_unref")?,
                set_data: symbol(c"uv_handle_set_data")?,
                get_data: symbol(c"uv_handle_get_data")?,
                handle_size: symbol(c"uv_handle_size")?,
            })
        }
    }

    /// A handle that `start` initialises. It keeps no process alive.
    ///
    /// # Safety
    ///
    /// On the thread of `env`, whose loop `start` names. The handle must be closed with `close`, once.
    pub(crate) unsafe fn open<T: UvOwner>(
        &self,
        env: sys::napi_env,
        owner: Arc<T>,
        start: impl FnOnce(*mut UvHandle) -> c_int,
    ) -> Result<*mut UvHandle> {
        let memory = vec![0_u64; self.words(T::KIND)].into_boxed_slice();
        let handle: *mut UvHandle = Box::into_raw(memory).cast();
        if let Err(error) = check(start(handle)) {
            // SAFETY: a handle that could not be initialised is not libuv's.
            unsafe { self.free(T::KIND, handle) };
            return Err(error);
        }
        let held = Box::into_raw(Box::new(Held { owner, hook: std::ptr::null_mut() }));
        // SAFETY: the handle has been initialised. `held` lives until `on_close`, which removes the hook.
        unsafe {
            (self.set_data)(handle, held.cast());
            (self.unref)(handle);
            let hook = &raw mut (*held).hook;
            if sys::napi_add_async_cleanup_hook(env, Some(on_cleanup::<T>), held.cast(), hook) != sys::Status::napi_ok {
                (self.close)(handle, on_close::<T>);
                return Err(Error::other("no cleanup hook could be added to the environment"));
            }
        }
        Ok(handle)
    }

    /// # Safety
    ///
    /// On the loop's thread, with a handle that `open` has given to a `T` and that is not freed.
    pub(crate) unsafe fn owner<T: UvOwner>(&self, handle: *const UvHandle) -> Arc<T> {
        // SAFETY: as the caller says.
        unsafe { (*(self.get_data)(handle).cast::<Held<T>>()).owner.clone() }
    }

    /// # Safety
    ///
    /// As for `owner`, and once.
    pub(crate) unsafe fn close<T: UvOwner>(&self, handle: *mut UvHandle) {
        // SAFETY: as the caller says.
        unsafe { (self.close)(handle, on_close::<T>) };
    }

    /// # Safety
    ///
    /// `handle` must have been made by `open` for this kind, and be libuv's no more.
    unsafe fn free(&self, kind: Kind, handle: *mut UvHandle) {
        let memory = std::ptr::slice_from_raw_parts_mut(handle.cast::<u64>(), self.words(kind));
        // SAFETY: a box of this type and length.
        drop(unsafe { Box::from_raw(memory) });
    }

    fn words(&self, kind: Kind) -> usize {
        // SAFETY: of any kind.
        unsafe { (self.handle_size)(kind as c_int) }.div_ceil(size_of::<u64>())
    }
}

#[allow(unsafe_code, reason = "called by Node")]
unsafe extern "C" fn on_cleanup<T: UvOwner>(_: sys::napi_async_cleanup_hook_handle, data: *mut c_void) {
    // SAFETY: the hook is removed before this is let go of.
    let owner = unsafe { (*data.cast::<Held<T>>()).owner.clone() };
    owner.end();
}

#[allow(unsafe_code, reason = "called by libuv")]
unsafe extern "C" fn on_close<T: UvOwner>(handle: *mut UvHandle) {
    let Some(libuv) = LibUv::find() else { return };
    // SAFETY: the last that happens to the handle: what it holds is taken back, its memory freed, its hook removed.
    unsafe {
        let held = Box::from_raw((libuv.get_data)(handle).cast::<Held<T>>());
        libuv.free(T::KIND, handle);
        if !held.hook.is_null() {
            sys::napi_remove_async_cleanup_hook(held.hook);
        }
    }
}

/// libuv's errors are negative errno values on Unix.
pub(crate) fn check(status: c_int) -> Result<()> {
    if status < 0 { Err(Error::from_raw_os_error(-status)) } else { Ok(()) }
}

/// # Safety
///
/// `F` must be the type of the function that has this name.
#[allow(unsafe_code, reason = "symbols have no types")]
unsafe fn symbol<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the name ends with a nul.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: a function pointer of the type that the caller vouches for, and not null.
    (!address.is_null()).then(|| unsafe { std::mem::transmute_copy(&address) })
}

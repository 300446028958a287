//! The C heap, which SQLite and everything else here shares.

/// Gives free memory back to the system. Blocking, some milliseconds.
///
/// A thousand databases that start at once leave free blocks between those in use,
/// which the C library keeps for ever: more than the databases themselves need.
pub(crate) fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::os::raw::c_int;
        }
        // SAFETY: the signature is the one of malloc_trim(3); it may be called at any
        // time from any thread.
        let has_released = unsafe { malloc_trim(0) } != 0;
        tracing::trace!(has_released, "heap trimmed");
    }
}

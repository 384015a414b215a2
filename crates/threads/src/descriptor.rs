//! A pool as separately compiled addons share it: an address with a C layout.

use crate::job::{Shared, Task};
use std::ffi::c_void;
use std::sync::Arc;

/// Layout version of [`Descriptor`]; a pool of another version is refused.
const DESCRIPTOR_VERSION: u32 = 2;

/// A pool as another addon sees it. Lives as long as the process once handed out.
#[repr(C)]
pub struct Descriptor {
    version: u32,
    pub(crate) threads: u32,
    pub(crate) context: *const c_void,
    pub(crate) run: unsafe extern "C" fn(context: *const c_void, items: usize, task: Task, data: *const c_void),
    pub(crate) look_ahead: unsafe extern "C" fn(context: *const c_void, worker: usize, start: *const u8, bytes: usize),
}

// SAFETY: the context is a leaked `Arc<Shared>`, which is Send + Sync, and the rest is plain data.
unsafe impl Send for Descriptor {}
// SAFETY: as above; nothing in it changes after creation.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    /// Of a pool whose threads are never ended.
    pub(crate) fn of(shared: &Arc<Shared>) -> &'static Self {
        Box::leak(Box::new(Self {
            version: DESCRIPTOR_VERSION,
            threads: shared.threads as u32,
            context: Arc::as_ptr(shared).cast(),
            run: run_shared,
            look_ahead: look_ahead_shared,
        }))
    }

    /// The descriptor at an address.
    ///
    /// # Errors
    /// If the address cannot be one or the layout differs.
    ///
    /// # Safety
    /// `address` comes from [`Descriptor::of`] in this process.
    pub(crate) unsafe fn at(address: *const Self) -> Result<&'static Self, DescriptorError> {
        if address.is_null() || !address.is_aligned() {
            return Err(DescriptorError::NotAnAddress);
        }
        // SAFETY: by contract the address is a leaked descriptor.
        let descriptor = unsafe { &*address };
        if descriptor.version != DESCRIPTOR_VERSION {
            return Err(DescriptorError::Version(descriptor.version));
        }
        Ok(descriptor)
    }
}

/// Why a descriptor was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// The address is zero or not aligned.
    NotAnAddress,
    /// The pool was built by an incompatible version; holds the version found.
    Version(u32),
}

impl std::fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnAddress => write!(f, "the thread pool's address is not valid"),
            Self::Version(found) => {
                write!(f, "the thread pool has layout {found}, this build needs {DESCRIPTOR_VERSION}")
            }
        }
    }
}

impl std::error::Error for DescriptorError {}

unsafe extern "C" fn run_shared(context: *const c_void, items: usize, task: Task, data: *const c_void) {
    // SAFETY: the context of a descriptor is a leaked `Arc<Shared>`.
    let shared = unsafe { &*context.cast::<Shared>() };
    // SAFETY: passed on from the caller.
    unsafe { shared.run(items, task, data) };
}

unsafe extern "C" fn look_ahead_shared(context: *const c_void, worker: usize, start: *const u8, bytes: usize) {
    // SAFETY: the context of a descriptor is a leaked `Arc<Shared>`.
    let shared = unsafe { &*context.cast::<Shared>() };
    shared.look_ahead(worker, start, bytes);
}

//! A group of indexes as another addon of the process sees it.
//!
//! A decoder asks for attention once per layer and token. Through JavaScript each such call costs about as much as
//! reading a layer's keys and values, because between two of them the weights of a layer have passed through the caches
//! and taken JavaScript's code and objects with them. So the addon that has the keys and values gives the address of a
//! [`GroupEntry`], with a C layout, and the addon that has the weights calls it directly.

use std::ffi::c_void;

/// Layout version of [`GroupEntry`]; an entry of another version is refused.
const ENTRY_VERSION: u32 = 1;

/// Numbers of a report per lane: rows, retained mass, tiles read, tiles visible.
pub const REPORT: usize = 4;

/// Numbers that a call reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Read {
    start: *const f32,
    length: usize,
}

/// Numbers that a call writes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Written<T> {
    start: *mut T,
    length: usize,
}

/// One call: vectors are appended to every lane, then as many queries search, each up to the vectors appended with it.
#[repr(C)]
pub struct Call {
    /// `[n][lanes][dimensions]`
    keys: Read,
    /// `[n][lanes][value_dimensions]`
    values: Read,
    /// `[n][lanes * group][dimensions]`
    queries: Read,
    /// `[n][lanes * group][value_dimensions]`
    output: Written<f32>,
    /// `[lanes][REPORT]`
    reports: Written<f64>,
}

/// The arrays of a [`Call`].
pub struct Arrays<'a> {
    /// `[n][lanes][dimensions]`
    pub keys: &'a [f32],
    /// `[n][lanes][value_dimensions]`
    pub values: &'a [f32],
    /// `[n][lanes * group][dimensions]`
    pub queries: &'a [f32],
    /// Takes `[n][lanes * group][value_dimensions]`.
    pub output: &'a mut [f32],
    /// Takes `[lanes][REPORT]`.
    pub reports: &'a mut [f64],
}

impl Call {
    /// The arrays again.
    ///
    /// # Safety
    /// The call was made by [`GroupEntry::append_and_search`], which has not returned yet, and its arrays are asked for
    /// once.
    #[must_use]
    pub unsafe fn arrays(&self) -> Arrays<'_> {
        // SAFETY: all come from slices that are borrowed for the whole call.
        unsafe {
            Arrays {
                keys: std::slice::from_raw_parts(self.keys.start, self.keys.length),
                values: std::slice::from_raw_parts(self.values.start, self.values.length),
                queries: std::slice::from_raw_parts(self.queries.start, self.queries.length),
                output: std::slice::from_raw_parts_mut(self.output.start, self.output.length),
                reports: std::slice::from_raw_parts_mut(self.reports.start, self.reports.length),
            }
        }
    }
}

/// What does a call. False: it could not, and all is as it was.
pub type Serve = unsafe extern "C" fn(context: *mut c_void, call: *const Call) -> bool;

/// A group as another addon sees it.
#[repr(C)]
pub struct GroupEntry {
    version: u32,
    context: *mut c_void,
    serve: Serve,
}

/// Why an address was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum EntryError {
    /// The address is zero or not aligned.
    NotAnAddress,
    /// The entry was built by an incompatible version; holds the version found.
    Version(u32),
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnAddress => write!(f, "the address of a group is not valid"),
            Self::Version(found) => write!(f, "a group has layout {found}, this build needs {ENTRY_VERSION}"),
        }
    }
}

impl std::error::Error for EntryError {}

impl GroupEntry {
    /// An entry that hands each call to `serve`, with `context`.
    #[must_use]
    pub fn new(context: *mut c_void, serve: Serve) -> Self {
        Self { version: ENTRY_VERSION, context, serve }
    }

    /// The entry at an address that another addon gave.
    ///
    /// # Errors
    /// If the address cannot be one or the layout differs.
    ///
    /// # Safety
    /// `address` is that of an entry of this process which lives as long as the reference.
    pub unsafe fn at<'a>(address: *const Self) -> Result<&'a Self, EntryError> {
        if address.is_null() || !address.is_aligned() {
            return Err(EntryError::NotAnAddress);
        }
        // SAFETY: by contract.
        let entry = unsafe { &*address };
        if entry.version == ENTRY_VERSION { Ok(entry) } else { Err(EntryError::Version(entry.version)) }
    }

    /// Appends and searches. False: the group could not, and is as it was.
    ///
    /// # Safety
    /// The context is alive and nobody else uses it meanwhile.
    #[must_use]
    pub unsafe fn append_and_search(&self, arrays: Arrays<'_>) -> bool {
        let read = |numbers: &[f32]| Read { start: numbers.as_ptr(), length: numbers.len() };
        let Arrays { keys, values, queries, output, reports } = arrays;
        let call = Call {
            keys: read(keys),
            values: read(values),
            queries: read(queries),
            output: Written { start: output.as_mut_ptr(), length: output.len() },
            reports: Written { start: reports.as_mut_ptr(), length: reports.len() },
        };
        // SAFETY: the entry's maker vouches for `serve` and `context`; the arrays outlive the call.
        unsafe { (self.serve)(self.context, &raw const call) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn sum(context: *mut c_void, call: *const Call) -> bool {
        // SAFETY: the test below passes a number, and the call is alive.
        let (calls, call) = unsafe { (&mut *context.cast::<usize>(), &*call) };
        // SAFETY: asked for once.
        let Arrays { keys, values, queries, output, reports } = unsafe { call.arrays() };
        *calls += 1;
        output[0] = [keys, values, queries].into_iter().flatten().sum();
        reports[1] = 7.0;
        !keys.is_empty()
    }

    #[test]
    fn a_call_reaches_the_group() {
        let mut calls = 0_usize;
        let entry = GroupEntry::new((&raw mut calls).cast(), sum);
        // SAFETY: the entry lives as long as the reference.
        let entry = unsafe { GroupEntry::at(&raw const entry) }.unwrap();
        let (mut output, mut reports) = ([0.0; 2], [0.0; REPORT]);
        for keys in [&[1.0, 2.0][..], &[]] {
            let arrays =
                Arrays { keys, values: &[4.0], queries: &[8.0, 16.0], output: &mut output, reports: &mut reports };
            // SAFETY: `calls` is alive and only used by the call.
            let served = unsafe { entry.append_and_search(arrays) };
            assert_eq!(served, !keys.is_empty());
        }
        assert_eq!((output, reports), ([28.0, 0.0], [0.0, 7.0, 0.0, 0.0]));
        assert_eq!(calls, 2);
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        // SAFETY: a null address is refused before it is followed.
        assert!(matches!(unsafe { GroupEntry::at(std::ptr::null()) }, Err(EntryError::NotAnAddress)));
        let other = GroupEntry { version: 99, ..GroupEntry::new(std::ptr::null_mut(), sum) };
        // SAFETY: the entry is alive.
        assert!(matches!(unsafe { GroupEntry::at(&raw const other) }, Err(EntryError::Version(99))));
    }
}

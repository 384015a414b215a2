//! The numbers that arrays in a file are made of.

#[cfg(target_endian = "big")]
compile_error!("index files are little-endian, and arrays are read in place");

/// A number whose bytes in memory are its bytes in a file.
///
/// # Safety
///
/// Every pattern of bytes must be a valid value, zeros included, and there must be no padding.
pub(crate) unsafe trait Number: Copy + PartialEq + Send + Sync + 'static {
    /// The kind in the section table: bytes of a number, plus 16 if signed, plus 32 if floating.
    const KIND: u32;
}

macro_rules! numbers {
    ($($number:ty: $flags:expr),*) => {
        $(
            // SAFETY: a primitive number.
            unsafe impl Number for $number {
                const KIND: u32 = size_of::<$number>() as u32 + $flags;
            }
        )*
    };
}

numbers!(u8: 0, u16: 0, u32: 0, u64: 0, i8: 16, f32: 32, f64: 32);

/// The bytes of numbers.
pub(crate) fn bytes_of<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, and every byte is valid.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// The bytes of numbers, to write them.
pub(crate) fn bytes_of_mut<T: Number>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: numbers have no padding, and every pattern of bytes is valid.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

//! Errors as JavaScript sees them: `code` is one of the stable `ERR_…` codes, the message holds the values.

use iceformer_transformer::TransformerError;

/// A result whose error becomes a JavaScript `Error` with a `code`.
pub type Result<T> = napi::Result<T, &'static str>;

/// Turns an error of the layers into a JavaScript error.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub fn to_js(error: TransformerError) -> napi::Error<&'static str> {
    napi::Error::new(error.code(), error.to_string())
}

/// An error that arises in the binding itself.
pub fn fail<T>(code: &'static str, message: impl Into<String>) -> Result<T> {
    Err(napi::Error::new(code, message.into()))
}

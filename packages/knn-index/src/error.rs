//! Errors as JavaScript sees them: `error.code` is stable, and `error.cause.message` holds the code and the
//! offending values as JSON, from which the TypeScript door makes a `KnnIndexError`.

use std::fmt::Write;

use iceformer_knn::{Detail, Error};

/// The result of an exported function; the status of the error is its code.
pub type Result<T> = std::result::Result<T, napi::Error<&'static str>>;

/// An error of the index, for a synchronous call.
pub fn js_error(error: Error) -> napi::Error<&'static str> {
    let mut thrown = napi::Error::new(error.code(), error.to_string());
    thrown.set_cause(napi::Error::from_reason(describe(&error)));
    thrown
}

/// The same for the promise of an asynchronous call.
pub fn task_error(error: &Error) -> napi::Error {
    let mut thrown = napi::Error::from_reason(error.to_string());
    thrown.set_cause(napi::Error::from_reason(describe(error)));
    thrown
}

/// Use after close.
pub fn closed() -> napi::Error<&'static str> {
    js_error(Error::Closed)
}

/// An error of Node itself.
pub fn from_napi(error: napi::Error) -> napi::Error<&'static str> {
    napi::Error::new("ERR_INTERNAL", error.reason)
}

/// `{"code": ..., "details": {...}}`. Names and words are our own and need no escapes.
fn describe(error: &Error) -> String {
    let mut json = format!(r#"{{"code":"{}","details":{{"#, error.code());
    for (i, (name, detail)) in error.details().into_iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = match detail {
            Detail::Number(number) if number.is_finite() => write!(json, r#"{comma}"{name}":{number}"#),
            Detail::Number(number) => write!(json, r#"{comma}"{name}":"{number}""#),
            Detail::Text(text) => write!(json, r#"{comma}"{name}":"{text}""#),
        };
    }
    json.push_str("}}");
    json
}

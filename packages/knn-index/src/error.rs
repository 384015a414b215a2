//! Errors as JavaScript sees them: `error.code` is stable, and `error.cause.message` holds the code and the
//! offending values as JSON, from which the TypeScript door makes a `KnnIndexError`.

use std::fmt::Write;

use iceformer_knn::{Detail, Error};

/// The result of an exported function; the status of the error is its code.
pub type Result<T> = std::result::Result<T, napi::Error<&'static str>>;

/// What goes wrong in a call.
#[derive(Debug)]
pub enum Fault {
    /// In the index.
    Index(Error),
    /// A number that cannot be an id.
    Id {
        /// The number.
        id: f64,
        /// Which of the ids.
        position: usize,
    },
    /// Ids that numbers cannot hold.
    WideIds {
        /// The largest id.
        largest: u64,
    },
    /// A bug of ours.
    Panic,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Index(error)
    }
}

/// The largest id of an index whose ids are numbers.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

impl Fault {
    const fn code(&self) -> &'static str {
        match self {
            Self::Index(error) => error.code(),
            Self::Id { .. } | Self::WideIds { .. } => "ERR_ID",
            Self::Panic => "ERR_INTERNAL",
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Index(error) => error.to_string(),
            Self::Id { id, .. } => format!("{id} is not an id: ids are whole numbers from 0 to {MAX_SAFE_INTEGER}"),
            Self::WideIds { largest } => {
                format!("the index holds ids up to {largest}, which are bigints: open it with ids: 'bigint'")
            }
            Self::Panic => "the native index failed".to_owned(),
        }
    }

    /// `{"code": ..., "details": {...}}`. Names and words are our own and need no escapes; numbers that JSON does
    /// not have are written as words, and ids that numbers cannot hold as digits.
    fn describe(&self) -> String {
        let mut json = format!(r#"{{"code":"{}","details":{{"#, self.code());
        let details = match self {
            Self::Index(error) => error.details(),
            Self::Id { id, position } => {
                vec![("id", Detail::Number(*id)), ("position", Detail::Number(*position as f64))]
            }
            Self::WideIds { .. } | Self::Panic => Vec::new(),
        };
        for (i, (name, detail)) in details.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = match detail {
                Detail::Number(number) if number.is_finite() => write!(json, r#"{comma}"{name}":{number}"#),
                Detail::Number(number) => write!(json, r#"{comma}"{name}":"{number}""#),
                Detail::Text(text) => write!(json, r#"{comma}"{name}":"{text}""#),
            };
        }
        if let Self::Index(error) = self {
            describe_more(error, &mut json);
        }
        json.push_str("}}");
        json
    }

    /// For a synchronous call.
    pub fn thrown(&self) -> napi::Error<&'static str> {
        let mut thrown = napi::Error::new(self.code(), self.message());
        thrown.set_cause(napi::Error::from_reason(self.describe()));
        thrown
    }

    /// For the promise of an asynchronous call.
    pub fn rejection(&self) -> napi::Error {
        let mut thrown = napi::Error::from_reason(self.message());
        thrown.set_cause(napi::Error::from_reason(self.describe()));
        thrown
    }
}

/// What a [`Detail`] cannot hold: paths, and ids that numbers cannot.
fn describe_more(error: &Error, json: &mut String) {
    let (name, text) = match error {
        Error::Io { file, .. }
        | Error::NotAnIndex { file }
        | Error::FileVersion { file, .. }
        | Error::FileCorrupt { file, .. } => ("file", file.clone()),
        &Error::Id { id } | &Error::DuplicateId { id } | &Error::UnknownId { id } if id > MAX_SAFE_INTEGER => {
            ("id", id.to_string())
        }
        &Error::IdsExhausted { last } if last > MAX_SAFE_INTEGER => ("last", last.to_string()),
        _ => return,
    };
    if !json.ends_with('{') {
        json.push(',');
    }
    // Writing to a string cannot fail.
    let _ = write!(json, r#""{name}":""#);
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(json, "\\{c}"),
            c if c.is_control() => write!(json, "\\u{:04x}", u32::from(c)),
            c => write!(json, "{c}"),
        };
    }
    json.push('"');
}

/// An error of the index, for a synchronous call.
pub fn js_error(error: impl Into<Fault>) -> napi::Error<&'static str> {
    error.into().thrown()
}

/// Use after close.
pub fn closed() -> napi::Error<&'static str> {
    js_error(Error::Closed)
}

/// An error of Node itself.
pub fn from_napi(error: napi::Error) -> napi::Error<&'static str> {
    napi::Error::new("ERR_INTERNAL", error.reason)
}

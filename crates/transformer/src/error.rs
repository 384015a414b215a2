//! What can go wrong, each kind with a stable code and the offending values.

use std::path::PathBuf;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformerError {
    /// A size in the configuration is zero, odd where it must be even, or does not divide as it must.
    #[error("{name} is {value}: {requirement}")]
    Configuration {
        /// The configuration field.
        name: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        requirement: String,
    },
    /// The norms' epsilon is not a finite number from zero up.
    #[error("normEps is {value}, it must be a finite number from 0 up")]
    NormEps {
        /// The value given.
        value: f32,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("tensor {name} has shape {found:?}, the configuration needs {expected:?}")]
    TensorShape {
        /// The tensor's role, for example `layers.3.q`.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor's element type is not one that weights can be read from.
    #[error("tensor {name} has dtype {found}, weights can be read from F32, F16 and BF16")]
    TensorDtype {
        /// The tensor's role.
        name: String,
        /// The type given.
        found: String,
    },
    /// A tensor's byte length does not fit its shape and type.
    #[error("tensor {name} has {found} bytes, its shape and dtype need {expected}")]
    TensorLength {
        /// The tensor's role.
        name: String,
        /// The length given.
        found: u64,
        /// Elements times bytes per element.
        expected: u64,
    },
    /// A tensor's file cannot be read, or ends before the tensor does.
    #[error("tensor {name} cannot be read from {path}: {reason}", path = .path.display())]
    TensorFile {
        /// The tensor's role.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A layer was used before its weights were loaded.
    #[error("layer {layer} is not loaded (load step {step} first)", step = .layer + 1)]
    LayerNotLoaded {
        /// The layer.
        layer: usize,
    },
    /// The embedding, head and final norm were used before they were loaded.
    #[error("the embedding is not loaded (load step 0 first)")]
    EmbeddingNotLoaded,
    /// A layer that the model does not have.
    #[error("layer {layer} does not exist, the model has {layers} layers")]
    LayerOutOfRange {
        /// The layer asked for.
        layer: usize,
        /// How many there are.
        layers: usize,
    },
    /// A load step that the model does not have.
    #[error("load step {step} does not exist, the model has {steps} steps")]
    StepOutOfRange {
        /// The step asked for.
        step: usize,
        /// How many there are.
        steps: usize,
    },
    /// A token id is not in the vocabulary.
    #[error("token {token} at position {position} is outside the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token id.
        token: u32,
        /// Where in the chunk it stands.
        position: usize,
        /// The size of the vocabulary.
        vocabulary: usize,
    },
    /// A row of the chunk that logits were asked for does not exist.
    #[error("row {row} is outside the chunk of {rows} tokens")]
    RowOutOfRange {
        /// The row asked for.
        row: u32,
        /// How many there are.
        rows: usize,
    },
    /// An argument array has the wrong length.
    #[error("{name} has {found} elements, it needs {expected} ({shape})")]
    BufferLength {
        /// The argument.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length that it must have.
        expected: usize,
        /// The shape in words, for example `[tokens, heads, headDim]`.
        shape: &'static str,
    },
    /// More tokens in one chunk than the decoder has room for.
    #[error("the chunk has {found} tokens, the decoder was made for at most {limit}")]
    ChunkTooLong {
        /// Tokens given.
        found: usize,
        /// The most that fit.
        limit: usize,
    },
    /// A call out of order: nothing has been embedded, or no rotation was set for the chunk.
    #[error("{call} was called before {before}")]
    OutOfOrder {
        /// The call.
        call: &'static str,
        /// What has to come first.
        before: &'static str,
    },
    /// The system refused memory.
    #[error("no memory for {bytes} bytes ({purpose})")]
    OutOfMemory {
        /// How much was asked for.
        bytes: u64,
        /// What for.
        purpose: String,
    },
}

impl TransformerError {
    /// The stable machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Configuration { .. } | Self::NormEps { .. } => "ERR_CONFIGURATION",
            Self::TensorShape { .. } => "ERR_TENSOR_SHAPE",
            Self::TensorDtype { .. } => "ERR_TENSOR_DTYPE",
            Self::TensorLength { .. } => "ERR_TENSOR_LENGTH",
            Self::TensorFile { .. } => "ERR_TENSOR_FILE",
            Self::LayerNotLoaded { .. } | Self::EmbeddingNotLoaded => "ERR_LAYER_NOT_LOADED",
            Self::LayerOutOfRange { .. } => "ERR_LAYER_OUT_OF_RANGE",
            Self::StepOutOfRange { .. } => "ERR_STEP_OUT_OF_RANGE",
            Self::TokenOutOfRange { .. } => "ERR_TOKEN_OUT_OF_RANGE",
            Self::RowOutOfRange { .. } => "ERR_ROW_OUT_OF_RANGE",
            Self::BufferLength { .. } => "ERR_BUFFER_LENGTH",
            Self::ChunkTooLong { .. } => "ERR_CHUNK_TOO_LONG",
            Self::OutOfOrder { .. } => "ERR_OUT_OF_ORDER",
            Self::OutOfMemory { .. } => "ERR_OUT_OF_MEMORY",
        }
    }
}

/// Result with [`TransformerError`].
pub type Result<T> = std::result::Result<T, TransformerError>;

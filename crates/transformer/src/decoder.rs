//! A Llama-family decoder without its attention.
//!
//! One chunk of tokens goes: [`Decoder::embed`], [`Decoder::rotation`], then for each layer [`Decoder::project`],
//! attention by the caller, [`Decoder::finish`], or [`Decoder::finish`] alone where the attention sublayer is left out; at
//! the end [`Decoder::logits`] for the rows that are of interest. The
//! residual stream stays inside, in buffers that are allocated when the decoder is made.

use iceformer_simd::{Kernels, kernels};
use iceformer_threads::ThreadPool;

use crate::config::{DecoderConfig, DecoderTensors, LayerTensors};
use crate::embedding::Embedding;
use crate::error::{Result, TransformerError};
use crate::layer::{Layer, Projected};
use crate::linear::Linear;
use crate::mlp::Mlp;
use crate::norm::RmsNorm;
use crate::packed::PackedMatrix;
use crate::product::look_ahead;
use crate::rope::Rotation;
use crate::weight::StoredTensor;
use crate::weight_memory::WeightMemory;
use crate::workspace::{Workspace, WorkspaceShape};

/// The dense part of a decoder-only transformer.
pub struct Decoder {
    config: DecoderConfig,
    tensors: DecoderTensors,
    kernels: &'static Kernels,
    pool: ThreadPool,
    embedding: Option<Embedding>,
    layers: Vec<Option<Layer>>,
    /// Whether each layer attended when it was last finished: so it will the next time, which says what to fetch ahead.
    attends: Vec<bool>,
    /// Where the weights of all steps go, those loaded for the first time at least.
    memory: Option<WeightMemory>,
    workspace: Workspace,
    rotation: Rotation,
    /// Tokens in the current chunk.
    rows: usize,
    output_share: f64,
}

impl Decoder {
    /// Checks sizes and shapes and allocates what a forward pass works in. Reads no weights: see [`Self::load`].
    pub fn new(config: DecoderConfig, tensors: DecoderTensors, pool: ThreadPool) -> Result<Self> {
        Self::with_kernels(config, tensors, pool, kernels())
    }

    /// The same at a given SIMD level.
    pub fn with_kernels(
        config: DecoderConfig,
        tensors: DecoderTensors,
        pool: ThreadPool,
        kernels: &'static Kernels,
    ) -> Result<Self> {
        config.check()?;
        config.check_tensors(&tensors)?;
        let shape = WorkspaceShape {
            max_chunk: config.max_chunk,
            hidden: config.hidden,
            attended: config.query_width(),
            intermediate: config.intermediate,
            head_dim: config.head_dim,
            threads: pool.threads(),
            precision: config.precision,
        };
        let workspace = Workspace::new(&shape, kernels)?;
        let rotation = Rotation::new(config.max_chunk, config.head_dim)?;
        let layers: Vec<_> = tensors.layers.iter().map(|_| None).collect();
        let attends = vec![true; layers.len()];
        let memory = WeightMemory::new(config.weight_memory(&tensors));
        Ok(Self {
            config,
            tensors,
            kernels,
            pool,
            embedding: None,
            layers,
            attends,
            memory,
            workspace,
            rotation,
            rows: 0,
            output_share: 0.0,
        })
    }

    /// Steps of loading: one for embedding, head and final norm, then one for each layer.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.layers.len() + 1
    }

    /// Reads and packs the weights of one step, on all threads. Steps may come in any order.
    pub fn load(&mut self, step: usize) -> Result<()> {
        let Some(layer) = step.checked_sub(1) else {
            self.embedding = Some(self.load_embedding()?);
            return Ok(());
        };
        let Some(tensors) = self.tensors.layers.get(layer) else {
            return Err(TransformerError::StepOutOfRange { step, steps: self.steps() });
        };
        self.layers[layer] = Some(self.load_layer(tensors)?);
        Ok(())
    }

    /// Bytes of the weights loaded so far.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.embedding.as_ref().map_or(0, Embedding::bytes)
            + self.layers.iter().flatten().map(Layer::bytes).sum::<u64>()
    }

    /// Bytes of the memory that a forward pass works in, allocated when the decoder was made.
    #[must_use]
    pub fn working_bytes(&self) -> u64 {
        self.workspace.bytes() + self.rotation.bytes()
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Number of layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Starts a chunk: the embeddings of `tokens` become the residual stream.
    pub fn embed(&mut self, tokens: &[u32]) -> Result<()> {
        let Some(embedding) = &self.embedding else {
            return Err(TransformerError::EmbeddingNotLoaded);
        };
        if tokens.len() > self.config.max_chunk {
            return Err(TransformerError::ChunkTooLong { found: tokens.len(), limit: self.config.max_chunk });
        }
        let vocabulary = self.config.vocabulary;
        if let Some(position) = tokens.iter().position(|&token| token as usize >= vocabulary) {
            return Err(TransformerError::TokenOutOfRange { token: tokens[position], position, vocabulary });
        }
        self.rotation.clear();
        self.rows = tokens.len();
        embedding.gather(self.kernels, &self.pool, tokens, &self.workspace.hidden.view());
        Ok(())
    }

    /// Sets the rotary tables of the chunk's positions, `[tokens, headDim / 2]` each.
    pub fn rotation(&mut self, cos: &[f32], sin: &[f32]) -> Result<()> {
        if self.rows == 0 {
            return Err(TransformerError::OutOfOrder { call: "rotation", before: "embed" });
        }
        self.rotation.set(self.rows, cos, sin)
    }

    /// Computes a layer's queries `[tokens, heads, headDim]`, keys and values `[tokens, kvHeads, headDim]`: input norm,
    /// products, biases, q/k norm, rotation.
    pub fn project(&mut self, layer: usize, q: &mut [f32], k: &mut [f32], v: &mut [f32]) -> Result<()> {
        if self.rows == 0 || self.rotation.rows() != self.rows {
            return Err(TransformerError::OutOfOrder { call: "project", before: "embed and rotation" });
        }
        let (query, key) = (self.rows * self.config.query_width(), self.rows * self.config.key_width());
        check_length("q", q.len(), query, "[tokens, heads, headDim]")?;
        check_length("k", k.len(), key, "[tokens, kvHeads, headDim]")?;
        check_length("v", v.len(), key, "[tokens, kvHeads, headDim]")?;
        let loaded = loaded(&self.layers, layer)?;
        let out = Projected { q, k, v };
        loaded.project(self.kernels, &self.pool, self.rows, &mut self.workspace, &self.rotation, out);
        Ok(())
    }

    /// Takes what attention made of a layer's queries, `[tokens, heads, headDim]`, through the rest of the layer: output
    /// product, residual, norm, MLP, residual. None leaves the attention sublayer out, as if it had answered zero: then the
    /// layer need not have been projected, and nothing is multiplied before the MLP.
    pub fn finish(&mut self, layer: usize, attended: Option<&[f32]>) -> Result<()> {
        if self.rows == 0 {
            return Err(TransformerError::OutOfOrder { call: "finish", before: "embed" });
        }
        if let Some(attended) = attended {
            check_length(
                "attended",
                attended.len(),
                self.rows * self.config.query_width(),
                "[tokens, heads, headDim]",
            )?;
        }
        let loaded = loaded(&self.layers, layer)?;
        self.attends[layer] = attended.is_some();
        let next = if layer + 1 < self.layers.len() {
            first_read(&self.layers, &self.attends, layer + 1)
        } else {
            self.embedding.as_ref().map(|embedding| vec![embedding.head()])
        };
        let next = next.unwrap_or_default();
        self.output_share = loaded.finish(self.kernels, &self.pool, self.rows, &mut self.workspace, attended, &next);
        Ok(())
    }

    /// Share of the time of the last [`Self::finish`] that went into the output product and the norm behind it, 0 to 1;
    /// the rest went into the MLP. 0 before.
    #[must_use]
    pub fn output_share(&self) -> f64 {
        self.output_share
    }

    /// Final norm and head for the given rows of the chunk; `out` is `[rows, vocabSize]`.
    pub fn logits(&mut self, rows: &[u32], out: &mut [f32]) -> Result<()> {
        let Some(embedding) = &self.embedding else {
            return Err(TransformerError::EmbeddingNotLoaded);
        };
        if rows.len() > self.config.max_chunk {
            return Err(TransformerError::ChunkTooLong { found: rows.len(), limit: self.config.max_chunk });
        }
        if let Some(&row) = rows.iter().find(|&&row| row as usize >= self.rows) {
            return Err(TransformerError::RowOutOfRange { row, rows: self.rows });
        }
        check_length("out", out.len(), rows.len().saturating_mul(self.config.vocabulary), "[rows, vocabSize]")?;
        let hidden = self.workspace.hidden.view();
        let activations = self.workspace.activations.view();
        {
            let mut scratch = self.workspace.workers.of(0);
            for (to, &from) in rows.iter().enumerate() {
                // SAFETY: no other thread is at work.
                unsafe {
                    let values = hidden.row(from as usize);
                    embedding.final_norm.store(self.kernels, values, &mut scratch.row, &activations, to);
                }
            }
        }
        if let Some(first) = first_read(&self.layers, &self.attends, 0) {
            // The next chunk may be a token of its own.
            look_ahead(&self.pool, &first);
        }
        embedding.logits(self.kernels, &self.pool, &activations, rows.len(), out);
        Ok(())
    }

    fn load_embedding(&self) -> Result<Embedding> {
        let memory = self.memory.as_ref();
        let pack = |tensor| PackedMatrix::pack_into(memory, tensor, self.config.precision, self.kernels, &self.pool);
        Ok(Embedding {
            table: pack(&self.tensors.embedding)?,
            head: self.tensors.head.as_ref().map(pack).transpose()?,
            final_norm: self.load_norm(&self.tensors.final_norm)?,
        })
    }

    fn load_layer(&self, tensors: &LayerTensors) -> Result<Layer> {
        let linear = |weights, bias: &Option<StoredTensor>| {
            Linear::load(self.memory.as_ref(), weights, bias.as_ref(), self.config.precision, self.kernels, &self.pool)
        };
        let head_norm = |tensor: &Option<StoredTensor>| tensor.as_ref().map(|t| self.load_norm(t)).transpose();
        Ok(Layer {
            input_norm: self.load_norm(&tensors.input_norm)?,
            q: linear(&tensors.q, &tensors.q_bias)?,
            k: linear(&tensors.k, &tensors.k_bias)?,
            v: linear(&tensors.v, &tensors.v_bias)?,
            q_norm: head_norm(&tensors.q_norm)?,
            k_norm: head_norm(&tensors.k_norm)?,
            o: linear(&tensors.o, &tensors.o_bias)?,
            post_norm: self.load_norm(&tensors.post_norm)?,
            mlp: Mlp {
                gate: linear(&tensors.gate, &tensors.gate_bias)?,
                up: linear(&tensors.up, &tensors.up_bias)?,
                down: linear(&tensors.down, &tensors.down_bias)?,
            },
        })
    }

    fn load_norm(&self, tensor: &StoredTensor) -> Result<RmsNorm> {
        RmsNorm::load(tensor, self.config.norm_eps)
    }
}

fn loaded(layers: &[Option<Layer>], layer: usize) -> Result<&Layer> {
    match layers.get(layer) {
        Some(Some(loaded)) => Ok(loaded),
        Some(None) => Err(TransformerError::LayerNotLoaded { layer }),
        None => Err(TransformerError::LayerOutOfRange { layer, layers: layers.len() }),
    }
}

/// The matrices that a layer reads first, if it is loaded.
fn first_read<'a>(layers: &'a [Option<Layer>], attends: &[bool], layer: usize) -> Option<Vec<&'a PackedMatrix>> {
    Some(layers.get(layer)?.as_ref()?.first(attends[layer]))
}

fn check_length(name: &'static str, found: usize, expected: usize, shape: &'static str) -> Result<()> {
    if found == expected { Ok(()) } else { Err(TransformerError::BufferLength { name, found, expected, shape }) }
}

#[cfg(test)]
mod tests;

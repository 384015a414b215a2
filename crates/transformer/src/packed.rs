//! Weight matrices packed for products.
//!
//! A checkpoint stores `[outputs][inputs]`. Here sixteen outputs form a panel, in which one step along the inputs is
//! one cache line: f32 `[inputs][16]`, bf16 `[inputs / 2][16][2]`, int8 `[inputs / 4][16][4]`. The last panel is filled
//! up with zero outputs and, in bf16 and int8, the last pair or quad of inputs with zero inputs. Panels follow each other
//! without gaps, so a product with one row streams memory in order. Codes of int8 are stored as their value plus 128,
//! and beside them for each panel the scales of its groups of inputs, `[groups][16]`; they are codes of the rows'
//! Hadamard transforms.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use iceformer_simd::{Kernels, LANES, Zeroed};
use iceformer_threads::ThreadPool;

use crate::disjoint::Disjoint;
use crate::error::Result;
use crate::memory::{granted, try_zeroed};
use crate::precision::{GROUP_INPUTS, Precision};
use crate::quantization::quantize;
use crate::weight::StoredTensor;
use crate::weight_memory::{WeightBuffer, WeightMemory};

/// A matrix of weights, `outputs` by `inputs`, in panels of sixteen outputs.
#[derive(Debug)]
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    panels: Panels,
}

/// `[outputs / 16][panel]`
#[derive(Debug)]
pub(crate) enum Panels {
    F32(WeightBuffer<f32>),
    Bf16(WeightBuffer<u16>),
    Int8 {
        codes: WeightBuffer<u8>,
        /// `[outputs / 16][groups][16]`
        scales: WeightBuffer<f32>,
    },
}

/// What one worker needs while it packs.
struct Scratch {
    /// Bytes as they stand in the file.
    bytes: Vec<u8>,
    /// `[16][inputs]`
    rows: Vec<f32>,
    /// `[inputs]`, padded to an even count
    rounded: Vec<u16>,
    /// `[inputs]`, padded to a multiple of four
    codes: Vec<i8>,
    /// `[groups]`
    scales: Vec<f32>,
    /// `[groups]`
    starts: Vec<i32>,
}

impl PackedMatrix {
    /// Reads a tensor of shape `[outputs, inputs]` and packs it, panel by panel on all threads. Values outside the
    /// range of bf16 become infinite there, as everywhere.
    ///
    /// # Panics
    /// If the tensor is not a matrix.
    pub fn pack(tensor: &StoredTensor, precision: Precision, kernels: &Kernels, pool: &ThreadPool) -> Result<Self> {
        Self::pack_into(None, tensor, precision, kernels, pool)
    }

    /// The same into `memory`, as far as that has room.
    ///
    /// # Panics
    /// If the tensor is not a matrix.
    pub(crate) fn pack_into(
        memory: Option<&WeightMemory>,
        tensor: &StoredTensor,
        precision: Precision,
        kernels: &Kernels,
        pool: &ThreadPool,
    ) -> Result<Self> {
        let &[outputs, inputs] = tensor.shape.as_slice() else {
            panic!("{} has shape {:?}, which is no matrix", tensor.name, tensor.shape);
        };
        let reader = tensor.open()?;
        Self::build(memory, outputs, inputs, precision, kernels, pool, &tensor.name, |start, bytes, rows| {
            reader.read(start, bytes, rows)
        })
    }

    /// Packs a matrix `[outputs][inputs]` that is in memory.
    ///
    /// # Panics
    /// If `values` has another length.
    pub fn from_values(
        outputs: usize,
        inputs: usize,
        values: &[f32],
        precision: Precision,
        kernels: &Kernels,
        pool: &ThreadPool,
    ) -> Result<Self> {
        assert_eq!(values.len(), outputs * inputs);
        Self::build(None, outputs, inputs, precision, kernels, pool, "packed weights", |start, _, rows| {
            rows.copy_from_slice(&values[start..start + rows.len()]);
            Ok(())
        })
    }

    /// `read(start, bytes, rows)` fills `rows` with the matrix's elements from `start` on.
    fn build(
        memory: Option<&WeightMemory>,
        outputs: usize,
        inputs: usize,
        precision: Precision,
        kernels: &Kernels,
        pool: &ThreadPool,
        purpose: &str,
        read: impl Fn(usize, &mut Vec<u8>, &mut [f32]) -> Result<()> + Sync,
    ) -> Result<Self> {
        let count = outputs.div_ceil(LANES);
        let stride = panel_elements(inputs, precision);
        let length = count.saturating_mul(stride);
        let mut panels = match precision {
            Precision::F32 => Panels::F32(granted(WeightBuffer::try_new(length, memory), purpose)?),
            Precision::Bf16 => Panels::Bf16(granted(WeightBuffer::try_new(length, memory), purpose)?),
            Precision::Int8 => Panels::Int8 {
                codes: granted(WeightBuffer::try_new(length, memory), purpose)?,
                scales: granted(WeightBuffer::try_new(count.saturating_mul(panel_scales(inputs)), memory), purpose)?,
            },
        };
        let scratch = (0..pool.threads())
            .map(|_| {
                Ok(Mutex::new(Scratch {
                    bytes: Vec::new(),
                    rows: try_zeroed(LANES * inputs, purpose)?,
                    rounded: vec![0; inputs.next_multiple_of(2)],
                    codes: vec![0; inputs.next_multiple_of(4)],
                    scales: vec![0.0; panel_scales(inputs) / LANES],
                    starts: vec![0; panel_scales(inputs) / LANES],
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        let failure = Mutex::new(None);
        let shared = match &mut panels {
            Panels::F32(buffer) => SharedPanels::F32(Disjoint::new(buffer)),
            Panels::Bf16(buffer) => SharedPanels::Bf16(Disjoint::new(buffer)),
            Panels::Int8 { codes, scales } => {
                SharedPanels::Int8 { codes: Disjoint::new(codes), scales: Disjoint::new(scales) }
            }
        };
        pool.for_each(count, |worker, panel| {
            let mut scratch = scratch[worker].lock().unwrap_or_else(PoisonError::into_inner);
            let first = panel * LANES;
            let count = LANES.min(outputs - first) * inputs;
            let Scratch { bytes, rows, .. } = &mut *scratch;
            match read(first * inputs, bytes, &mut rows[..count]) {
                // SAFETY: every panel is one item, so nobody else touches its elements.
                Ok(()) => unsafe { pack_panel(&mut scratch, count, inputs, kernels, &shared, panel) },
                Err(error) => *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(Self { outputs, inputs, panels }),
        }
    }

    /// Bytes that a matrix takes once packed.
    #[must_use]
    pub fn packed_bytes(outputs: usize, inputs: usize, precision: Precision) -> u64 {
        let scales = if precision == Precision::Int8 { 4 * panel_scales(inputs) as u64 } else { 0 };
        let panel = panel_elements(inputs, precision) as u64 * precision.bytes() as u64 + scales;
        outputs.div_ceil(LANES) as u64 * panel
    }

    /// Bytes that this matrix takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        Self::packed_bytes(self.outputs, self.inputs, self.precision())
    }

    /// Rows of the checkpoint's matrix.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the checkpoint's matrix.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Panels of sixteen outputs.
    #[must_use]
    pub fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// The stored type.
    #[must_use]
    pub fn precision(&self) -> Precision {
        match self.panels {
            Panels::F32(_) => Precision::F32,
            Panels::Bf16(_) => Precision::Bf16,
            Panels::Int8 { .. } => Precision::Int8,
        }
    }

    /// Elements from one panel to the next.
    pub(crate) fn panel_stride(&self) -> usize {
        panel_elements(self.inputs, self.precision())
    }

    /// Scales from one panel to the next, in int8.
    pub(crate) fn scale_stride(&self) -> usize {
        panel_scales(self.inputs)
    }

    pub(crate) fn elements(&self) -> &Panels {
        &self.panels
    }

    /// The memory of some panels' elements.
    pub(crate) fn memory(&self, panels: Range<usize>) -> &[u8] {
        let stride = self.panel_stride();
        let elements = panels.start * stride..panels.end * stride;
        match &self.panels {
            Panels::F32(all) => bytes_of(&all[elements]),
            Panels::Bf16(all) => bytes_of(&all[elements]),
            Panels::Int8 { codes, .. } => &codes[elements],
        }
    }

    /// Copies the weights of one output, `[inputs]`, as f32.
    ///
    /// # Panics
    /// If there is no such output or `out` has another length.
    pub fn copy_output(&self, kernels: &Kernels, output: usize, out: &mut [f32]) {
        assert!(output < self.outputs && out.len() == self.inputs);
        let (start, lane) = (output / LANES * self.panel_stride(), output % LANES);
        match &self.panels {
            Panels::F32(panels) => {
                for (out, line) in out.iter_mut().zip(panels[start..].as_chunks::<LANES>().0) {
                    *out = line[lane];
                }
            }
            Panels::Bf16(panels) => {
                for (out, line) in out.chunks_mut(2).zip(panels[start..].as_chunks::<{ 2 * LANES }>().0) {
                    for (out, bits) in out.iter_mut().zip(&line[2 * lane..]) {
                        *out = f32::from_bits(u32::from(*bits) << 16);
                    }
                }
            }
            Panels::Int8 { codes, scales } => {
                let scales = &scales[output / LANES * self.scale_stride()..];
                for (input, out) in out.iter_mut().enumerate() {
                    let code = codes[start + input / 4 * (4 * LANES) + lane * 4 + input % 4];
                    *out = (f32::from(code) - 128.0) * scales[input / GROUP_INPUTS * LANES + lane];
                }
                // Codes are of the transformed row; the transform is its own inverse.
                kernels.hadamard(out);
            }
        }
    }
}

fn bytes_of<T: Zeroed>(elements: &[T]) -> &[u8] {
    // SAFETY: plain numbers, all bytes of which are initialised.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

enum SharedPanels<'a> {
    F32(Disjoint<'a, f32>),
    Bf16(Disjoint<'a, u16>),
    Int8 { codes: Disjoint<'a, u8>, scales: Disjoint<'a, f32> },
}

/// Writes the first `count` elements of the scratch's rows, `[outputs][inputs]`, as panel `panel`.
///
/// # Safety
/// Nobody else may touch that panel at the same time.
unsafe fn pack_panel(
    scratch: &mut Scratch,
    count: usize,
    inputs: usize,
    kernels: &Kernels,
    panels: &SharedPanels<'_>,
    panel: usize,
) {
    let Scratch { rows, rounded, codes, scales, starts, .. } = scratch;
    let rows = &rows[..count];
    match panels {
        SharedPanels::F32(panels) => {
            // SAFETY: the caller's promise.
            let panel = unsafe {
                panels.slice(panel * panel_elements(inputs, Precision::F32), panel_elements(inputs, Precision::F32))
            };
            // Sixteen inputs at a time, so that the lines being filled stay in the first-level cache.
            for (block, lines) in panel.chunks_mut(LANES * LANES).enumerate() {
                for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                    for (line, value) in lines.chunks_exact_mut(LANES).zip(&row[block * LANES..]) {
                        line[lane] = *value;
                    }
                }
            }
        }
        SharedPanels::Bf16(panels) => {
            // SAFETY: the caller's promise.
            let panel = unsafe {
                panels.slice(panel * panel_elements(inputs, Precision::Bf16), panel_elements(inputs, Precision::Bf16))
            };
            for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                kernels.to_bf16(row, &mut rounded[..inputs]);
                for (line, pair) in panel.chunks_exact_mut(2 * LANES).zip(rounded.as_chunks::<2>().0) {
                    line[2 * lane..2 * lane + 2].copy_from_slice(pair);
                }
            }
        }
        SharedPanels::Int8 { codes: panels, scales: panel_of_scales } => {
            let (length, groups) = (panel_elements(inputs, Precision::Int8), panel_scales(inputs));
            // SAFETY: the caller's promise.
            let (lines, scale_lines) =
                unsafe { (panels.slice(panel * length, length), panel_of_scales.slice(panel * groups, groups)) };
            // The code of zero.
            lines.fill(128);
            for (lane, row) in rows.chunks_exact(inputs).enumerate() {
                quantize(kernels, row, codes, scales, starts);
                for (line, quad) in lines.chunks_exact_mut(4 * LANES).zip(codes.as_chunks::<4>().0) {
                    line[4 * lane..4 * lane + 4].copy_from_slice(&quad.map(|code| code as u8 ^ 128));
                }
                for (line, scale) in scale_lines.chunks_exact_mut(LANES).zip(&*scales) {
                    line[lane] = *scale;
                }
            }
        }
    }
}

/// Elements of one panel.
fn panel_elements(inputs: usize, precision: Precision) -> usize {
    match precision {
        Precision::F32 => inputs * LANES,
        Precision::Bf16 => inputs.next_multiple_of(2) * LANES,
        Precision::Int8 => inputs.next_multiple_of(4) * LANES,
    }
}

/// Scales of one panel in int8.
fn panel_scales(inputs: usize) -> usize {
    inputs.div_ceil(GROUP_INPUTS) * LANES
}

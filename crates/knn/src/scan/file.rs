//! Blocks in a file.

use std::sync::Arc;

use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::accepted::{first_problem, value_problem, vector_problem};
use crate::file::{Buffer, Number, Reader, Writer};
use crate::metric::Metric;
use crate::scan::block::{Block, Measures};
use crate::scan::centres::Centres;
use crate::scan::code_tiles::tile_bytes;
use crate::scan::{Clustering, NOWHERE, Scan};
use crate::structure::{Context, SlotSet};

use iceformer_simd::LANES;

/// What is known of a clustering: 1 or 0, vectors that a cluster should have, vectors when all was clustered, changes
/// since.
const STATE: usize = 4;
/// Step, radius, error.
const MEASURES: usize = 3;

impl Scan {
    /// Writes `scan`, u64 `[4]`; `origin`, f32 `[dimensions]` or empty; `lengths` and `centred`, u32 `[blocks]`;
    /// `measures`, f32 `[blocks][3]`; `scatter`, f64 `[blocks]`; `sums`, f64 `[blocks][value_dimensions]`; `centres`,
    /// f32 `[blocks][dimensions]`; and a part for each block of `slots`, `rows`, `values`, `codes` and `offsets`.
    pub(super) fn write(&self, writer: &mut Writer<'_>) -> Result<()> {
        let state =
            [u64::from(self.centres.is_some()), self.target as u64, self.clustered_at as u64, self.changes as u64];
        writer.section("scan", &state)?;
        writer.section("origin", &self.origin)?;
        let blocks = || self.blocks.iter();
        writer.section("lengths", &blocks().map(|block| block.len() as u32).collect::<Vec<_>>())?;
        writer.section("centred", &blocks().map(|block| block.measures().centred as u32).collect::<Vec<_>>())?;
        let measures = blocks().flat_map(|block| [block.step(), block.radius(), block.error()]);
        writer.section("measures", &measures.collect::<Vec<_>>())?;
        // As they are, not computed anew: what they are depends on the order in which vectors came and went.
        writer.section("scatter", &blocks().map(|block| block.measures().scatter).collect::<Vec<_>>())?;
        writer.section_with("sums", |part| blocks().try_for_each(|block| part.push(block.value_sums())))?;
        writer.section_with("centres", |part| blocks().try_for_each(|block| part.push(block.centre())))?;
        macro_rules! parts {
            ($name:literal, $field:ident) => {
                writer.section_with($name, |part| {
                    blocks().try_for_each(|block| {
                        part.begin()?;
                        part.push(block.$field())
                    })
                })?;
            };
        }
        parts!("slots", slots);
        parts!("rows", rows);
        parts!("values", values);
        parts!("codes", codes);
        parts!("offsets", offsets);
        Ok(())
    }

    /// Reads what [`Self::write`] wrote. `taken` are the slots in use, of `slots`.
    pub fn load(
        context: &Context,
        clustering: Clustering,
        reader: &mut Reader<'_>,
        taken: &SlotSet,
        slots: usize,
    ) -> Result<Self> {
        let mut scan = Self::new(context, clustering);
        let (d, width, words) = (context.shape.dimensions, context.shape.value_dimensions, scan.format.words());
        let state = reader.section_of::<u64>("scan", STATE)?;
        let [clustered, target, clustered_at, changes] = [state[0], state[1], state[2], state[3]];
        let most = 1 << 40;
        if clustered > 1 || target == 0 || target > most || clustered_at > most || changes > most {
            return Err(reader.invalid::<u64>("scan", 0, format!("impossible state {:?}", &state[..])));
        }
        let origin = reader.section::<f32>("origin")?;
        let expected = if context.shape.metric == Metric::L2 && taken.len() > 0 { d } else { origin.len() };
        if (!origin.is_empty() && origin.len() != d)
            || origin.len() != expected
            || (context.shape.metric != Metric::L2 && !origin.is_empty())
            || !origin.iter().all(|x| x.is_finite())
        {
            return Err(reader.invalid::<f32>("origin", 0, format!("no origin of {d} dimensions")));
        }
        let lengths = reader.section::<u32>("lengths")?;
        let count = lengths.len();
        let sum: u64 = lengths.iter().map(|&len| u64::from(len)).sum();
        if sum != taken.len() as u64 || lengths.contains(&0) {
            let problem = format!("{sum} vectors in {count} blocks, there should be {}", taken.len());
            return Err(reader.invalid::<u32>("lengths", 0, problem));
        }
        let centred = reader.section_of::<u32>("centred", count)?;
        let measures = reader.section_of::<f32>("measures", count * MEASURES)?;
        if let Some(at) = measures.iter().position(|&x| !(x.is_finite() && x >= 0.0)) {
            return Err(reader.invalid::<f32>("measures", at, format!("{} is no distance", measures[at])));
        }
        let scatter = finite::<f64>(reader, "scatter", count)?;
        let sums = finite::<f64>(reader, "sums", count.saturating_mul(width))?;
        let centres = finite::<f32>(reader, "centres", count.saturating_mul(d))?;
        let of = |each: usize| lengths.iter().map(move |&len| (len as usize).saturating_mul(each));
        let tiles = || lengths.iter().map(|&len| (len as usize).div_ceil(LANES));
        let block_slots = reader.parts::<u32>("slots", of(1))?;
        scan.places = Chunked::new(1);
        scan.places.resize(slots, NOWHERE)?;
        for (index, &slot) in
            block_slots.iter().enumerate().flat_map(|(index, slots)| slots.iter().map(move |slot| (index, slot)))
        {
            if slot as usize >= slots || !taken.contains(slot) || scan.places.row(slot as usize)[0] != NOWHERE {
                return Err(reader.invalid::<u32>("slots", 0, format!("slot {slot} of block {index} is not its own")));
            }
            scan.places.row_mut(slot as usize)[0] = index as u32;
        }
        let rows = reader.parts::<u32>("rows", of(words))?;
        if reader.verifies() {
            for (index, rows) in rows.iter().enumerate() {
                let problem = first_problem(&context.pool, lengths[index] as usize, d, |position, vector| {
                    let row = &rows[position * words..(position + 1) * words];
                    scan.format.decode(context.kernels, row, vector);
                    vector_problem(context.shape.metric, vector)
                });
                if let Some((position, problem)) = problem {
                    return Err(reader.invalid::<u32>("rows", position * words, problem));
                }
            }
        }
        let values = reader.parts::<f32>("values", of(width))?;
        if reader.verifies() && width > 0 {
            for values in &values {
                if let Some(problem) = values.chunks_exact(width).find_map(value_problem) {
                    return Err(reader.invalid::<f32>("values", 0, problem));
                }
            }
        }
        let codes = reader.parts::<u8>("codes", tiles().map(|tiles| tiles.saturating_mul(tile_bytes(d))))?;
        let offset_tiles = if context.shape.metric == Metric::L2 { LANES } else { 0 };
        let offsets = reader.parts::<f32>("offsets", tiles().map(|tiles| tiles * offset_tiles))?;
        let parts = block_slots.into_iter().zip(rows).zip(values).zip(codes).zip(offsets);
        scan.blocks = parts
            .enumerate()
            .map(|(index, ((((slots, rows), values), codes), offsets))| {
                let [step, radius, error] = [0, 1, 2].map(|i| measures[index * MEASURES + i]);
                let (scatter, centred) = (scatter[index], centred[index] as usize);
                let measures = Measures { step, radius, error, scatter, centred };
                let centre = centres[index * d..(index + 1) * d].to_vec();
                let sums = sums[index * width..(index + 1) * width].to_vec();
                Arc::new(Block::from_parts(slots, rows, values, codes, offsets, centre, sums, measures))
            })
            .collect();
        scan.len = taken.len();
        scan.origin = Arc::from(&origin[..]);
        scan.target = target as usize;
        scan.clustered_at = clustered_at as usize;
        scan.changes = changes as usize;
        if clustered == 1 && count > 0 {
            let mut centres = Centres::new(d, count)?;
            for (index, block) in scan.blocks.iter().enumerate() {
                centres.set(index, block.centre(), block.radius());
            }
            centres.code();
            scan.centres = Some(Arc::new(centres));
        }
        Ok(scan)
    }
}

/// Reads a section of `len` finite numbers.
fn finite<T: Number + Into<f64>>(reader: &mut Reader<'_>, name: &'static str, len: usize) -> Result<Buffer<T>> {
    let numbers = reader.section_of::<T>(name, len)?;
    match numbers.iter().position(|&x| !x.into().is_finite()) {
        Some(at) => Err(reader.invalid::<T>(name, at, format!("{} is not finite", numbers[at].into()))),
        None => Ok(numbers),
    }
}

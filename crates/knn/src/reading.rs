//! What a group of queries reads: tiles, and for each run of tiles the queries that want it.

use std::sync::Arc;

use iceformer_simd::Kernels;

use crate::cluster::Clusters;
use crate::keys::{QueryRows, RowData, Storage, padded};
use crate::search::Snapshot;
use crate::segment::{Segment, Shape};

/// Rows of queries in one matrix product.
pub(crate) const BLOCK_ROWS: usize = 64;
/// Tiles in one matrix product at most.
pub(crate) const MAX_STEP: usize = 16;
/// Tiles in one entry of the reading list, so that the list can be shared out and a search can stop early.
const READING_TILES: usize = 256;
/// Bytes of keys in one matrix product: they stay in the second-level cache while all rows pass.
const STEP_BYTES: usize = 256 << 10;

/// A cluster: which segment, which of its clusters.
pub(crate) type ClusterPlace = (u32, u32);

/// Tiles of a segment and the queries that read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub segment: u32,
    pub first: usize,
    pub tiles: usize,
    /// Range of the group's list of readers; `None` is every row.
    rows: Option<(usize, usize)>,
}

/// Some queries of a batch, ready for the kernels.
pub(crate) struct Group {
    pub rows: usize,
    /// `[rows][dimensions]`, as compared.
    pub queries: Vec<f32>,
    /// `[rows][padded]`, rounded; only for bf16 keys.
    pub rounded: Vec<u16>,
    /// `[rows][padded]`, rounded: what the first rounding left over; only if [`Group::keep_rest`] was called.
    rest: Vec<u16>,
    /// `[rows]`, of the queries as compared.
    pub lengths: Vec<f64>,
    pub readings: Vec<Reading>,
    /// Query rows, by reading.
    readers: Vec<u32>,
}

impl Snapshot {
    /// Brings queries, `[rows][dimensions]`, checked before, into the form the kernels take.
    pub(crate) fn prepare(&self, queries: &[f32]) -> Group {
        let Shape { dimensions, metric, storage, .. } = self.shape;
        let rows = queries.len() / dimensions;
        let mut group = Group {
            rows,
            queries: vec![0.0; queries.len()],
            rounded: Vec::new(),
            rest: Vec::new(),
            lengths: Vec::with_capacity(rows),
            readings: Vec::new(),
            readers: Vec::new(),
        };
        let pairs = group.queries.chunks_exact_mut(dimensions).zip(queries.chunks_exact(dimensions));
        for (row, (to, from)) in pairs.enumerate() {
            // Checked before: this cannot fail.
            group.lengths.push(metric.prepare(from, to, "query", row).unwrap_or(0.0));
        }
        if storage == Storage::Bf16 {
            let width = padded(dimensions, Storage::Bf16);
            group.rounded.resize(rows * width, 0);
            for (to, from) in group.rounded.chunks_exact_mut(width).zip(group.queries.chunks_exact(dimensions)) {
                self.kernels.to_bf16(from, &mut to[..dimensions]);
            }
        }
        group
    }
}

impl Group {
    /// Rounds what rounding to bf16 left over of the queries, for products in nearly full precision.
    pub fn keep_rest(&mut self, shape: Shape, kernels: &Kernels) {
        if shape.storage == Storage::Bf16 {
            let width = padded(shape.dimensions, Storage::Bf16);
            self.rest.resize(self.rounded.len(), 0);
            let mut left = vec![0.0; shape.dimensions];
            for row in 0..self.rows {
                kernels.from_bf16(&self.rounded[row * width..row * width + shape.dimensions], &mut left);
                let query = &self.queries[row * shape.dimensions..(row + 1) * shape.dimensions];
                left.iter_mut().zip(query).for_each(|(left, query)| *left = query - *left);
                kernels.to_bf16(&left, &mut self.rest[row * width..row * width + shape.dimensions]);
            }
        }
    }

    /// Lists the segments that `wanted` names, for every row.
    pub fn read_segments(&mut self, segments: &[Arc<Segment>], wanted: impl Fn(&Segment) -> bool) {
        for (index, segment) in segments.iter().enumerate().filter(|(_, segment)| wanted(segment)) {
            for first in (0..segment.tiles()).step_by(READING_TILES) {
                let tiles = READING_TILES.min(segment.tiles() - first);
                self.readings.push(Reading { segment: index as u32, first, tiles, rows: None });
            }
        }
    }

    /// Lists the clusters that each row wants; rows that want the same one read it together.
    pub fn read_clusters<'a>(&mut self, segments: &[Arc<Segment>], wanted: impl Fn(usize) -> &'a [ClusterPlace]) {
        // Clusters are numbered through all segments, for a counting sort of (cluster, row).
        let counts = || segments.iter().map(|segment| segment.clusters().map_or(0, Clusters::count));
        let bases: Vec<usize> = counts()
            .scan(0, |next, count| {
                *next += count;
                Some(*next - count)
            })
            .collect();
        let number = |&(segment, cluster): &ClusterPlace| bases[segment as usize] + cluster as usize;
        let mut ends = vec![0_usize; counts().sum::<usize>() + 1];
        for row in 0..self.rows {
            for place in wanted(row) {
                ends[number(place) + 1] += 1;
            }
        }
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        let offset = self.readers.len();
        self.readers.resize(offset + ends[ends.len() - 1], 0);
        let mut next = ends.clone();
        for row in 0..self.rows {
            for place in wanted(row) {
                let next = &mut next[number(place)];
                self.readers[offset + *next] = row as u32;
                *next += 1;
            }
        }
        for (index, segment) in segments.iter().enumerate() {
            let Some(clusters) = segment.clusters() else { continue };
            for cluster in 0..clusters.count() {
                let (start, end) = (ends[bases[index] + cluster], ends[bases[index] + cluster + 1]);
                if start < end {
                    let first = cluster * clusters.leaf_tiles();
                    let tiles = clusters.leaf_tiles().min(segment.tiles() - first);
                    let rows = Some((offset + start, offset + end));
                    self.readings.push(Reading { segment: index as u32, first, tiles, rows });
                }
            }
        }
    }

    /// The rows that want a reading; `None` is every row.
    pub fn readers(&self, reading: &Reading) -> Option<&[u32]> {
        reading.rows.map(|(start, end)| &self.readers[start..end])
    }

    /// Number of rows that want a reading.
    pub fn count(&self, reading: &Reading) -> usize {
        reading.rows.map_or(self.rows, |(start, end)| end - start)
    }

    /// The rows `start..start + rows` in the storage of the keys.
    pub fn block(&self, shape: Shape, start: usize, rows: usize) -> QueryRows<'_> {
        let stride = padded(shape.dimensions, shape.storage);
        let range = start * stride..(start + rows) * stride;
        let data = match shape.storage {
            Storage::F32 => RowData::F32(&self.queries[range]),
            Storage::Bf16 => RowData::Bf16(&self.rounded[range]),
        };
        QueryRows { rows, stride, data }
    }
}

/// Rows of queries copied together.
#[derive(Default)]
pub(crate) struct Gathered {
    plain: Vec<f32>,
    rounded: Vec<u16>,
}

impl Gathered {
    /// The given rows of the group in the storage of the keys.
    pub fn block(&mut self, shape: Shape, group: &Group, rows: &[u32]) -> QueryRows<'_> {
        let stride = padded(shape.dimensions, shape.storage);
        let data = match shape.storage {
            Storage::F32 => RowData::F32(gather(&group.queries, stride, rows, &mut self.plain)),
            Storage::Bf16 => RowData::Bf16(gather(&group.rounded, stride, rows, &mut self.rounded)),
        };
        QueryRows { rows: rows.len(), stride, data }
    }

    /// The same of what rounding left over, if there is any.
    pub fn rest(&mut self, shape: Shape, group: &Group, rows: &[u32]) -> Option<QueryRows<'_>> {
        let stride = padded(shape.dimensions, shape.storage);
        let data = match shape.storage {
            Storage::F32 => return None,
            Storage::Bf16 => RowData::Bf16(gather(&group.rest, stride, rows, &mut self.rounded)),
        };
        Some(QueryRows { rows: rows.len(), stride, data })
    }
}

fn gather<'a, T: Copy>(from: &[T], stride: usize, rows: &[u32], to: &'a mut Vec<T>) -> &'a [T] {
    to.clear();
    for &row in rows {
        to.extend_from_slice(&from[row as usize * stride..(row as usize + 1) * stride]);
    }
    to
}

/// Tiles in one matrix product, given the bytes of one.
pub(crate) fn step_tiles(bytes: usize) -> usize {
    (STEP_BYTES / bytes.max(1)).clamp(1, MAX_STEP)
}

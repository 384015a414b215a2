//! Saving and loading. After the sections of the vectors come
//!
//! | section | numbers |
//! | --- | --- |
//! | `cells` | u32 `[slots]`: cell of layer 0; `u32::MAX` of a free slot, one less where there are no layers |
//! | `squares` | f32 `[slots]`: squared lengths |
//! | `places` | f32 `[slots][composite * simple]`: projections |
//! | `scales` | f32 `[2]`: length of the longest vector, and what it was when all vectors last found cells |
//! | `layers` | u32 `[layers]`: numbers of cells of each are below this, a multiple of 64 |
//!
//! and of each layer `owners` and `parents`, u32 `[cells]`, `u32::MAX` where there is none.

use super::layer::{Layer, NONE, PAGE};
use super::{Dci, FLAT, FREE};
use crate::chunked::Chunked;
use crate::error::Result;
use crate::file::{Reader, Writer};
use crate::structure::{Context, SlotSet};
use crate::vectors::Vectors;

/// More layers than any options lead to.
const MAX_LAYERS: usize = 64;

impl Dci {
    pub(super) fn write(&self, writer: &mut Writer<'_>, slots: usize) -> Result<()> {
        self.vectors.save(writer, slots)?;
        self.cell_of.save("cells", writer, slots)?;
        self.squared.save("squares", writer, slots)?;
        self.projections.save(writer, slots)?;
        writer.section("scales", &[self.embedding.longest, self.arranged_for])?;
        let ends: Vec<u32> = self.layers.iter().map(|layer| layer.end() as u32).collect();
        writer.section("layers", &ends)?;
        for layer in &self.layers {
            let all = || (0..layer.end() as u32).map(|cell| layer.cell(cell));
            writer.section("owners", &all().map(|cell| cell.owner).collect::<Vec<u32>>())?;
            writer.section("parents", &all().map(|cell| cell.parent).collect::<Vec<u32>>())?;
        }
        Ok(())
    }

    /// Reads what was saved and checks it.
    pub fn load(context: &Context, reader: &mut Reader<'_>, taken: &SlotSet, slots: usize) -> Result<Self> {
        let mut dci = Self::new(context);
        dci.vectors = Vectors::load(context, reader, slots, taken)?;
        dci.len = taken.len();
        dci.cell_of = Chunked::load("cells", reader, slots, 1)?;
        for slot in 0..slots {
            let cell = dci.cell_of.row(slot)[0];
            if taken.contains(slot as u32) == (cell == FREE) {
                return Err(reader.invalid::<u32>("cells", slot, format!("slot {slot} is in cell {cell}")));
            }
        }
        dci.squared = Chunked::load("squares", reader, slots, 1)?;
        if reader.verifies() {
            for slot in taken.iter() {
                let squared = dci.squared.row(slot as usize)[0];
                if !(squared >= 0.0 && squared.is_finite()) {
                    let problem = format!("a squared length is {squared}");
                    return Err(reader.invalid::<f32>("squares", slot as usize, problem));
                }
            }
        }
        dci.projections.load(reader, slots)?;
        let scales = reader.section_of::<f32>("scales", 2)?;
        for (i, &scale) in scales.iter().enumerate() {
            if !(scale >= 0.0 && scale.is_finite()) {
                return Err(reader.invalid::<f32>("scales", i, format!("a length is {scale}")));
            }
        }
        (dci.embedding.longest, dci.arranged_for) = (scales[0], scales[1]);
        let ends = reader.section::<u32>("layers")?;
        if ends.len() > MAX_LAYERS {
            return Err(reader.invalid::<u32>("layers", 0, format!("there are {} layers", ends.len())));
        }
        for (height, &end) in ends.iter().enumerate() {
            if end == 0 || !(end as usize).is_multiple_of(PAGE) {
                return Err(reader.invalid::<u32>("layers", height, format!("a layer has {end} cells")));
            }
        }
        let in_cell = |&slot: &u32| dci.cell_of.row(slot as usize)[0] != FLAT;
        if let (true, Some(slot)) = (ends.is_empty(), taken.iter().find(in_cell)) {
            let problem = format!("slot {slot} is in a cell, of which there are none");
            return Err(reader.invalid::<u32>("layers", 0, problem));
        }
        let mut vector = vec![0.0; dci.dimensions];
        // Of the level below: member, its slot, its cell.
        let mut members: Vec<(u32, u32, u32)> =
            taken.iter().map(|slot| (slot, slot, dci.cell_of.row(slot as usize)[0])).collect();
        for (height, &end) in ends.iter().enumerate() {
            let owners = reader.section_of::<u32>("owners", end as usize)?;
            let mut own = vec![false; owners.len()];
            for &(_, slot, cell) in &members {
                match owners.get(cell as usize) {
                    Some(&owner) if owner != NONE => own[cell as usize] |= owner == slot,
                    _ => {
                        let problem = format!("slot {slot} is in cell {cell} of layer {height}, which there is not");
                        return Err(reader.invalid::<u32>("owners", 0, problem));
                    }
                }
            }
            // So every owner is a taken slot, and no slot owns two cells.
            if let Some(cell) = (0..owners.len()).find(|&cell| owners[cell] != NONE && !own[cell]) {
                let problem = format!("slot {} owns a cell of layer {height} that it is not in", owners[cell]);
                return Err(reader.invalid::<u32>("owners", cell, problem));
            }
            let parents = reader.section_of::<u32>("parents", end as usize)?;
            let top = height + 1 == ends.len();
            if let Some(cell) = (0..owners.len()).find(|&cell| {
                let orphan = parents[cell] == NONE;
                orphan != (top || owners[cell] == NONE)
            }) {
                let problem = format!("cell {cell} of layer {height} has parent {}", parents[cell]);
                return Err(reader.invalid::<u32>("parents", cell, problem));
            }
            let mut layer = Layer::with_cells(dci.dimensions, &owners, &parents);
            for (cell, &owner) in owners.iter().enumerate().filter(|(_, owner)| **owner != NONE) {
                dci.vectors.read(context.kernels, owner, &mut vector);
                layer.set_owner(cell as u32, &vector, dci.extra(owner));
            }
            for &(member, _, cell) in &members {
                layer.cell_mut(cell).members.push(member);
            }
            members = layer.cells().map(|(number, cell)| (number, cell.owner, cell.parent)).collect();
            dci.layers.push(layer);
        }
        Ok(dci)
    }
}

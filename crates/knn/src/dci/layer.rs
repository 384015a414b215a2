//! One level of the hierarchy above the vectors themselves: cells, each around a promoted vector.

use std::sync::Arc;

use iceformer_simd::LANES;

/// No cell, no owner.
pub(super) const NONE: u32 = u32::MAX;

/// Cells of a page: what is copied when a shared layer changes, and what one matrix product compares with.
pub(super) const PAGE: usize = 64;

/// Panels of a page.
pub(super) const PAGE_PANELS: usize = PAGE / LANES;

/// The cells of one level. Copies share pages until one of them changes.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Numbers of an owner in a panel: dimensions + 1, the last one the extra number.
    width: usize,
    pages: Vec<Arc<Page>>,
    /// Cells in use.
    len: usize,
    /// Cells not in use.
    free: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Page {
    cells: Vec<Cell>,
    /// `[4][width][16]`: the owner of cell 16 p + i is column i of panel p; zeros where there is none.
    panels: Vec<f32>,
}

/// A promoted vector and those that are nearer to it than to any other of its level.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// Slot of the promoted vector; [`NONE`] if the cell is not in use.
    pub owner: u32,
    /// The cell of the next level that this one belongs to; [`NONE`] at the highest.
    pub parent: u32,
    /// In the lowest layer slots, above it cells of the layer below. The owner itself is one of them.
    pub members: Vec<u32>,
}

const UNUSED: Cell = Cell { owner: NONE, parent: NONE, members: Vec::new() };

impl Layer {
    pub fn new(dimensions: usize) -> Self {
        Self { width: dimensions + 1, pages: Vec::new(), len: 0, free: Vec::new() }
    }

    /// Cells with these owners and parents, [`NONE`] where there is none, without members. As many as whole pages.
    pub fn with_cells(dimensions: usize, owners: &[u32], parents: &[u32]) -> Self {
        let mut layer = Self::new(dimensions);
        for (owners, parents) in owners.chunks_exact(PAGE).zip(parents.chunks_exact(PAGE)) {
            layer.add_page();
            let page = layer.pages.len() - 1;
            let cells = &mut Arc::make_mut(&mut layer.pages[page]).cells;
            for (cell, (&owner, &parent)) in cells.iter_mut().zip(owners.iter().zip(parents)) {
                (cell.owner, cell.parent) = (owner, parent);
            }
        }
        layer.free = (0..owners.len() as u32).rev().filter(|&cell| owners[cell as usize] == NONE).collect();
        layer.len = layer.end() - layer.free.len();
        layer
    }

    fn add_page(&mut self) {
        let panels = vec![0.0; PAGE_PANELS * self.width * LANES];
        self.pages.push(Arc::new(Page { cells: vec![UNUSED; PAGE], panels }));
    }

    /// Cells in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Numbers of cells are below this.
    pub fn end(&self) -> usize {
        self.pages.len() * PAGE
    }

    pub fn cell(&self, cell: u32) -> &Cell {
        &self.pages[cell as usize / PAGE].cells[cell as usize % PAGE]
    }

    pub fn cell_mut(&mut self, cell: u32) -> &mut Cell {
        &mut Arc::make_mut(&mut self.pages[cell as usize / PAGE]).cells[cell as usize % PAGE]
    }

    /// The cells in use, ascending.
    pub fn cells(&self) -> impl Iterator<Item = (u32, &Cell)> {
        let all = self.pages.iter().flat_map(|page| page.cells.iter()).enumerate();
        all.filter(|(_, cell)| cell.owner != NONE).map(|(number, cell)| (number as u32, cell))
    }

    /// Pages and the owners of their cells as panels, `[4][width][16]`.
    pub fn pages(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.pages.iter().map(|page| page.panels.as_slice()).enumerate()
    }

    /// The cells in use of a page: column and number.
    pub fn used(&self, page: usize) -> impl Iterator<Item = (usize, u32)> {
        let used = self.pages[page].cells.iter().enumerate().filter(|(_, cell)| cell.owner != NONE);
        used.map(move |(column, _)| (column, (page * PAGE + column) as u32))
    }

    /// Opens a cell without members around a vector, `[dimensions]`, and its extra number.
    pub fn open(&mut self, owner: u32, vector: &[f32], extra: f32) -> u32 {
        let cell = self.free.pop().unwrap_or_else(|| {
            let first = self.end() as u32;
            self.add_page();
            self.free.extend((first + 1..first + PAGE as u32).rev());
            first
        });
        self.cell_mut(cell).owner = owner;
        self.set_owner(cell, vector, extra);
        self.len += 1;
        cell
    }

    /// Writes the vector of a cell's owner, `[dimensions]`, and its extra number.
    pub fn set_owner(&mut self, cell: u32, vector: &[f32], extra: f32) {
        self.write_column(cell, vector.iter().copied().chain([extra]));
    }

    /// Closes a cell, which leaves its members without one.
    pub fn close(&mut self, cell: u32) -> Cell {
        let closed = std::mem::replace(self.cell_mut(cell), UNUSED);
        let width = self.width;
        self.write_column(cell, std::iter::repeat_n(0.0, width));
        self.free.push(cell);
        self.len -= 1;
        closed
    }

    /// Changes the extra number of a cell's owner.
    pub fn set_extra(&mut self, cell: u32, extra: f32) {
        let at = self.column(cell) + (self.width - 1) * LANES;
        Arc::make_mut(&mut self.pages[cell as usize / PAGE]).panels[at] = extra;
    }

    fn write_column(&mut self, cell: u32, numbers: impl Iterator<Item = f32>) {
        let first = self.column(cell);
        let page = Arc::make_mut(&mut self.pages[cell as usize / PAGE]);
        for (i, x) in numbers.enumerate() {
            page.panels[first + i * LANES] = x;
        }
    }

    /// Where the first number of a cell's owner is in its page.
    fn column(&self, cell: u32) -> usize {
        let column = cell as usize % PAGE;
        column / LANES * self.width * LANES + column % LANES
    }

    /// Bytes in use, and bytes held.
    pub fn bytes(&self) -> (usize, usize) {
        let members = |capacity: bool| -> usize {
            let of = |cell: &Cell| if capacity { cell.members.capacity() } else { cell.members.len() };
            self.pages.iter().flat_map(|page| page.cells.iter().map(of)).sum::<usize>() * size_of::<u32>()
        };
        let cell = size_of::<Cell>() + self.width * size_of::<f32>();
        let held = self.pages.capacity() * size_of::<Arc<Page>>() + self.free.capacity() * size_of::<u32>();
        (members(false) + self.len * cell, members(true) + self.end() * cell + held)
    }
}

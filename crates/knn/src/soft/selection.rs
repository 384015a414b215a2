//! Which settled tiles a block reads.

use super::SoftReport;
use super::block::Block;
use super::scratch::Scratch;
use super::stand_in::StandIns;
use crate::element::Element;
use iceformer_simd::LANES;

/// Which settled tiles a block leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Omission {
    /// The rule.
    pub light: Light,
    /// Tiles to read at least and at most, whatever the rule says.
    pub limits: (usize, usize),
}

/// The tiles that are left out for holding little of a block's mass.
#[derive(Debug, Clone, Copy)]
pub(super) enum Light {
    /// The lightest, as many as together hold at most this share. It bounds what a block loses.
    Together(f32),
    /// Those that each hold less than this share. What a tile costs to read is the same everywhere, so this loses
    /// least for the tiles read: a block whose mass lies in many light tiles, where means stand in well, reads few, and
    /// one whose mass lies in heavy ones reads them all.
    Each(f32),
}

/// What a tile may hold, for tiles that share one mean value, where no least mass says it.
const MOST_SHARED: f32 = 0.003;

impl Light {
    /// What a strategy says.
    pub fn of(mass_target: f32, least_mass: f32) -> Self {
        if least_mass > 0.0 { Self::Each(least_mass) } else { Self::Together(1.0 - mass_target) }
    }

    /// What one tile may hold that is left out, about.
    pub(super) fn one_tile(self) -> f32 {
        match self {
            Self::Each(share) => share,
            Self::Together(share) => (share / LANES as f32).min(MOST_SHARED),
        }
    }

    /// Sixteen tiles that together stand in with at most this share of a block's weight may share one mean value: a quarter
    /// of what a single tile may hold. (Up to that, no divergence from dense attention is seen; with four times what a tile
    /// may hold a quarter more, with any number half as much again.)
    pub(super) fn shares_values(self) -> f32 {
        self.one_tile() / 4.0
    }
}

impl Omission {
    /// True if it allows none of `tiles` to be left out.
    fn none(self, tiles: usize) -> bool {
        let (Light::Together(share) | Light::Each(share)) = self.light;
        share <= 0.0 && self.limits.1 >= tiles
    }
}

/// So many vectors before a block are always read.
const NEAR: usize = 64;

impl<T: Element> Block<'_, T> {
    /// The tiles behind the sinks that every row of the block sees whole, that have a summary, and that end at least
    /// [`NEAR`] vectors before the first row's last one.
    pub(super) fn candidates(&self) -> usize {
        let (sinks, (_, settled_end)) = (self.lane.sinks(), self.lane.settled());
        let sights = (0..self.count).map(|i| self.sight(i));
        let (last_from, first_to) = sights.fold((0, usize::MAX), |(from, to), (f, t)| (from.max(f), to.min(t)));
        if last_from > sinks || first_to < settled_end {
            return 0;
        }
        let whole = first_to.saturating_sub(NEAR).saturating_sub(sinks) / LANES;
        whole.max(self.lane.settled_tiles()).min(self.lane.summarized_tiles())
    }

    /// Searches sinks and the nearest vectors exactly, all others by estimated mass.
    pub(super) fn search_selected<S: StandIns<T>>(&self, scratch: &mut Scratch<T>, omission: Omission) -> SoftReport {
        let rows = self.rows();
        let base = self.lane.sinks() / LANES;
        let (first, end) = self.tile_range();
        let settled = self.candidates();
        scratch.tiles.clear();
        self.list_tiles(scratch, first..base);
        self.list_tiles(scratch, base + settled..end);
        self.attend(scratch);
        let mut tiles = scratch.tiles.len();

        scratch.candidates = settled;
        let mut stand_ins = std::mem::take(S::room(scratch));
        let all = self.reused.is_none() && omission.none(settled);
        let width = if all {
            scratch.ranking.clear();
            scratch.ranking.extend(0..settled as u32);
            0
        } else {
            let width = self.estimate(scratch, &mut stand_ins.single, settled);
            match self.reused {
                Some(reused) => reused.list(settled, &mut scratch.ranking),
                None => Self::select(scratch, omission),
            }
            width
        };
        scratch.tiles.clear();
        for i in 0..scratch.ranking.len() {
            let tile = base + scratch.ranking[i] as usize;
            self.lane.store.list(tile, false, &mut scratch.tiles);
        }
        tiles += scratch.tiles.len();
        self.attend(scratch);
        let retained_mass =
            if all { rows as f64 } else { self.correct_tail::<S>(scratch, &mut stand_ins, width, omission.light) };
        *S::room(scratch) = stand_ins;
        SoftReport {
            rows: rows as f64,
            retained_mass,
            tiles_read: (rows * tiles) as f64,
            tiles_visible: (rows * (end - first)) as f64,
        }
    }

    /// Fills `ranking` with the tiles to read of those in `masses`, rising: all but those that may be left out.
    pub(super) fn select(scratch: &mut Scratch<T>, Omission { light, limits: (least, most) }: Omission) {
        let (masses, by_mass) = (&scratch.masses, &mut scratch.by_mass);
        scratch.ranking.clear();
        let fewest = masses.len().saturating_sub(most);
        let allowed = masses.len().saturating_sub(least);
        // How many of those in `by_mass` are its lightest and in front, and how many of it are left out at least.
        let (light, fewest) = match light {
            Light::Together(share) => (lightest(masses, share, allowed, by_mass), fewest),
            Light::Each(share) => {
                scratch.ranking.extend((0..masses.len() as u32).filter(|&tile| masses[tile as usize] >= share));
                let light = masses.len() - scratch.ranking.len();
                if (fewest..=allowed).contains(&light) {
                    return;
                }
                if light < fewest {
                    // The heaviest are among those found.
                    by_mass.clear();
                    let heavy = scratch.ranking.drain(..).map(|tile| tile as usize);
                    by_mass.extend(heavy.map(|tile| Weighed::new(tile, masses[tile])));
                    (0, fewest - light)
                } else {
                    scratch.ranking.clear();
                    (lightest(masses, f32::INFINITY, allowed, by_mass), fewest)
                }
            }
        };
        if light < fewest {
            by_mass[light..].select_nth_unstable(fewest - light - 1);
        }
        scratch.ranking.extend(by_mass[light.max(fewest)..].iter().map(|weighed| weighed.place() as u32));
        // In memory order the tiles stream.
        scratch.ranking.sort_unstable();
    }
}

/// A place with its mass, in the order of masses (of equals, the last place first): the bits of a mass, which is not
/// negative, above the complement of the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Weighed(u64);

impl Weighed {
    fn new(place: usize, mass: f32) -> Self {
        Self(u64::from(mass.to_bits()) << 32 | u64::from(!(place as u32)))
    }

    pub fn place(self) -> usize {
        !(self.0 as u32) as usize
    }

    fn mass(self) -> f32 {
        f32::from_bits((self.0 >> 32) as u32)
    }
}

/// Brings the places of `masses` (not negative) into `by_mass` so that the lightest, as many as together hold at most
/// `most` but no more than `count`, are in front. Returns how many these are.
fn lightest(masses: &[f32], most: f32, count: usize, by_mass: &mut Vec<Weighed>) -> usize {
    by_mass.clear();
    by_mass.extend(masses.iter().enumerate().map(|(place, &mass)| Weighed::new(place, mass)));
    // Half of what is undecided either fits, or holds all that may still go: no need to sort.
    let (mut from, mut to, mut held) = (0, by_mass.len(), 0.0);
    while from < to {
        let half = (to - from).div_ceil(2);
        let undecided = &mut by_mass[from..to];
        if half < undecided.len() {
            undecided.select_nth_unstable(half);
        }
        let mass: f32 = undecided[..half].iter().map(|weighed| weighed.mass()).sum();
        if held + mass <= most {
            (from, held) = (from + half, held + mass);
        } else if half == 1 {
            break;
        } else {
            to = from + half;
        }
    }
    if from > count {
        by_mass[..from].select_nth_unstable(count);
        from = count;
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lightest_are_as_many_as_fit() {
        let mut state = 12345_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 16_777_216.0
        };
        let mut by_mass = Vec::new();
        for n in [0, 1, 2, 3, 17, 100, 1000] {
            for equal in [false, true] {
                // Masses of very different sizes, many of them equal.
                let steps = if equal { 3.0 } else { 1e6 };
                let masses: Vec<f32> = (0..n).map(|_| (-8.0 * (random() * steps).floor() / steps).exp2()).collect();
                let mut sorted: Vec<usize> = (0..n).collect();
                sorted.sort_by(|&a, &b| masses[a].total_cmp(&masses[b]).then(b.cmp(&a)));
                let total: f32 = masses.iter().sum();
                for most in [0.0, 0.1 * total, 0.5 * total, 2.0 * total + 1.0] {
                    for count in [0, n / 3, n] {
                        let light = lightest(&masses, most, count, &mut by_mass);
                        let mut found: Vec<usize> = by_mass[..light].iter().map(|weighed| weighed.place()).collect();
                        let mut want = sorted[..light].to_vec();
                        found.sort_unstable();
                        want.sort_unstable();
                        assert_eq!(found, want);
                        let sum = |places: &[usize]| places.iter().map(|&place| masses[place]).sum::<f32>();
                        assert!(sum(&sorted[..light]) <= most + 1e-4 * total);
                        // One more would be too many, or too much.
                        assert!(light == count || sum(&sorted[..=light]) > most * (1.0 - 1e-4), "{light} of {n}");
                        let mut all: Vec<usize> = by_mass.iter().map(|weighed| weighed.place()).collect();
                        all.sort_unstable();
                        assert_eq!(all, (0..n).collect::<Vec<_>>());
                    }
                }
            }
        }
    }
}

//! The maps into the space in which DCI looks for near vectors: there, near means near by Euclidean distance.
//!
//! For the inner product (Neyshabur and Srebro 2015, as in `IceFormer`), with c the length of the longest vector:
//!
//! ```text
//! T_K(k) = [k / c ; sqrt(1 - |k|² / c²)]      T_Q(q) = [q / |q| ; 0]      |T_Q(q) - T_K(k)|² = 2 - 2 q·k / (c |q|)
//! ```
//!
//! so the nearest vector is the one with the largest product. All is kept times c, and never written out: a
//! vector has one number more than its own, `extra`. The other metrics fit the same form, a product of
//! `dimensions + 1` numbers that grows as the distance shrinks:
//!
//! | metric | key's extra | query's extra |
//! | --- | --- | --- |
//! | inner product | sqrt(c² − \|k\|²) | 0; of a key that looks for its parent: as any key |
//! | cosine (all have length 1) | 0 | 0 |
//! | L2 | −\|k\|²/2 | 1 |

use crate::metric::Metric;

/// What the map depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Embedding {
    pub metric: Metric,
    /// Length of the longest vector so far (c), 1 for cosine.
    pub longest: f32,
}

impl Embedding {
    pub fn new(metric: Metric) -> Self {
        Self { metric, longest: if metric == Metric::Cosine { 1.0 } else { 0.0 } }
    }

    /// Takes note of a vector's squared length.
    pub fn include(&mut self, squared_length: f64) {
        if self.metric != Metric::Cosine {
            self.longest = self.longest.max(squared_length.sqrt() as f32);
        }
    }

    /// Number after the last of a key, whose squared length is given.
    #[inline]
    pub fn extra(self, squared_length: f32) -> f32 {
        match self.metric {
            Metric::InnerProduct => self.height(squared_length),
            Metric::Cosine => 0.0,
            Metric::L2 => -0.5 * squared_length,
        }
    }

    /// Number after the last of a key that looks for a near key.
    #[inline]
    pub fn extra_of_child(self, squared_length: f32) -> f32 {
        match self.metric {
            Metric::InnerProduct => self.height(squared_length),
            Metric::Cosine => 0.0,
            Metric::L2 => 1.0,
        }
    }

    /// Number after the last of a query.
    pub fn extra_of_query(self) -> f32 {
        if self.metric == Metric::L2 { 1.0 } else { 0.0 }
    }

    /// True if a query's product with a key includes the extra number.
    pub fn query_has_extra(self) -> bool {
        self.metric == Metric::L2
    }

    /// True if keys have an extra number of their own as points of the space: what is projected.
    pub fn projects_extra(self) -> bool {
        self.metric == Metric::InnerProduct
    }

    /// sqrt(c² − |k|²)
    #[inline]
    fn height(self, squared_length: f32) -> f32 {
        (self.longest * self.longest - squared_length).max(0.0).sqrt()
    }

    /// What a query, of the given length, is multiplied by before it is projected.
    pub fn query_scale(self, length: f64) -> f32 {
        match self.metric {
            Metric::InnerProduct if length > 0.0 => (f64::from(self.longest) / length) as f32,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_as_products_grow() {
        let embedding = Embedding { metric: Metric::InnerProduct, longest: 5.0 };
        let (query, length) = ([0.6_f32, -0.8], 1.0);
        for key in [[3.0_f32, 4.0], [1.0, -2.0], [0.0, 0.0]] {
            let extra = embedding.extra(key[0] * key[0] + key[1] * key[1]);
            let scale = embedding.query_scale(length);
            let distance: f32 = (0..2).map(|i| (key[i] - scale * query[i]).powi(2)).sum::<f32>() + extra * extra;
            let product: f32 = (0..2).map(|i| key[i] * query[i]).sum();
            assert!((distance - 25.0 * (2.0 - 2.0 * product / 5.0)).abs() < 1e-4);
        }
    }
}

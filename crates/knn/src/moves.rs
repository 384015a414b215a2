//! A new order in place, with room for one thing aside.

/// One step of putting things in a new order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// The thing at this place is kept aside.
    Aside(usize),
    /// The first place's thing goes to the second.
    To(usize, usize),
    /// What was kept aside goes to this place.
    Back(usize),
}

/// Calls `step` with what brings the thing at `order[i]` to place i, for all i. `order` is a permutation.
pub(crate) fn rearrange(order: &[u32], mut step: impl FnMut(Move)) {
    let mut done = vec![false; order.len()];
    for first in 0..order.len() {
        if done[first] || order[first] as usize == first {
            continue;
        }
        step(Move::Aside(first));
        let mut place = first;
        loop {
            done[place] = true;
            let from = order[place] as usize;
            if from == first {
                break;
            }
            step(Move::To(from, place));
            place = from;
        }
        step(Move::Back(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn everything_gets_to_its_place() {
        let mut random = Random::new(3);
        for n in [0, 1, 2, 3, 50, 333] {
            let mut order: Vec<u32> = (0..n as u32).collect();
            for i in (1..n).rev() {
                order.swap(i, random.below(i + 1));
            }
            let mut things: Vec<usize> = (0..n).map(|i| 1000 + i).collect();
            let mut aside = 0;
            rearrange(&order, |step| match step {
                Move::Aside(place) => aside = things[place],
                Move::To(from, place) => things[place] = things[from],
                Move::Back(place) => things[place] = aside,
            });
            assert!(things.iter().zip(&order).all(|(&thing, &from)| thing == 1000 + from as usize), "{order:?}");
        }
    }
}

//! How the rows and the panels of a product are cut into register tiles, the blocks of sums that the registers hold.
//!
//! A kernel is compiled for each height and width of its register tile, so both are constants where it is called, and
//! the branches that a level never takes vanish. These are macros because a closure around vectors would be compiled
//! without the level's CPU features.

/// All rows below `$m`, tile after tile, each of the greatest height that is left and that the level's registers hold.
///
/// `$body` is compiled for each of the heights `[8 6 4 3 2 1]` that are given, the greatest first; in it `$row` is the
/// tile's first row and `$height` its height, a constant. `$most` is the level's greatest height.
macro_rules! rows_in_tiles {
    ($most:expr, $m:expr, [$($n:literal)*], $row:ident, $height:ident => $body:block) => {{
        let mut $row = 0;
        $(
            // Six rows are for registers that do not hold eight.
            if $n <= $most && !($n == 6 && $most >= 8) {
                const $height: usize = $n;
                while $m - $row >= $height {
                    $body
                    $row += $height;
                }
            }
        )*
    }};
}

/// All rows below `$m` in tiles of nearly equal height, at most `$most`: a lone last row would wait for its sums.
///
/// `$body` is compiled for each of the heights that are given, of which those above `$most` vanish; in it `$row` is the
/// tile's first row and `$height` its height, a constant.
macro_rules! rows_in_even_tiles {
    ($most:expr, $m:expr, [$($n:literal)*], $row:ident, $height:ident => $body:block) => {{
        let mut left = $m;
        while left > 0 {
            let height = left.div_ceil(left.div_ceil($most));
            let $row = $m - left;
            match height {
                $($n if $n <= $most => {
                    const $height: usize = $n;
                    $body
                })*
                // A height is at most `$most`, which is among those given.
                _ => {}
            }
            left -= height;
        }
    }};
}

/// All of `$m` rows, one to four, in one tile: `$height` is their number, a constant in `$body`.
macro_rules! rows_in_one_tile {
    ($m:expr, $height:ident => $body:block) => {
        match $m {
            1 => $crate::register_tile::rows_in_one_tile!(@tile 1, $height, $body),
            2 => $crate::register_tile::rows_in_one_tile!(@tile 2, $height, $body),
            3 => $crate::register_tile::rows_in_one_tile!(@tile 3, $height, $body),
            _ => $crate::register_tile::rows_in_one_tile!(@tile 4, $height, $body),
        }
    };
    (@tile $n:literal, $height:ident, $body:block) => {{
        const $height: usize = $n;
        $body
    }};
}

/// Groups of `$n` panels from `$panel`, a variable that advances, while as many are left below `$panels`. In `$body`
/// `$width` is the number of panels of a group, a constant.
macro_rules! whole_groups {
    ($n:literal, $panels:expr, $panel:ident, $width:ident => $body:block) => {
        while $panels - $panel >= $n {
            $crate::register_tile::one_group!($n, $panel, $width => $body);
        }
    };
}

/// All panels from `$panel`, a variable that advances, to `$panels`: in groups of three, or one by one where the level's
/// registers hold the sums of `$most` = 1 panel. In `$body` `$width` is the number of panels of a group, a constant.
macro_rules! panels_by_three {
    ($most:expr, $panels:expr, $panel:ident, $width:ident => $body:block) => {
        while $panel < $panels {
            match $panels - $panel {
                _ if $most == 1 => $crate::register_tile::one_group!(1, $panel, $width => $body),
                1 => $crate::register_tile::one_group!(1, $panel, $width => $body),
                // 4 = 2 + 2: a single panel leaves too few sums in flight.
                2 | 4 => $crate::register_tile::one_group!(2, $panel, $width => $body),
                _ => $crate::register_tile::one_group!(3, $panel, $width => $body),
            }
        }
    };
}

/// As [`panels_by_three`], in groups of four: for tiles of few rows, which leave registers for as many.
macro_rules! panels_by_four {
    ($most:expr, $panels:expr, $panel:ident, $width:ident => $body:block) => {
        while $panel < $panels {
            match $panels - $panel {
                _ if $most == 1 => $crate::register_tile::one_group!(1, $panel, $width => $body),
                1 => $crate::register_tile::one_group!(1, $panel, $width => $body),
                2 | 3 => $crate::register_tile::one_group!(2, $panel, $width => $body),
                _ => $crate::register_tile::one_group!(4, $panel, $width => $body),
            }
        }
    };
}

/// Groups of four panels while as many are left, for up to four rows in one tile, which have few sums in flight; or, where
/// `$most` = 1, all panels one by one.
macro_rules! panels_of_few_rows {
    ($most:expr, $panels:expr, $panel:ident, $width:ident => $body:block) => {
        if $most == 1 {
            $crate::register_tile::whole_groups!(1, $panels, $panel, $width => $body);
        } else {
            $crate::register_tile::whole_groups!(4, $panels, $panel, $width => $body);
        }
    };
}

/// One group of `$n` panels.
macro_rules! one_group {
    ($n:literal, $panel:ident, $width:ident => $body:block) => {{
        const $width: usize = $n;
        $body
        $panel += $width;
    }};
}

pub(crate) use {
    one_group, panels_by_four, panels_by_three, panels_of_few_rows, rows_in_even_tiles, rows_in_one_tile,
    rows_in_tiles, whole_groups,
};

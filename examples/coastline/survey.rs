//! What a task does: counts and measures its rows, in place.

use std::iter::Sum;
use std::ops::AddAssign;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, ArrayViewMut3};
use serde::{Deserialize, Serialize};

use crate::grid::{Grid, real};
use crate::picture;

/// So many cells are counted in counters of one byte, so that the processor counts 16 or more at a time.
const RUN: usize = 224;

/// Some cells, or the edges between some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) count: usize,
    /// Kilometres of edges, or square kilometres of cells.
    pub(crate) size: f64,
}

/// What is found in some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) land: Measure,
    /// Edges between a cell and the one to its east where one of both is land.
    pub(crate) east_west: Measure,
    /// Edges between a cell and the one to its north where one of both is land.
    pub(crate) north_south: Measure,
}

/// Where a task's rows lie, and what lies around them.
pub(crate) struct Place<'a> {
    pub(crate) grid: Grid,
    pub(crate) first_row: usize,
    /// The whole mask.
    pub(crate) mask: ArrayView2<'a, u8>,
    /// The middle of each of its rows in degrees.
    pub(crate) latitudes: ArrayView1<'a, f64>,
}

/// Measures `rows` of the mask, a degree of latitude, and fills in its row of tiles and its rows of pixels.
pub(crate) fn survey(
    place: &Place<'_>,
    rows: &ArrayView2<'_, u8>,
    mut tiles: ArrayViewMut2<'_, f64>,
    mut pixels: ArrayViewMut3<'_, u8>,
) -> Tally {
    let grid = place.grid;
    let pixels_per_degree = grid.pixels_per_degree();
    let cells_per_pixel = grid.cells_per_degree() / pixels_per_degree;
    let mut total = Tally::default();
    // The land cells in each pixel, pixel row by pixel row.
    let mut land = vec![0; pixels_per_degree * 360 * pixels_per_degree];
    let mut strip = Strip { columns: vec![0; grid.columns()], rows: 0 };

    for (i, row) in rows.rows().into_iter().enumerate() {
        let index = place.first_row + i;
        let north = index.checked_sub(1);
        // At the pole there is none to the north, and a row has no edges with itself.
        let north_row = place.mask.row(north.unwrap_or(index));
        let counts = strip.add(cells(&row), cells(&north_row));

        let latitude = place.latitudes[index];
        let edge = north.map_or(latitude, |north| f64::midpoint(latitude, place.latitudes[north]));
        total.land += Measure::of(counts.land, grid.cell_area_km2(latitude));
        total.east_west += Measure::of(counts.east, grid.height_km());
        total.north_south += Measure::of(counts.north, grid.width_km(edge));

        if strip.is_full() || (i + 1).is_multiple_of(cells_per_pixel) {
            let columns = 360 * pixels_per_degree;
            strip.pour_into(&mut land[i / cells_per_pixel * columns..][..columns]);
        }
    }

    let cells_per_tile = real(grid.cells_per_degree().pow(2));
    for (x, tile) in tiles.iter_mut().enumerate() {
        let of_tile: usize = land.chunks_exact(pixels_per_degree).skip(x).step_by(360).flatten().sum();
        *tile = real(of_tile) / cells_per_tile;
    }
    let fractions = land.iter().map(|&count| real(count) / real(cells_per_pixel.pow(2)));
    picture::draw(grid, place.first_row / cells_per_pixel, fractions, &tiles.view(), pixels.view_mut());
    total
}

fn cells<'a>(row: &ArrayView1<'a, u8>) -> &'a [u8] {
    row.to_slice().expect("masks in another order are refused when they are read")
}

/// What one row holds.
struct RowCounts {
    land: usize,
    east: usize,
    north: usize,
}

/// Rows counted column by column, as many as a byte can count.
struct Strip {
    columns: Vec<u8>,
    rows: u8,
}

impl Strip {
    fn is_full(&self) -> bool {
        self.rows == u8::MAX
    }

    /// Counts one row; the strip must not be full.
    fn add(&mut self, row: &[u8], north: &[u8]) -> RowCounts {
        let Some((&first, east)) = row.split_first() else { return RowCounts { land: 0, east: 0, north: 0 } };
        self.rows += 1;
        // Its eastern neighbour lies beyond the date line.
        let last = east.last().map_or(0, |&last| usize::from(is_land(last) != is_land(first)));
        let mut counts = RowCounts { land: 0, east: last, north: 0 };
        let runs = row.chunks(RUN).zip(east.chunks(RUN)).zip(north.chunks(RUN)).zip(self.columns.chunks_mut(RUN));
        for (((row, east), north), columns) in runs {
            let mut edges = 0;
            for (&cell, &east) in row.iter().zip(east) {
                edges += u8::from(is_land(cell) != is_land(east));
            }
            counts.east += usize::from(edges);

            let (mut land, mut edges) = (0, 0);
            for ((&cell, &north), column) in row.iter().zip(north).zip(columns) {
                let is_land_here = u8::from(is_land(cell));
                land += is_land_here;
                edges += is_land_here ^ u8::from(is_land(north));
                *column += is_land_here;
            }
            counts.land += usize::from(land);
            counts.north += usize::from(edges);
        }
        counts
    }

    /// Adds what was counted to a row of pixels and begins anew.
    fn pour_into(&mut self, pixels: &mut [usize]) {
        let cells_per_pixel = self.columns.len() / pixels.len();
        for (pixel, columns) in pixels.iter_mut().zip(self.columns.chunks_exact(cells_per_pixel)) {
            *pixel += columns.iter().map(|&count| usize::from(count)).sum::<usize>();
        }
        self.columns.fill(0);
        self.rows = 0;
    }
}

fn is_land(cell: u8) -> bool {
    cell == 0
}

impl Measure {
    fn of(count: usize, size_of_one: f64) -> Self {
        Self { count, size: real(count) * size_of_one }
    }
}

impl AddAssign for Measure {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.size += other.size;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut total, tally| {
            total.land += tally.land;
            total.east_west += tally.east_west;
            total.north_south += tally.north_south;
            total
        })
    }
}

//! What a cell of the mask is on the sphere.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Mean radius of the Earth in km, as the International Union of Geodesy and Geophysics has it.
pub(crate) const RADIUS_KM: f64 = 6371.0088;

/// Side of a 1° tile of the map in pixels, at most.
const MOST_PIXELS_PER_DEGREE: usize = 6;

/// A mask of the whole sphere, in cells of equal angles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grid {
    /// Cells along a degree, of latitude as of longitude; at least 1.
    per_degree: usize,
}

impl Grid {
    pub(crate) fn new(shape: &[usize]) -> Result<Self, String> {
        match shape {
            &[rows, columns] if rows > 0 && rows % 180 == 0 && rows.checked_mul(2) == Some(columns) => {
                Ok(Self { per_degree: rows / 180 })
            }
            _ => Err(format!("the mask has shape {shape:?}, expected [180, 360] or a multiple of it")),
        }
    }

    pub(crate) fn rows(self) -> usize {
        180 * self.per_degree
    }

    pub(crate) fn columns(self) -> usize {
        360 * self.per_degree
    }

    pub(crate) fn cells_per_degree(self) -> usize {
        self.per_degree
    }

    /// Of the map: as fine as it may be with whole cells in a pixel.
    pub(crate) fn pixels_per_degree(self) -> usize {
        (1..=MOST_PIXELS_PER_DEGREE).rev().find(|&pixels| self.per_degree.is_multiple_of(pixels)).unwrap_or(1)
    }

    /// Rows, columns, and three colours.
    pub(crate) fn picture_shape(self) -> (usize, usize, usize) {
        (180 * self.pixels_per_degree(), 360 * self.pixels_per_degree(), 3)
    }

    /// The angle that a cell spans, in degrees.
    pub(crate) fn step(self) -> f64 {
        180.0 / real(self.rows())
    }

    /// The latitude of a row in degrees, where the file does not give it: as in the mask that comes with the repository.
    pub(crate) fn latitude(self, row: usize) -> f64 {
        90.0 - 180.0 * real(row) / real(self.rows())
    }

    /// How high a cell is, anywhere.
    pub(crate) fn height_km(self) -> f64 {
        RADIUS_KM * self.step().to_radians()
    }

    /// How wide a cell is at `latitude` degrees.
    pub(crate) fn width_km(self, latitude: f64) -> f64 {
        self.height_km() * latitude.to_radians().cos()
    }

    /// The area of a cell that spans half a step to the north and the south of `latitude` degrees, but not beyond a pole.
    pub(crate) fn cell_area_km2(self, latitude: f64) -> f64 {
        let half = self.step() / 2.0;
        let north = (latitude + half).min(90.0).to_radians().sin();
        let south = (latitude - half).max(-90.0).to_radians().sin();
        RADIUS_KM * RADIUS_KM * self.step().to_radians() * (north - south)
    }
}

pub(crate) fn sphere_area_km2() -> f64 {
    4.0 * PI * RADIUS_KM * RADIUS_KM
}

/// A count as a number to compute with.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) fn real(count: usize) -> f64 {
    count as f64
}

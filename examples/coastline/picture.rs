//! The map: colours, drawn by the workers, and the PNG file.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use ndarray::{ArrayView2, ArrayViewMut3, Ix3};
use ndshm::SharedArray;

use crate::Result;
use crate::grid::Grid;

type Colour = [f64; 3];

// Red, green and blue from 0 to 255. Each pair is for tiles without land and for tiles that are nothing else.
const OCEAN: [Colour; 2] = [[24.0, 64.0, 105.0], [150.0, 200.0, 215.0]];
const LAND: [Colour; 2] = [[244.0, 228.0, 178.0], [104.0, 142.0, 84.0]];
const COAST: Colour = [38.0, 34.0, 30.0];
const GRATICULE: Colour = [255.0, 255.0, 255.0];
const GRATICULE_STRENGTH: f64 = 0.16;
const GRATICULE_DEGREES: usize = 30;

/// Draws one degree of latitude: `fractions` of land of each pixel, and of each of its tiles.
pub(crate) fn draw(
    grid: Grid,
    first_row: usize,
    fractions: impl Iterator<Item = f64>,
    tiles: &ArrayView2<'_, f64>,
    mut pixels: ArrayViewMut3<'_, u8>,
) {
    let per_degree = grid.pixels_per_degree();
    let every = GRATICULE_DEGREES * per_degree;
    for (i, (mut pixel, fraction)) in pixels.rows_mut().into_iter().zip(fractions).enumerate() {
        let (y, x) = (first_row + i / (360 * per_degree), i % (360 * per_degree));
        let mut colour = colour(fraction, tiles[[0, x / per_degree]]);
        if (x > 0 && x % every == 0) || (y > 0 && y % every == 0) {
            colour = mix(colour, GRATICULE, GRATICULE_STRENGTH);
        }
        for (byte, value) in pixel.iter_mut().zip(colour) {
            *byte = to_byte(value);
        }
    }
}

/// Of a pixel that is land by `fraction`, in a tile that is by `tile`. Pixels that are both land and ocean are coast.
fn colour(fraction: f64, tile: f64) -> Colour {
    let ocean = mix(OCEAN[0], OCEAN[1], tile);
    let land = mix(LAND[0], LAND[1], tile);
    // Darkest where land and ocean are equal.
    let coast = (4.0 * fraction * (1.0 - fraction)).sqrt();
    mix(mix(ocean, land, fraction), COAST, 0.85 * coast)
}

fn mix(from: Colour, to: Colour, share: f64) -> Colour {
    std::array::from_fn(|i| from[i] + share * (to[i] - from[i]))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what a byte holds")]
fn to_byte(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// Writes the picture to `path`.
pub(crate) fn write_png(path: &Path, pixels: &SharedArray<u8, Ix3>) -> Result<()> {
    encode(path, pixels).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

fn encode(path: &Path, pixels: &SharedArray<u8, Ix3>) -> Result<()> {
    let pixels = pixels.read()?;
    let (height, width, _) = pixels.dim();
    let mut encoder =
        png::Encoder::new(BufWriter::new(File::create(path)?), u32::try_from(width)?, u32::try_from(height)?);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels.as_slice().unwrap_or_default())?;
    Ok(writer.finish()?)
}

//! A picture of a two-dimensional array: the mean of the elements under each pixel, in colours whose lightness grows
//! with the value, so that it also reads in grey.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ndshm::{ArrayInfo, BlockFile};

use crate::elements::{Numeric, each};

/// Pixels of the longer side, at most.
const LONGEST: usize = 1024;

/// Red, green and blue from the smallest value to the largest: night, violet, red, orange, pale yellow.
const COLOURS: [[f64; 3]; 6] = [
    [10.0, 10.0, 36.0],
    [66.0, 24.0, 104.0],
    [142.0, 40.0, 104.0],
    [216.0, 78.0, 66.0],
    [248.0, 158.0, 60.0],
    [250.0, 244.0, 188.0],
];

/// Values of pixels, row by row; NaN where there is no number.
#[derive(Debug)]
pub(crate) struct Picture {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Picture {
    pub(crate) fn of(
        file: &BlockFile,
        info: &ArrayInfo,
        numeric: Numeric,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let &[rows, columns] = info.shape() else {
            bail!("a picture needs an array of 2 axes, found {} (shape {:?})", info.shape().len(), info.shape());
        };
        if rows == 0 || columns == 0 {
            bail!("a picture needs elements, found none (shape {:?})", info.shape());
        }
        // In Fortran order the array is stored as its transpose.
        let (slow, fast) = if info.is_fortran() { (columns, rows) } else { (rows, columns) };
        let longest = slow.max(fast);
        let pixels = |length: usize| if longest <= LONGEST { length } else { (length * LONGEST / longest).max(1) };
        let (slow_pixels, fast_pixels) = (pixels(slow), pixels(fast));
        let mut sums = vec![(0.0, 0_u64); slow_pixels * fast_pixels];
        let (mut line, mut across) = (Share::new(slow, slow_pixels), Share::new(fast, fast_pixels));
        let mut add = |value: f64| {
            // More elements than the header told of do not come.
            let pixel = line.pixel * fast_pixels + across.pixel;
            if let Some((sum, count)) = sums.get_mut(pixel).filter(|_| value.is_finite()) {
                *sum += value;
                *count += 1;
            }
            if across.step() {
                line.step();
            }
        };
        each(file, info, numeric, |values| {
            values.for_each_float(&mut add);
            progress(values.len());
        })?;
        let value = |&(sum, count): &(f64, u64)| if count == 0 { f64::NAN } else { sum / count as f64 };
        let stored: Vec<f64> = sums.iter().map(value).collect();
        Ok(if info.is_fortran() {
            let values = (0..fast_pixels * slow_pixels)
                .map(|i| stored[i % slow_pixels * fast_pixels + i / slow_pixels])
                .collect();
            Self { width: slow_pixels, height: fast_pixels, values }
        } else {
            Self { width: fast_pixels, height: slow_pixels, values: stored }
        })
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// Eight bits each of red, green, blue and opacity: what is no number is transparent.
    fn pixels(&self) -> Vec<u8> {
        let finite = || self.values.iter().copied().filter(|value| value.is_finite());
        let low = finite().fold(f64::INFINITY, f64::min);
        let high = finite().fold(f64::NEG_INFINITY, f64::max);
        let mut pixels = Vec::with_capacity(4 * self.values.len());
        for &value in &self.values {
            if value.is_finite() {
                // Halved, so that the widest range does not overflow.
                let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
                pixels.extend(colour(if share.is_finite() { share } else { 0.5 }));
                pixels.push(255);
            } else {
                pixels.extend([0; 4]);
            }
        }
        pixels
    }

    /// Writes a PNG file, in place of what is there.
    pub(crate) fn write_png(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let file = BufWriter::new(File::create(path)?);
            let mut encoder = png::Encoder::new(file, u32::try_from(self.width)?, u32::try_from(self.height)?);
            encoder.set_color(png::ColorType::Rgba);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header()?;
            writer.write_image_data(&self.pixels())?;
            Ok(writer.finish()?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Which pixel the next element of a line falls on. Counted and not tabulated: a line has any number of elements.
#[derive(Debug)]
struct Share {
    elements: usize,
    pixels: usize,
    pixel: usize,
    /// Of an element and its pixel, so far: less than `elements`.
    rest: usize,
    at: usize,
}

impl Share {
    fn new(elements: usize, pixels: usize) -> Self {
        Self { elements, pixels, pixel: 0, rest: 0, at: 0 }
    }

    /// On to the next element; `true` at the end of the line, where it begins anew.
    fn step(&mut self) -> bool {
        self.at += 1;
        if self.at == self.elements {
            *self = Self::new(self.elements, self.pixels);
            return true;
        }
        // There are no more pixels than elements.
        self.rest += self.pixels;
        if self.rest >= self.elements {
            self.rest -= self.elements;
            self.pixel += 1;
        }
        false
    }
}

/// The colour of a share from 0 to 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares and colours lie in their ranges")]
fn colour(share: f64) -> [u8; 3] {
    let place = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let before = (place as usize).min(COLOURS.len() - 2);
    let part = place - before as f64;
    std::array::from_fn(|i| (COLOURS[before][i] + part * (COLOURS[before + 1][i] - COLOURS[before][i])).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lightness_grows_with_the_value() {
        let lightness = |i: i32| {
            let [red, green, blue] = colour(f64::from(i) / 100.0).map(f64::from);
            0.2126 * red + 0.7152 * green + 0.0722 * blue
        };
        assert!((0..100).all(|i| lightness(i) < lightness(i + 1)));
    }

    #[test]
    fn elements_are_shared_out_evenly_among_pixels() {
        for (elements, pixels) in [(1, 1), (7, 7), (10, 3), (2048, 1024), (2047, 1024), (5000, 1)] {
            let mut share = Share::new(elements, pixels);
            for _ in 0..2 {
                for at in 0..elements {
                    assert_eq!(share.pixel, at * pixels / elements, "element {at} of {elements}");
                    assert_eq!(share.step(), at + 1 == elements);
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_transparent_and_one_value_has_one_colour() {
        let picture = Picture { width: 2, height: 1, values: vec![f64::NAN, 3.0] };
        let pixels = picture.pixels();
        assert_eq!(pixels[..4], [0; 4]);
        assert_eq!(pixels[7], 255);
        let picture = Picture { width: 2, height: 1, values: vec![f64::MIN, f64::MAX] };
        assert_eq!(picture.pixels()[..3], colour(0.0));
        assert_eq!(picture.pixels()[4..7], colour(1.0));
    }
}

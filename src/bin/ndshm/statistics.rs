//! Smallest, largest, mean and distribution of an array's elements, in two passes: exact, whatever the size.

use anyhow::Result;
use ndshm::{ArrayInfo, BlockFile};
use serde_json::{Value, json};

use crate::elements::{Numeric, Values, each};

/// Columns of the histogram.
const BINS: usize = 40;

/// What is known of the elements.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) count: u64,
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
    /// Of those that are numbers.
    pub(crate) range: Option<(Scalar, Scalar)>,
    /// Of those that are numbers.
    pub(crate) mean: Option<f64>,
    /// Of those that are finite, between the smallest and the largest of them.
    pub(crate) histogram: Vec<u64>,
    /// Absolute values of complex elements were counted.
    pub(crate) of_absolute_values: bool,
}

/// An integer stays exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    Int(i128),
    Float(f64),
}

impl Scalar {
    fn json(self) -> Value {
        match self {
            // Every element type's integers fit one of the two.
            Self::Int(value) => {
                i64::try_from(value).map_or_else(|_| json!(u64::try_from(value).ok()), |value| json!(value))
            }
            Self::Float(value) => float(value),
        }
    }
}

/// JSON has no words for infinities and NaN.
fn float(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{}", significant(*value)),
        }
    }
}

/// Six digits that count.
pub(crate) fn significant(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.5e}");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 9")]
    let digits = (5.0 - magnitude.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl Statistics {
    /// Reads the array twice; `progress` is told how many elements were read.
    pub(crate) fn of(
        file: &BlockFile,
        info: &ArrayInfo,
        numeric: Numeric,
        mut progress: impl FnMut(usize),
    ) -> Result<Self> {
        let mut sums = Sums::default();
        each(file, info, numeric, |values| progress(sums.add(values)))?;
        let mut bins = Bins::between(sums.finite);
        each(file, info, numeric, |values| progress(bins.add(values)))?;
        Ok(Self {
            count: info.len() as u64,
            nan: sums.nan,
            infinite: sums.infinite,
            range: sums.range(),
            mean: sums.mean(),
            histogram: bins.counts,
            of_absolute_values: numeric.is_complex(),
        })
    }

    /// The histogram as a line of blocks, each as high as its share of the fullest: what is not empty is seen.
    pub(crate) fn sparkline(&self) -> String {
        const HEIGHTS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.histogram.iter().copied().max().unwrap_or(0);
        let height = |&count: &u64| {
            let eighths = (u128::from(count) * 8).div_ceil(u128::from(most.max(1)));
            HEIGHTS[usize::try_from(eighths).unwrap_or(8).min(8)]
        };
        self.histogram.iter().map(height).collect()
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "count": self.count,
            "nan": self.nan,
            "infinite": self.infinite,
            "min": self.range.map(|(min, _)| min.json()),
            "max": self.range.map(|(_, max)| max.json()),
            "mean": self.mean.map(float),
            "histogram": self.histogram,
            "of_absolute_values": self.of_absolute_values,
        })
    }
}

/// The first pass.
#[derive(Debug, Default)]
struct Sums {
    ints: Option<(i128, i128)>,
    floats: Option<(f64, f64)>,
    finite: Option<(f64, f64)>,
    int_sum: i128,
    /// Of so many floats.
    mean: f64,
    numbers: u64,
    nan: u64,
    infinite: u64,
}

fn widen<T: PartialOrd + Copy>(range: &mut Option<(T, T)>, low: T, high: T) {
    let (min, max) = range.unwrap_or((low, high));
    *range = Some((if low < min { low } else { min }, if high > max { high } else { max }));
}

impl Sums {
    /// How many elements these were.
    fn add(&mut self, values: &Values) -> usize {
        match values {
            Values::Ints(values) => self.add_ints(values),
            Values::Naturals(values) => self.add_ints(values),
            Values::Floats(values) => {
                let (mut sum, mut numbers) = (0.0, 0_u64);
                for &value in values {
                    if value.is_nan() {
                        self.nan += 1;
                        continue;
                    }
                    widen(&mut self.floats, value, value);
                    if value.is_infinite() {
                        self.infinite += 1;
                    } else {
                        widen(&mut self.finite, value, value);
                    }
                    sum += value;
                    numbers += 1;
                }
                self.numbers += numbers;
                if numbers > 0 {
                    // Piece by piece, so that what is lost to rounding stays small and large numbers do not overflow.
                    let part = sum / numbers as f64;
                    let share = numbers as f64 / self.numbers as f64;
                    self.mean = if self.mean.is_finite() && part.is_finite() {
                        self.mean + (part - self.mean) * share
                    } else {
                        self.mean + part
                    };
                }
                values.len()
            }
        }
    }

    fn add_ints<T: Copy + Ord + Into<i128>>(&mut self, values: &[T]) -> usize {
        let (Some(&low), Some(&high)) = (values.iter().min(), values.iter().max()) else { return 0 };
        let (low, high) = (low.into(), high.into());
        widen(&mut self.ints, low, high);
        widen(&mut self.finite, low as f64, high as f64);
        // No array has as many elements as would overflow it.
        self.int_sum += values.iter().map(|&value| value.into()).sum::<i128>();
        self.numbers += values.len() as u64;
        values.len()
    }

    fn range(&self) -> Option<(Scalar, Scalar)> {
        let ints = self.ints.map(|(low, high)| (Scalar::Int(low), Scalar::Int(high)));
        ints.or(self.floats.map(|(low, high)| (Scalar::Float(low), Scalar::Float(high))))
    }

    fn mean(&self) -> Option<f64> {
        match (self.numbers, self.ints) {
            (0, _) => None,
            (count, Some(_)) => Some(self.int_sum as f64 / count as f64),
            (_, None) => Some(self.mean),
        }
    }
}

/// The second pass.
#[derive(Debug)]
struct Bins {
    low: f64,
    /// Bins a unit.
    scale: f64,
    counts: Vec<u64>,
}

impl Bins {
    fn between(range: Option<(f64, f64)>) -> Self {
        let Some((low, high)) = range else { return Self { low: 0.0, scale: 0.0, counts: Vec::new() } };
        let width = high - low;
        // Of very large numbers the width is infinite, of very small ones the scale: one bin then, the first.
        let scale = Some(BINS as f64 / width).filter(|scale| scale.is_finite()).unwrap_or(0.0);
        Self { low, scale, counts: vec![0; BINS] }
    }

    /// How many elements these were.
    fn add(&mut self, values: &Values) -> usize {
        values.for_each_float(|value| {
            if value.is_finite() {
                self.count(value);
            }
        });
        values.len()
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float becomes the nearest index")]
    fn count(&mut self, value: f64) {
        let bin = ((value - self.low) * self.scale) as usize;
        let last = self.counts.len().saturating_sub(1);
        // Whoever writes without the lock can have changed it since the first pass.
        if let Some(count) = self.counts.get_mut(bin.min(last)) {
            *count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &Values) -> (Sums, Bins) {
        let mut sums = Sums::default();
        sums.add(values);
        let mut bins = Bins::between(sums.finite);
        bins.add(values);
        (sums, bins)
    }

    #[test]
    fn nan_and_infinities_are_counted_apart() {
        let (sums, bins) = of(&Values::Floats(vec![1.0, f64::NAN, 3.0, f64::INFINITY, 2.0, f64::NAN]));
        assert_eq!((sums.nan, sums.infinite, sums.numbers), (2, 1, 4));
        assert_eq!(sums.range(), Some((Scalar::Float(1.0), Scalar::Float(f64::INFINITY))));
        assert_eq!(sums.finite, Some((1.0, 3.0)));
        assert_eq!(sums.mean(), Some(f64::INFINITY));
        assert_eq!((bins.counts[0], bins.counts[20], bins.counts[39]), (1, 1, 1));
        assert_eq!(bins.counts.iter().sum::<u64>(), 3);
        let (sums, bins) = of(&Values::Floats(vec![f64::NAN]));
        assert_eq!((sums.range(), sums.mean(), bins.counts.len()), (None, None, 0));
    }

    #[test]
    fn integers_are_exact_and_extremes_do_no_harm() {
        let (sums, _) = of(&Values::Naturals(vec![u64::MAX, u64::MAX - 1]));
        assert_eq!(sums.range(), Some((Scalar::Int((1 << 64) - 2), Scalar::Int((1 << 64) - 1))));
        for extreme in [vec![f64::MAX, f64::MIN], vec![5e-324, 0.0], vec![7.0; 3], vec![-0.0]] {
            let (sums, bins) = of(&Values::Floats(extreme.clone()));
            assert_eq!(bins.counts.iter().sum::<u64>(), extreme.len() as u64);
            assert!(sums.mean().is_some_and(|mean| !mean.is_nan()), "{extreme:?}");
        }
    }

    #[test]
    fn the_mean_of_many_pieces_is_that_of_all() {
        let mut sums = Sums::default();
        for piece in 0..1000 {
            sums.add(&Values::Floats((0..100).map(|i| f64::from(piece * 100 + i) + 0.1).collect()));
        }
        assert!((sums.mean().unwrap() - (99_999.0 / 2.0 + 0.1)).abs() < 1e-9);
    }

    #[test]
    fn a_bin_that_is_not_empty_is_seen() {
        let statistics = Statistics { histogram: vec![0, 1, 500, 1000], ..Statistics::default() };
        assert_eq!(statistics.sparkline(), " ▁▄█");
    }

    #[test]
    fn numbers_have_six_digits() {
        let shown = [0.0, 1.0, -2.5, 1_234.567_89, 999_999.9, 1e6, 0.001_234_567, 1e-5, f64::NAN, f64::NEG_INFINITY];
        let expected = ["0", "1", "-2.5", "1234.57", "1000000", "1.00000e6", "0.00123457", "1.00000e-5", "NaN", "-inf"];
        assert_eq!(shown.map(significant), expected);
    }
}

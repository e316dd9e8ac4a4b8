//! The kernels, each compiled once so that threads and workers run the same code.

/// Columns of the arrays, whose rows are 16 KiB.
pub(crate) const COLUMNS: usize = 2048;

/// A task captures nothing: what it is to do comes in as a type.
pub(crate) trait Kernel {
    const NAME: &str;

    /// Works on the rows of `out` from `first` on, with all of `source`. A sum is what it returns, if it has one.
    fn run(out: &mut [f64], source: &[f64], first: usize) -> f64;
}

/// `out += a * source`.
pub(crate) struct Saxpy;

impl Kernel for Saxpy {
    const NAME: &str = "saxpy";

    #[inline(never)]
    fn run(out: &mut [f64], source: &[f64], first: usize) -> f64 {
        for (y, x) in out.iter_mut().zip(&source[first * COLUMNS..]) {
            *y += 0.5 * x;
        }
        0.0
    }
}

/// Each cell becomes the mean of itself and its four neighbours; those at the edge are left alone.
pub(crate) struct Stencil;

impl Kernel for Stencil {
    const NAME: &str = "5-point stencil";

    #[inline(never)]
    fn run(out: &mut [f64], source: &[f64], first: usize) -> f64 {
        let rows = source.len() / COLUMNS;
        let row = |index: usize| &source[index * COLUMNS..][..COLUMNS];
        for (index, out) in (first..).zip(out.chunks_exact_mut(COLUMNS)) {
            if index == 0 || index == rows - 1 {
                continue;
            }
            let (above, here, below) = (row(index - 1), row(index), row(index + 1));
            for column in 1..COLUMNS - 1 {
                let sides = here[column - 1] + here[column] + here[column + 1];
                out[column] = 0.2 * (above[column] + sides + below[column]);
            }
        }
        0.0
    }
}

/// The sum of the squares of `source`.
pub(crate) struct Reduction;

impl Kernel for Reduction {
    const NAME: &str = "reduction";

    #[inline(never)]
    fn run(out: &mut [f64], source: &[f64], first: usize) -> f64 {
        let source = &source[first * COLUMNS..][..out.len()];
        // Several sums side by side: the compiler may not change the order of additions.
        let mut sums = [0.0; 8];
        for lanes in source.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(lanes) {
                *sum += x * x;
            }
        }
        sums.iter().sum()
    }
}

/// Each row of `source`, sorted.
pub(crate) struct Sort;

impl Kernel for Sort {
    const NAME: &str = "row-wise sort";

    #[inline(never)]
    fn run(out: &mut [f64], source: &[f64], first: usize) -> f64 {
        out.copy_from_slice(&source[first * COLUMNS..][..out.len()]);
        for row in out.chunks_exact_mut(COLUMNS) {
            row.sort_unstable_by(f64::total_cmp);
        }
        0.0
    }
}

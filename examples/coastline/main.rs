//! Surveys the world's coasts on a land mask of 933 MB, with one worker process per CPU and one copy of the mask.
//!
//! ```console
//! $ cargo run --release --example coastline
//! ```
//!
//! The mask is inflated straight into a shared array. Workers then see its rows in place, each task one degree of
//! latitude: it counts and measures, and writes its rows of two more shared arrays, the land fraction of 1° tiles and the
//! pixels of a map.
//!
//! | file | idea |
//! |---|---|
//! | `options` | the command line |
//! | `input`, `npy` | `.npz` and `.npy` files become shared arrays |
//! | `grid` | what a cell is on the sphere |
//! | `survey` | what a task does |
//! | `picture` | colours, and the PNG file |
//! | `handover` | what it takes to give the mask to another process |
//! | `report` | the table |

mod grid;
mod handover;
mod input;
mod npy;
mod options;
mod picture;
mod report;
mod survey;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ndshm::{Param, Pool, SharedArray};

use crate::handover::Receiver;
use crate::input::Input;
use crate::options::{Invocation, Options};
use crate::report::Report;
use crate::survey::{Place, Tally};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    // First of all: the pool's workers are copies of this program and turn into workers here.
    ndshm::init();

    let (outcome, code) = match options::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Help) => (print(options::HELP), 1),
        Ok(Invocation::Receive) => (handover::receive(), 1),
        Ok(Invocation::Survey(options)) => (run(&options), 1),
        Err(usage) => (Err(usage.into()), 2),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coastline: {error}");
            ExitCode::from(code)
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let pool = match options.workers {
        Some(workers) => Pool::builder().workers(workers.get()).build()?,
        None => Pool::new()?,
    };

    let started = Instant::now();
    let bar = progress_bar("reading", "{decimal_bytes} of {decimal_total_bytes}");
    let Input { grid, mask, latitudes } = input::load(&options.mask, &bar)?;
    bar.finish_and_clear();
    let reading = started.elapsed();

    let in_place = handover::in_place(&pool, &mask)?;

    let mut tiles = SharedArray::<f64, _>::zeros((180, 360))?;
    let mut pixels = SharedArray::<u8, _>::zeros(grid.picture_shape())?;
    let started = Instant::now();
    let bar = progress_bar("surveying", "row {pos} of {len}");
    let tallies = pool
        .call()
        .progress(|progress| {
            bar.set_length(progress.rows as u64);
            bar.set_position(progress.rows_done as u64);
        })
        .map(
            (
                // A degree of latitude a task: so many rows of the mask, one of tiles, some of the map …
                mask.chunks().rows(grid.cells_per_degree()),
                tiles.chunks_mut().rows(1),
                pixels.chunks_mut().rows(grid.pixels_per_degree()),
                // … and all of the mask beside them, since the row to the north may be another worker's.
                &mask,
                &latitudes,
                Param(&grid),
            ),
            |(rows, tiles, pixels, mask, latitudes, grid), chunk| {
                let place = Place { grid, first_row: chunk.rows().start, mask, latitudes };
                survey::survey(&place, &rows, tiles, pixels)
            },
        )?;
    bar.finish_and_clear();
    let surveying = started.elapsed();
    // In the order of the rows, whoever computed them: the sums are the same on every machine.
    let total: Tally = tallies.into_iter().sum();

    let mut receiver = Receiver::start()?;
    let copied = receiver.send(&mask)?;

    // Now everybody is alive and has touched what it touches.
    let mut processes = vec![std::process::id(), receiver.id()];
    processes.extend(pool.worker_pids());
    let memory = report::proportional_memory(&processes);
    receiver.finish()?;

    picture::write_png(&options.out, &pixels)?;
    let tiles_with_land = tiles.read()?.iter().filter(|&&fraction| fraction > 0.0).count();
    let arrays = mask.nbytes() + latitudes.nbytes() + tiles.nbytes() + pixels.nbytes();
    print(Report {
        options,
        grid,
        total,
        tiles_with_land,
        workers: processes.len() - 2,
        reading,
        surveying,
        in_place,
        copied,
        mask_bytes: mask.nbytes(),
        array_bytes: arrays,
        processes: processes.len(),
        memory,
    })
}

/// A bar on the terminal; where standard error is none, nothing.
fn progress_bar(what: &str, so_far: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{what:>9} [{{bar:40}}] {{percent:>3}} %  {so_far}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style.progress_chars("=> "))
}

fn print(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| format!("cannot print: {error}").into())
}

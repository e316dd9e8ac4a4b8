//! Shows that the example `coastline` gets a small world right, and says in one line what it cannot do.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]
#![allow(clippy::cast_precision_loss, reason = "a small world has few cells")]

use std::f64::consts::PI;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ndarray::{Array1, Array2, ShapeBuilder};
use ndarray_npy::{WriteNpyExt, write_npy};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const ROWS: usize = 360;
const COLUMNS: usize = 720;

/// The example as `cargo test` builds it; where only this file is tested, it is built here.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let program = deps.parent().unwrap().parent().unwrap().join("examples/coastline");
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--example", "coastline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args((!cfg!(debug_assertions)).then_some("--release"));
        assert!(build.status().unwrap().success());
    }
    program
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).current_dir(folder).output().unwrap()
}

/// The rows of the table, by name: a count, and a size where there is one.
fn table(folder: &Path, arguments: &[&str]) -> Vec<(String, Vec<f64>)> {
    let output = run(folder, arguments);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stderr, b"", "no bar where there is no terminal");
    let numbers = |line: &str| line.replace(',', "").split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let names =
        ["land cells", "coast, edges east-west", "coast, edges north-south", "coast, all edges", "1° tiles with land"];
    let rows = names.map(|name| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name));
        (name.to_owned(), numbers(line.unwrap_or_else(|| panic!("no line {name:?} in\n{stdout}"))))
    });
    for name in ["handing over", "memory"] {
        assert!(stdout.lines().any(|line| line.starts_with(name)), "no line {name:?} in\n{stdout}");
    }
    rows.into()
}

/// Land by the noise of a generator, and two places that are easily missed: the date line and the border between tasks.
fn ocean() -> Array2<bool> {
    let mut state = 1_u64;
    let mut ocean = Array2::from_shape_fn((ROWS, COLUMNS), |(row, _)| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        !((40..80).contains(&row) && state >> 62 == 0)
    });
    for (row, column) in [(100, 0), (101, COLUMNS - 1), (119, 300), (120, 300), (ROWS - 1, 5)] {
        ocean[[row, column]] = false;
    }
    ocean
}

/// What the table has to say, computed cell by cell.
fn expected(ocean: &Array2<bool>) -> [Vec<f64>; 5] {
    const RADIUS: f64 = 6371.0088;
    let step = PI / ROWS as f64;
    let latitude = |row: usize| PI / 2.0 - step * row as f64;
    let (mut land, mut area, mut east, mut north, mut north_km) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let mut tiles = Array2::<bool>::default((180, 360));
    for ((row, column), &cell) in ocean.indexed_iter() {
        if !cell {
            land += 1.0;
            let (top, bottom) = (latitude(row) + step / 2.0, latitude(row) - step / 2.0);
            area += RADIUS * RADIUS * step * (top.sin() - bottom.sin());
            tiles[[row / 2, column / 2]] = true;
        }
        if cell != ocean[[row, (column + 1) % COLUMNS]] {
            east += 1.0;
        }
        if row > 0 && cell != ocean[[row - 1, column]] {
            north += 1.0;
            north_km += RADIUS * step * (latitude(row) + step / 2.0).cos();
        }
    }
    let east_km: f64 = east * RADIUS * step;
    let percent = 100.0 * area / (4.0 * PI * RADIUS * RADIUS);
    let tiles = tiles.iter().filter(|&&tile| tile).count() as f64;
    [
        vec![land, area.round(), (percent * 1e3).round() / 1e3],
        vec![east, east_km.round()],
        vec![north, north_km.round()],
        vec![east + north, (east_km + north_km).round()],
        vec![tiles, 64_800.0],
    ]
}

fn write_npz(path: &Path, members: &[(&str, &[u8])]) {
    let mut archive = ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in members {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn npy(array: &impl WriteNpyExt) -> Vec<u8> {
    let mut bytes = Vec::new();
    array.write_npy(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_small_world_is_measured_right() {
    let folder = tempfile::tempdir().unwrap();
    let ocean = ocean();
    write_npy(folder.path().join("mask.npy"), &ocean).unwrap();
    let latitudes = Array1::from_shape_fn(ROWS, |row| 90.0 - 0.5 * row as f64);
    write_npz(&folder.path().join("mask.npz"), &[("mask.npy", &npy(&ocean)), ("lat.npy", &npy(&latitudes))]);

    let expected = expected(&ocean);
    for arguments in [
        &["--mask", "mask.npy", "--workers", "1", "--out=one.png"][..],
        &["--mask=mask.npy", "--workers=3", "--out", "three.png"],
        &["--mask", "mask.npz"],
    ] {
        for ((name, numbers), expected) in table(folder.path(), arguments).into_iter().zip(&expected) {
            assert_eq!(&numbers, expected, "{name} with {arguments:?}");
        }
    }
    let pictures = ["one.png", "three.png", "coastline.png"].map(|name| fs::read(folder.path().join(name)).unwrap());
    assert!(pictures[0] == pictures[1] && pictures[0] == pictures[2], "the map does not depend on who draws it");
}

#[test]
fn the_map_shows_land_and_ocean() {
    let folder = tempfile::tempdir().unwrap();
    // The northern half of the east is land.
    let ocean = Array2::from_shape_fn((ROWS, COLUMNS), |(row, column)| row >= ROWS / 2 || column < COLUMNS / 2);
    write_npy(folder.path().join("mask.npy"), &ocean).unwrap();
    table(folder.path(), &["--mask", "mask.npy", "--workers", "2"]);

    let file = BufReader::new(File::open(folder.path().join("coastline.png")).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (720, 360));
    let colour = |x: usize, y: usize| &pixels[3 * (y * 720 + x)..][..3];
    let [land, water] = [colour(500, 50), colour(500, 250)];
    assert!(land[1] > land[2], "land is rather green than blue: {land:?}");
    assert!(water[2] > water[1], "water is rather blue than green: {water:?}");
    assert_eq!(colour(200, 50), water);
    assert_eq!(colour(700, 100), land);
}

#[test]
fn what_cannot_be_done_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mask = npy(&ocean());
    fs::write(path("text.npy"), "a text, not an array").unwrap();
    fs::write(path("empty.npy"), "").unwrap();
    fs::write(path("short.npy"), &mask[..1000]).unwrap();
    write_npy(path("shape.npy"), &Array2::<bool>::default((360, 700))).unwrap();
    write_npy(path("axes.npy"), &Array1::<bool>::default(360)).unwrap();
    write_npy(path("floats.npy"), &Array2::<f32>::zeros((180, 360))).unwrap();
    write_npy(path("fortran.npy"), &Array2::<bool>::default((180, 360).f())).unwrap();
    write_npz(&path("other.npz"), &[("map.npy", &mask)]);
    write_npz(&path("short.npz"), &[("mask.npy", &mask[..1000])]);
    write_npz(&path("long.npz"), &[("mask.npy", &[&*mask, b"!"].concat())]);
    write_npz(&path("text.npz"), &[("mask.npy", b"a text, not an array")]);
    write_npz(&path("header.npz"), &[("mask.npy", &[b"\x93NUMPY\x01\0\x10\0" as &[u8], b"{'shape': (1, 2}"].concat())]);
    write_npz(&path("floats.npz"), &[("mask.npy", &npy(&Array2::<f32>::zeros((180, 360))))]);
    write_npz(&path("fortran.npz"), &[("mask.npy", &npy(&Array2::<bool>::default((180, 360).f())))]);
    write_npz(&path("lat.npz"), &[("mask.npy", &mask), ("lat.npy", &npy(&Array1::<f64>::zeros(ROWS)))]);
    let whole = {
        write_npz(&path("whole.npz"), &[("mask.npy", &mask)]);
        fs::read(path("whole.npz")).unwrap()
    };
    fs::write(path("cut.npz"), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x55;
    fs::write(path("flipped.npz"), flipped).unwrap();

    for (arguments, code, part) in [
        (&["--workers", "0"][..], 2, "--workers takes a number from 1 to 1024, not \"0\""),
        (&["--workers=many"], 2, "not \"many\""),
        (&["--workers"], 2, "--workers needs a value"),
        (&["--mask="], 2, "--mask needs a value"),
        (&["--colour"], 2, "unknown argument \"--colour\""),
        (&["mask.npy"], 2, "unknown argument \"mask.npy\""),
        (&["--out", "no/such/map.png"], 2, "there is no folder no/such"),
        (&["--out", "."], 2, "is a folder"),
        (&["--mask", "none.npz"], 1, "none.npz: No such file"),
        (&["--mask", "."], 1, "not a regular file"),
        (&["--mask", "text.npy"], 1, "neither an .npz nor an .npy file"),
        (&["--mask", "empty.npy"], 1, "neither an .npz nor an .npy file"),
        (&["--mask", "short.npy"], 1, "shape [360, 720] of '|b1': short.npy"),
        (&["--mask", "shape.npy"], 1, "the mask has shape [360, 700], expected [180, 360] or a multiple of it"),
        (&["--mask", "axes.npy"], 1, "1 axis"),
        (&["--mask", "floats.npy"], 1, "f4"),
        (&["--mask", "fortran.npy"], 1, "Fortran order"),
        (&["--mask", "other.npz"], 1, "it has no array \"mask\""),
        (&["--mask", "short.npz"], 1, "it has fewer elements than its shape [360, 720]"),
        (&["--mask", "long.npz"], 1, "it has more elements than its shape [360, 720]"),
        (&["--mask", "text.npz"], 1, "array \"mask\": no .npy file"),
        (&["--mask", "header.npz"], 1, "a damaged .npy header: {'shape': (1, 2}"),
        (&["--mask", "floats.npz"], 1, "its elements are \"<f4\", expected |b1 or |u1"),
        (&["--mask", "fortran.npz"], 1, "Fortran order"),
        (&["--mask", "lat.npz"], 1, "its latitudes do not fall"),
        (&["--mask", "cut.npz"], 1, "cut.npz: not an .npz file"),
        (&["--mask", "flipped.npz"], 1, "flipped.npz: array \"mask\": "),
    ] {
        let output = run(folder.path(), &[&["--workers", "1"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.starts_with("coastline: ") && stderr.contains(part), "{arguments:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{arguments:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
    }
    assert!(!path("coastline.png").exists());
}

#[test]
fn it_explains_itself() {
    let output = run(Path::new("."), &["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(
        ["--mask FILE", "--workers N", "--out FILE", "|u1 or |b1"].iter().all(|option| help.contains(option)),
        "{help}"
    );
}

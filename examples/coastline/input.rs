//! `.npz` and `.npy` files become shared arrays.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::Path;

use bytemuck::Pod;
use indicatif::ProgressBar;
use ndarray::{ArrayView1, Dimension, Ix1, Ix2, IxDyn};
use ndshm::SharedArray;
use zip::ZipArchive;
use zip::result::ZipError;

use crate::Result;
use crate::grid::Grid;
use crate::npy;

/// How many bytes are inflated between two steps of the progress bar.
const STEP: usize = 4 << 20;
/// How far a latitude may be from where its neighbour says it is, in degrees.
const TOLERANCE: f64 = 1e-6;

/// The mask and where on the sphere it lies.
pub(crate) struct Input {
    pub(crate) grid: Grid,
    /// Rows from the north to the south, columns from 180° W on; nonzero is ocean. In C order.
    pub(crate) mask: SharedArray<u8, Ix2>,
    /// The middle of each row in degrees.
    pub(crate) latitudes: SharedArray<f64, Ix1>,
}

/// Reads `path`, whichever of both kinds of file it is.
pub(crate) fn load(path: &Path, bar: &ProgressBar) -> Result<Input> {
    read(path, bar).map_err(|error| {
        let (error, path) = (error.to_string(), path.display().to_string());
        // ndshm's own errors name the file.
        if error.contains(&path) { error.into() } else { format!("{path}: {error}").into() }
    })
}

fn read(path: &Path, bar: &ProgressBar) -> Result<Input> {
    // Asked before it is opened, since a pipe that nobody writes to would hang.
    if !path.metadata()?.is_file() {
        return Err("not a regular file".into());
    }
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    file.by_ref().take(6).read_to_end(&mut start)?;
    file.rewind()?;
    match &*start {
        [b'P', b'K', ..] => read_npz(file, bar),
        b"\x93NUMPY" => {
            let mask = SharedArray::load_npy(path)?;
            let grid = check_mask(&mask)?;
            let latitudes = SharedArray::from_shape_fn(grid.rows(), |row| grid.latitude(row))?;
            Ok(Input { grid, mask, latitudes })
        }
        _ => Err("neither an .npz nor an .npy file".into()),
    }
}

fn read_npz(file: File, bar: &ProgressBar) -> Result<Input> {
    let mut archive = ZipArchive::new(file).map_err(|error| format!("not an .npz file: {error}"))?;
    let mask = read_member(&mut archive, "mask", &["|b1", "|u1"], bar)?.ok_or("it has no array \"mask\"")?;
    let grid = check_mask(&mask)?;
    let latitudes = match read_member(&mut archive, "lat", &["<f8"], &ProgressBar::hidden())? {
        Some(latitudes) => latitudes,
        None => SharedArray::from_shape_fn(grid.rows(), |row| grid.latitude(row))?,
    };
    check_latitudes(&latitudes.read()?.view(), grid)?;
    Ok(Input { grid, mask, latitudes })
}

/// The array `name`, inflated into a shared array: there is never a second copy. `None` where the archive has none.
fn read_member<T: Pod, D: Dimension>(
    archive: &mut ZipArchive<File>,
    name: &str,
    types: &[&str],
    bar: &ProgressBar,
) -> Result<Option<SharedArray<T, D>>> {
    let mut stream = match archive.by_name(&format!("{name}.npy")) {
        Ok(stream) => stream,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(format!("array {name:?}: {error}").into()),
    };
    let in_array = |what: String| format!("array {name:?}: {what}");
    let header = npy::read_header(&mut stream).map_err(in_array)?;
    if !types.contains(&&*header.descr) {
        return Err(in_array(format!("its elements are {:?}, expected {}", header.descr, types.join(" or "))).into());
    }
    if header.fortran_order && header.shape.len() > 1 {
        return Err(in_array(FORTRAN.to_owned()).into());
    }
    let shape = D::from_dimension(&IxDyn(&header.shape)).ok_or_else(|| {
        in_array(format!("it has shape {:?}, expected {} axes", header.shape, D::NDIM.unwrap_or_default()))
    })?;
    SharedArray::fill_with(shape, |mut elements| {
        let elements = elements.as_slice_mut().unwrap_or_default();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(elements);
        bar.set_length(bytes.len() as u64);
        for step in bytes.chunks_mut(STEP) {
            stream.read_exact(step).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => {
                    in_array(format!("it has fewer elements than its shape {:?}", header.shape))
                }
                _ => in_array(error.to_string()),
            })?;
            bar.inc(step.len() as u64);
        }
        // At its end the stream's checksum is compared.
        match stream.read(&mut [0]).map_err(|error| in_array(error.to_string()))? {
            0 => Ok(()),
            _ => Err(in_array(format!("it has more elements than its shape {:?}", header.shape)).into()),
        }
    })
    .map(Some)
}

const FORTRAN: &str = "it is in Fortran order, expected C order (np.ascontiguousarray makes it so)";

fn check_mask(mask: &SharedArray<u8, Ix2>) -> Result<Grid> {
    let grid = Grid::new(mask.shape())?;
    if mask.is_fortran() { Err(FORTRAN.into()) } else { Ok(grid) }
}

fn check_latitudes(latitudes: &ArrayView1<'_, f64>, grid: Grid) -> Result<()> {
    if latitudes.len() != grid.rows() {
        return Err(format!("{} latitudes for {} rows", latitudes.len(), grid.rows()).into());
    }
    let step = grid.step();
    let on_sphere = latitudes.iter().all(|latitude| latitude.abs() <= 90.0);
    let even = latitudes.windows(2).into_iter().all(|pair| (pair[0] - pair[1] - step).abs() < TOLERANCE);
    if on_sphere && even {
        return Ok(());
    }
    Err(format!("its latitudes do not fall in steps of {step} degrees between 90 and -90").into())
}

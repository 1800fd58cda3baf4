//! Making a deduplicated disk.

use super::DeviceStorage;
use crate::block::Result;
use crate::idedup;
use crate::image::{NewImage, NewImageOptions};

/// Which deduplicated disk to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDedup {
    /// The image that holds it; its size is that of the disk.
    pub image: NewImageOptions,
    /// Bytes for blocks that differ; if nobody says, as many as the disk has and a little more.
    pub capacity: Option<u64>,
}

/// Makes an image with an empty deduplicated disk in it, which appears under its name when it is complete. Returns the
/// bytes of the image.
///
/// # Errors
/// As [`NewImage::create`] and [`idedup::create`].
pub fn create_dedup(new: &NewDedup) -> Result<u64> {
    let options =
        idedup::CreateOptions { capacity: new.capacity, ..idedup::CreateOptions::new(new.image.size) };
    let size = idedup::size_of_image(&options).map_err(|error| error.on(&new.image.path))?;
    let image = NewImage::create(&NewImageOptions { size, ..new.image.clone() })?;
    idedup::create(&DeviceStorage(image.image()), &options).map_err(|error| error.on(&new.image.path))?;
    image.finish()?;
    Ok(size)
}

//! What kind of image some bytes are, and how large. Nothing is decoded but the head.

use std::io::Cursor;

use ::image::{ImageFormat, ImageReader};

/// Type and size of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) content_type: &'static str,
    pub(super) width: u32,
    pub(super) height: u32,
}

/// `None` if it is not one of the kinds that clients show and this server reads.
pub(super) fn look_at(bytes: &[u8]) -> Option<Shape> {
    let content_type = match ::image::guess_format(bytes).ok()? {
        ImageFormat::Png => "image/png",
        ImageFormat::Jpeg => "image/jpeg",
        ImageFormat::Gif => "image/gif",
        ImageFormat::WebP => "image/webp",
        _ => return None,
    };
    let (width, height) = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_dimensions().ok()?;
    Some(Shape { content_type, width, height })
}

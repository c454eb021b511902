//! Thumbnails: which sizes there are, and how one is made.
//!
//! Pure work on bytes: no files, no tables, no async. Only png, jpeg, gif and webp are decoded, told apart by their content, and
//! never beyond [`ThumbnailLimits`].

use std::io::{BufRead, Cursor, Seek};

use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageFormat, ImageReader, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        webp::WebPDecoder,
    },
    imageops::FilterType,
};

/// What decoding one image may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThumbnailLimits {
    /// Width times height of the source.
    pub pixels_max: u64,
    /// Frames kept of an animation; the rest is left out.
    pub frames_max: usize,
    /// Memory that one decoder may take, in bytes.
    pub memory_bytes_max: u64,
    /// Size of the source file, in bytes.
    pub source_bytes_max: u64,
}

impl Default for ThumbnailLimits {
    fn default() -> Self {
        Self {
            pixels_max: 32_000_000,
            frames_max: 120,
            memory_bytes_max: 256 * 1024 * 1024,
            source_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// How the image is fitted into the asked size (client-server API, thumbnails).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// The whole image, in its own aspect ratio, within the size.
    Scale,
    /// The middle of the image, filling the size.
    Crop,
}

/// One of the thumbnails that this server makes. Requests are mapped onto these, so that clients cannot fill the disk with variants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Variant {
    pub width: u32,
    pub height: u32,
    pub method: Method,
    pub animated: bool,
}

const CROPS: [u32; 4] = [32, 96, 256, 640];
const SCALES: [(u32, u32); 4] = [(320, 240), (640, 480), (800, 600), (1600, 1200)];

impl Variant {
    /// The smallest variant that is not smaller than what is asked; `None` if only the original is large enough.
    pub fn covering(width: u32, height: u32, method: Method, animated: bool) -> Option<Self> {
        let longest = width.max(height);
        // The large crops are square: they serve square requests (avatars). Others get the whole image, to crop themselves.
        if method == Method::Crop
            && let Some(side) = CROPS.into_iter().find(|side| *side >= longest && (*side <= 96 || width == height))
        {
            return Some(Self { width: side, height: side, method, animated });
        }
        SCALES
            .into_iter()
            .find(|(box_width, box_height)| *box_width >= width && *box_height >= height)
            .map(|(width, height)| Self { width, height, method: Method::Scale, animated })
    }

    /// The thumbnail's file name.
    pub fn name(&self) -> String {
        let method = match self.method {
            Method::Scale => "scale",
            Method::Crop => "crop",
        };
        let animated = if self.animated { "-animated" } else { "" };
        format!("{}x{}-{method}{animated}", self.width, self.height)
    }
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Not an image, or none that this server reads, or a broken one.
    #[error("this content cannot be made into a thumbnail: {0}")]
    Unsupported(String),
    #[error("the image is too large to make a thumbnail of")]
    TooLarge,
}

/// The content type of a thumbnail, told by its first bytes (16 are enough).
pub fn content_type(head: &[u8]) -> &'static str {
    match image::guess_format(head) {
        Ok(ImageFormat::Png) => "image/png",
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        Ok(ImageFormat::Gif) => "image/gif",
        Ok(ImageFormat::WebP) => "image/webp",
        _ => "application/octet-stream",
    }
}

/// Makes a thumbnail. Blocking and costly: call it on a thread for that.
///
/// An image that is smaller than the variant keeps its size; it is written anew all the same, so that nothing but pixels passes.
pub fn render<R: BufRead + Seek>(
    mut source: R,
    variant: &Variant,
    limits: &ThumbnailLimits,
) -> Result<Vec<u8>, RenderError> {
    let format = check_format(&mut source)?;
    if variant.animated
        && let Some(bytes) = render_animated(&mut source, format, variant, limits)?
    {
        return Ok(bytes);
    }
    source.rewind().map_err(|error| RenderError::Unsupported(error.to_string()))?;
    let mut reader = ImageReader::with_format(source, format);
    reader.limits(decoder_limits(limits));
    let mut decoder = reader.into_decoder().map_err(refused)?;
    check_pixels(decoder.dimensions(), limits)?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(refused)?;
    // Cameras store the turn beside the pixels; the thumbnail has no metadata and is turned itself.
    image.apply_orientation(orientation);
    encode(&fit(image, variant), format)
}

fn check_format<R: BufRead + Seek>(source: &mut R) -> Result<ImageFormat, RenderError> {
    let head = source.fill_buf().map_err(|error| RenderError::Unsupported(error.to_string()))?;
    match image::guess_format(head) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif | ImageFormat::WebP)) => Ok(format),
        Ok(other) => Err(RenderError::Unsupported(format!("{other:?} images are not read here"))),
        Err(_) => Err(RenderError::Unsupported("it is not an image".to_owned())),
    }
}

fn decoder_limits(limits: &ThumbnailLimits) -> Limits {
    let mut decoder = Limits::default();
    decoder.max_image_width = Some(65_535);
    decoder.max_image_height = Some(65_535);
    decoder.max_alloc = Some(limits.memory_bytes_max);
    decoder
}

fn check_pixels((width, height): (u32, u32), limits: &ThumbnailLimits) -> Result<(), RenderError> {
    if u64::from(width) * u64::from(height) > limits.pixels_max { Err(RenderError::TooLarge) } else { Ok(()) }
}

fn refused(error: image::ImageError) -> RenderError {
    match error {
        image::ImageError::Limits(_) => RenderError::TooLarge,
        other => RenderError::Unsupported(other.to_string()),
    }
}

fn fit(image: DynamicImage, variant: &Variant) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    match variant.method {
        Method::Scale if width <= variant.width && height <= variant.height => image,
        Method::Scale => image.resize(variant.width, variant.height, FilterType::Triangle),
        Method::Crop => {
            // Never larger than the source: a small image is cropped to the variant's aspect ratio in its own pixels.
            let side = variant.width.min(width).min(height).max(1);
            image.resize_to_fill(side, side, FilterType::Triangle)
        }
    }
}

fn encode(image: &DynamicImage, source: ImageFormat) -> Result<Vec<u8>, RenderError> {
    let mut bytes = Vec::new();
    let lossy = source == ImageFormat::Jpeg || (source == ImageFormat::WebP && !image.color().has_alpha());
    let done = if lossy {
        JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&image.to_rgb8())
    } else if image.color().has_alpha() {
        image.to_rgba8().write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
    } else {
        image.to_rgb8().write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
    };
    done.map_err(refused)?;
    Ok(bytes)
}

/// The animation, scaled, as a gif; `None` if the source does not move.
fn render_animated<R: BufRead + Seek>(
    source: &mut R,
    format: ImageFormat,
    variant: &Variant,
    limits: &ThumbnailLimits,
) -> Result<Option<Vec<u8>>, RenderError> {
    source.rewind().map_err(|error| RenderError::Unsupported(error.to_string()))?;
    let frames = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(source).map_err(refused)?;
            check_pixels(decoder.dimensions(), limits)?;
            decoder.set_limits(decoder_limits(limits)).map_err(refused)?;
            scale_frames(decoder.into_frames(), variant, limits)?
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(source).map_err(refused)?;
            check_pixels(decoder.dimensions(), limits)?;
            decoder.set_limits(decoder_limits(limits)).map_err(refused)?;
            if !decoder.has_animation() {
                return Ok(None);
            }
            scale_frames(decoder.into_frames(), variant, limits)?
        }
        _ => return Ok(None),
    };
    if frames.len() < 2 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 20);
        encoder.set_repeat(Repeat::Infinite).map_err(refused)?;
        encoder.encode_frames(frames).map_err(refused)?;
    }
    Ok(Some(bytes))
}

fn scale_frames(
    frames: image::Frames<'_>,
    variant: &Variant,
    limits: &ThumbnailLimits,
) -> Result<Vec<Frame>, RenderError> {
    let mut scaled = Vec::new();
    // Every frame is decoded in full, so the pixels of all of them together are what costs time.
    let mut pixels_left = limits.pixels_max.saturating_mul(4);
    for frame in frames.take(limits.frames_max) {
        let frame = frame.map_err(refused)?;
        let pixels = u64::from(frame.buffer().width()) * u64::from(frame.buffer().height());
        let Some(left) = pixels_left.checked_sub(pixels) else { break };
        pixels_left = left;
        let delay = frame.delay();
        let image = fit(DynamicImage::ImageRgba8(frame.into_buffer()), variant);
        scaled.push(Frame::from_parts(image.into_rgba8(), 0, 0, delay));
    }
    Ok(scaled)
}

#[cfg(test)]
mod tests {
    use image::{Delay, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        RgbImage::from_pixel(width, height, Rgb([10, 200, 30]))
            .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
            .unwrap();
        bytes
    }

    fn moving_gif(frames: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        {
            let mut encoder = GifEncoder::new(&mut bytes);
            for number in 0..frames {
                let buffer = RgbaImage::from_pixel(400, 400, Rgba([number * 40, 0, 0, 255]));
                encoder.encode_frame(Frame::from_parts(buffer, 0, 0, Delay::from_numer_denom_ms(100, 1))).unwrap();
            }
        }
        bytes
    }

    fn size(bytes: &[u8]) -> (u32, u32) {
        let image = image::load_from_memory(bytes).unwrap();
        (image.width(), image.height())
    }

    fn variant(width: u32, height: u32, method: Method) -> Variant {
        Variant { width, height, method, animated: false }
    }

    #[test]
    fn requests_are_mapped_to_the_next_larger_variant() {
        let covering =
            |width, height, method| Variant::covering(width, height, method, false).map(|variant| variant.name());
        assert_eq!(covering(1, 1, Method::Crop).as_deref(), Some("32x32-crop"));
        assert_eq!(covering(33, 20, Method::Crop).as_deref(), Some("96x96-crop"));
        assert_eq!(covering(200, 200, Method::Crop).as_deref(), Some("256x256-crop"));
        assert_eq!(covering(200, 100, Method::Crop).as_deref(), Some("320x240-scale"));
        assert_eq!(covering(32, 32, Method::Scale).as_deref(), Some("320x240-scale"));
        assert_eq!(covering(320, 241, Method::Scale).as_deref(), Some("640x480-scale"));
        assert_eq!(covering(800, 600, Method::Scale).as_deref(), Some("800x600-scale"));
        assert_eq!(covering(5000, 10, Method::Scale), None);
    }

    #[test]
    fn scaling_keeps_the_aspect_ratio() {
        let bytes = render(Cursor::new(png(1000, 500)), &variant(320, 240, Method::Scale), &ThumbnailLimits::default())
            .unwrap();
        assert_eq!(size(&bytes), (320, 160));
        assert_eq!(content_type(&bytes), "image/png");
    }

    #[test]
    fn cropping_fills_the_square() {
        let bytes =
            render(Cursor::new(png(1000, 500)), &variant(96, 96, Method::Crop), &ThumbnailLimits::default()).unwrap();
        assert_eq!(size(&bytes), (96, 96));
    }

    #[test]
    fn small_images_are_never_enlarged() {
        let limits = ThumbnailLimits::default();
        assert_eq!(
            size(&render(Cursor::new(png(20, 10)), &variant(320, 240, Method::Scale), &limits).unwrap()),
            (20, 10)
        );
        assert_eq!(size(&render(Cursor::new(png(20, 10)), &variant(96, 96, Method::Crop), &limits).unwrap()), (10, 10));
    }

    #[test]
    fn images_beyond_the_pixel_limit_are_refused_before_decoding() {
        let limits = ThumbnailLimits { pixels_max: 1000, ..ThumbnailLimits::default() };
        let error = render(Cursor::new(png(100, 100)), &variant(32, 32, Method::Crop), &limits).unwrap_err();
        assert!(matches!(error, RenderError::TooLarge));
    }

    #[test]
    fn content_decides_what_is_decoded_and_svg_is_not() {
        let limits = ThumbnailLimits::default();
        let svg = b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec();
        let error = render(Cursor::new(svg), &variant(32, 32, Method::Crop), &limits).unwrap_err();
        assert!(matches!(error, RenderError::Unsupported(_)));
        let mut broken = png(50, 50);
        broken.truncate(60);
        assert!(render(Cursor::new(broken), &variant(32, 32, Method::Crop), &limits).is_err());
    }

    #[test]
    fn animations_move_only_when_asked_to() {
        let limits = ThumbnailLimits::default();
        let still = render(Cursor::new(moving_gif(3)), &variant(96, 96, Method::Crop), &limits).unwrap();
        assert_eq!(content_type(&still), "image/png");
        let animated = Variant { animated: true, ..variant(96, 96, Method::Crop) };
        let moving = render(Cursor::new(moving_gif(3)), &animated, &limits).unwrap();
        assert_eq!(content_type(&moving), "image/gif");
        let frames = GifDecoder::new(Cursor::new(moving)).unwrap().into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[0].buffer().dimensions(), (96, 96));
    }

    #[test]
    fn long_animations_are_cut() {
        let limits = ThumbnailLimits { frames_max: 2, ..ThumbnailLimits::default() };
        let animated = Variant { animated: true, ..variant(32, 32, Method::Crop) };
        let moving = render(Cursor::new(moving_gif(5)), &animated, &limits).unwrap();
        let frames = GifDecoder::new(Cursor::new(moving)).unwrap().into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 2);
    }
}

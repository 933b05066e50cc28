//! Reading pictures and making them smaller. All functions block and take much time; the caller
//! bounds how many run, and `inspect` how much memory one takes.

use std::{
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageError, ImageFormat, ImageReader,
    Limits, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
    imageops::{self, FilterType},
    metadata::{LoopCount, Orientation},
};

use super::{
    DECODING_BYTES_PER_PIXEL,
    shape::{Cut, Shape, Wish},
};

/// What is asked for is mostly shown small, where more is not seen.
const JPEG_QUALITY: u8 = 80;
/// What is a PNG and not a photograph, which JPEG would smear, stays one if it has no more bytes than this …
const DRAWING_BYTES_MAX: usize = 64 << 10;
/// … and than one in so many of those of its pixels: photographs have more.
const DRAWING_SHARE: usize = 4;
/// Animations that are longer, or have more pixels in all frames than this many of the largest
/// allowed pictures, become pictures that stand still.
const FRAMES_MAX: usize = 500;
const ANIMATION_PICTURES_MAX: u64 = 4;
/// Of the GIF encoder, from 1 (best colours) to 30 (fastest).
const GIF_SPEED: i32 = 20;
/// What a decoder may allocate beside the pixels.
const DECODER_BYTES_MAX: u64 = 16 << 20;

/// What a file says about its picture.
#[derive(Clone, Copy, Debug)]
pub struct Inspected {
    format: ImageFormat,
    /// As it is stored, before it is turned.
    stored_size: (u32, u32),
    orientation: Orientation,
    pixels_max: u64,
}

/// What becomes of a picture.
#[derive(Debug)]
pub enum Rendered {
    /// It stays as it is.
    Original,
    /// A file: JPEG, PNG when something is transparent or drawn, GIF when it moves.
    Picture(Vec<u8>),
}

/// Why there is no smaller picture.
#[derive(Debug)]
pub enum RenderError {
    NotAPicture,
    TooLarge,
    Disk(io::Error),
}

type Reader = BufReader<File>;

impl Inspected {
    pub fn pixels(&self) -> u64 {
        u64::from(self.stored_size.0) * u64::from(self.stored_size.1)
    }

    pub fn content_type(&self) -> &'static str {
        self.format.to_mime_type()
    }

    /// As it is shown.
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.stored_size;
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let pixels = self.pixels_max.saturating_mul(DECODING_BYTES_PER_PIXEL);
        limits.max_alloc = Some(pixels.saturating_add(DECODER_BYTES_MAX));
        limits
    }
}

/// Reads the head of a file. A picture of more than `pixels_max` pixels is not decoded.
pub fn inspect(path: &Path, pixels_max: u64) -> Result<Inspected, RenderError> {
    let reader = ImageReader::new(open(path)?).with_guessed_format()?;
    let format = reader.format().filter(is_known).ok_or(RenderError::NotAPicture)?;
    let mut inspected = Inspected {
        format,
        stored_size: (0, 0),
        orientation: Orientation::NoTransforms,
        pixels_max,
    };
    let mut reader = reader;
    reader.limits(inspected.limits());
    let mut decoder = reader.into_decoder()?;
    inspected.stored_size = decoder.dimensions();
    inspected.orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    match inspected.pixels() {
        0 => Err(RenderError::NotAPicture),
        pixels if pixels > pixels_max => Err(RenderError::TooLarge),
        _ => Ok(inspected),
    }
}

/// Makes the thumbnail.
pub fn render(
    path: &Path,
    inspected: &Inspected,
    wish: Wish,
    shape: Shape,
) -> Result<Rendered, RenderError> {
    let cut = shape.fit(wish, inspected.size());
    let moves = is_animated(path, inspected)?;
    match cut {
        None if wish.is_animated || !moves => return Ok(Rendered::Original),
        Some(cut) if wish.is_animated && moves => {
            if let Some(animation) = render_animation(path, inspected, cut)? {
                return Ok(Rendered::Picture(animation));
            }
        }
        _ => {}
    }
    let (width, height) = inspected.size();
    let cut = cut.unwrap_or(Cut { width, height, aspect: None });
    render_still(path, inspected, cut).map(Rendered::Picture)
}

/// Whether it has more than one frame.
pub fn is_animated(path: &Path, inspected: &Inspected) -> Result<bool, RenderError> {
    Ok(match inspected.format {
        ImageFormat::Png => PngDecoder::with_limits(open(path)?, inspected.limits())?.is_apng()?,
        ImageFormat::WebP => WebPDecoder::new(open(path)?)?.has_animation(),
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(open(path)?)?;
            decoder.set_limits(inspected.limits())?;
            decoder.into_frames().take(2).filter(Result::is_ok).count() == 2
        }
        _ => false,
    })
}

/// The type of a file that this module has made, or of another picture; from its first bytes.
pub fn content_type_of(bytes: &[u8]) -> Option<&'static str> {
    let format = image::guess_format(bytes).ok().filter(is_known)?;
    Some(format.to_mime_type())
}

/// The formats that the specification allows for thumbnails.
fn is_known(format: &ImageFormat) -> bool {
    use ImageFormat::{Gif, Jpeg, Png, WebP};
    matches!(format, Gif | Jpeg | Png | WebP)
}

fn open(path: &Path) -> Result<Reader, RenderError> {
    Ok(BufReader::new(File::open(path)?))
}

fn render_still(path: &Path, inspected: &Inspected, cut: Cut) -> Result<Vec<u8>, RenderError> {
    let mut reader = ImageReader::with_format(open(path)?, inspected.format);
    reader.limits(inspected.limits());
    let picture = DynamicImage::from_decoder(reader.into_decoder()?)?;
    let mut picture = shrink_roughly(picture, inspected.size(), cut);
    picture.apply_orientation(inspected.orientation);
    let (left, top, width, height) = cut.region((picture.width(), picture.height()));
    if (width, height) != (picture.width(), picture.height()) {
        picture = picture.crop_imm(left, top, width, height);
    }
    if (width, height) != (cut.width, cut.height) {
        picture = picture.resize_exact(cut.width, cut.height, FilterType::CatmullRom);
    }
    encode_still(&picture, inspected.format)
}

/// To twice the size of the result, by averaging: the good filter would take long for large
/// pictures and not be seen.
fn shrink_roughly(picture: DynamicImage, (width, height): (u32, u32), cut: Cut) -> DynamicImage {
    let (_, _, part_width, part_height) = cut.region((width, height));
    let factor = f64::max(
        f64::from(cut.width) / f64::from(part_width),
        f64::from(cut.height) / f64::from(part_height),
    ) * 2.0;
    if factor >= 1.0 {
        return picture;
    }
    let shrink = |side: u32| (f64::from(side) * factor).ceil() as u32;
    picture.thumbnail_exact(shrink(picture.width()), shrink(picture.height()))
}

fn encode_still(picture: &DynamicImage, source: ImageFormat) -> Result<Vec<u8>, RenderError> {
    let mut file = Vec::new();
    let is_opaque = !picture.color().has_alpha()
        || picture.to_rgba8().pixels().all(|pixel| pixel.0[3] == u8::MAX);
    if !is_opaque {
        picture.to_rgba8().write_to(&mut io::Cursor::new(&mut file), ImageFormat::Png)?;
        return Ok(file);
    }
    let picture = picture.to_rgb8();
    if source == ImageFormat::Png {
        picture.write_to(&mut io::Cursor::new(&mut file), ImageFormat::Png)?;
        if file.len() <= DRAWING_BYTES_MAX.min(picture.as_raw().len() / DRAWING_SHARE) {
            return Ok(file);
        }
        file.clear();
    }
    let encoder = JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY);
    picture.write_with_encoder(encoder)?;
    Ok(file)
}

/// `None` when it is too long. It is not turned: formats that move know no orientation.
fn render_animation(
    path: &Path,
    inspected: &Inspected,
    cut: Cut,
) -> Result<Option<Vec<u8>>, RenderError> {
    let reader = open(path)?;
    let limits = inspected.limits();
    match inspected.format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(reader)?;
            decoder.set_limits(limits)?;
            encode_animation(decoder, inspected, cut)
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(reader)?;
            decoder.set_limits(limits)?;
            encode_animation(decoder, inspected, cut)
        }
        ImageFormat::Png => {
            encode_animation(PngDecoder::with_limits(reader, limits)?.apng()?, inspected, cut)
        }
        _ => Ok(None),
    }
}

fn encode_animation<'a>(
    decoder: impl AnimationDecoder<'a>,
    inspected: &Inspected,
    cut: Cut,
) -> Result<Option<Vec<u8>>, RenderError> {
    let pixels_max = inspected.pixels_max.saturating_mul(ANIMATION_PICTURES_MAX);
    let frames_max = (pixels_max / inspected.pixels()).min(FRAMES_MAX as u64) as usize;
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut file, GIF_SPEED);
    encoder.set_repeat(match decoder.loop_count() {
        LoopCount::Infinite => Repeat::Infinite,
        LoopCount::Finite(times) => Repeat::Finite(u16::try_from(times.get()).unwrap_or(u16::MAX)),
    })?;
    for (number, frame) in decoder.into_frames().enumerate() {
        if number >= frames_max {
            return Ok(None);
        }
        let frame = frame?;
        let delay = frame.delay();
        let picture = shrink_frame(frame.into_buffer(), cut);
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, delay))?;
    }
    drop(encoder);
    Ok(Some(file))
}

fn shrink_frame(frame: RgbaImage, cut: Cut) -> RgbaImage {
    let (left, top, width, height) = cut.region(frame.dimensions());
    let part = imageops::crop_imm(&frame, left, top, width, height);
    imageops::thumbnail(&*part, cut.width, cut.height)
}

impl From<io::Error> for RenderError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<ImageError> for RenderError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            // A picture that breaks off is a damaged picture, not a damaged disk.
            ImageError::IoError(error) if error.raw_os_error().is_some() => Self::Disk(error),
            _ => Self::NotAPicture,
        }
    }
}

//! Pictures in all formats, for the tests of thumbnails: still ones, ones that move, one that is
//! turned, and bombs. Not a test itself.

use std::io::Cursor;

use image::{Delay, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage, codecs::gif::GifEncoder};

/// A picture whose left half is red and whose right half is blue.
pub fn halves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| match x < width / 2 {
        true => Rgb([255, 0, 0]),
        false => Rgb([0, 0, 255]),
    })
}

/// A picture with a transparent top.
pub fn transparent(width: u32, height: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |_, y| {
        Rgba([0, 200, 0, if y < height / 2 { 0 } else { 255 }])
    })
}

pub fn encode(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

pub fn encode_transparent(picture: &RgbaImage) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// Frames of one colour each.
fn frames(width: u32, height: u32) -> Vec<RgbaImage> {
    let colours = [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]];
    colours.map(|colour| RgbaImage::from_pixel(width, height, Rgba(colour))).to_vec()
}

/// Three frames.
pub fn moving_gif(width: u32, height: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new(&mut file);
    for frame in frames(width, height) {
        let delay = Delay::from_numer_denom_ms(100, 1);
        encoder.encode_frame(Frame::from_parts(frame, 0, 0, delay)).unwrap();
    }
    drop(encoder);
    file
}

/// Three frames, as APNG (PNG specification, third edition, section 4.9).
pub fn moving_png(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut sequence = 0_u32;
    for (number, frame) in frames(width, height).iter().enumerate() {
        let still = encode_transparent(frame);
        if number == 0 {
            push_png_chunk(&mut file, b"IHDR", &png_chunks(&still, b"IHDR"));
            push_png_chunk(&mut file, b"acTL", &[0, 0, 0, 3, 0, 0, 0, 0]);
        }
        let mut control = sequence.to_be_bytes().to_vec();
        for number in [width, height, 0, 0] {
            control.extend(number.to_be_bytes());
        }
        control.extend([0, 1, 0, 10, 0, 0]);
        push_png_chunk(&mut file, b"fcTL", &control);
        sequence += 1;
        let pixels = png_chunks(&still, b"IDAT");
        if number == 0 {
            push_png_chunk(&mut file, b"IDAT", &pixels);
        } else {
            let pixels = [&sequence.to_be_bytes(), pixels.as_slice()].concat();
            push_png_chunk(&mut file, b"fdAT", &pixels);
            sequence += 1;
        }
    }
    push_png_chunk(&mut file, b"IEND", &[]);
    file
}

/// Three frames, as WebP (RFC 9649, section 2.7).
pub fn moving_webp(width: u32, height: u32) -> Vec<u8> {
    let u24 = |number: u32| number.to_le_bytes()[..3].to_vec();
    let mut chunks = Vec::new();
    let size = [u24(width - 1), u24(height - 1)].concat();
    push_riff_chunk(&mut chunks, b"VP8X", &[&[0b10, 0, 0, 0], size.as_slice()].concat());
    push_riff_chunk(&mut chunks, b"ANIM", &[0; 6]);
    for frame in frames(width, height) {
        let mut still = Cursor::new(Vec::new());
        frame.write_to(&mut still, ImageFormat::WebP).unwrap();
        // Behind "RIFF", a size and "WEBP" there is the one chunk of a still picture.
        let still = still.into_inner().split_off(12);
        let head = [u24(0), u24(0), size.clone(), u24(100), vec![0]].concat();
        push_riff_chunk(&mut chunks, b"ANMF", &[head, still].concat());
    }
    let mut file = b"RIFF".to_vec();
    file.extend((chunks.len() as u32 + 4).to_le_bytes());
    file.extend(b"WEBP");
    file.extend(chunks);
    file
}

/// A JPEG that is to be turned by 90 degrees when it is shown (Exif orientation 6).
pub fn turned_jpeg(width: u32, height: u32) -> Vec<u8> {
    let mut file = encode(&halves(width, height), ImageFormat::Jpeg);
    let exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let segment = [&[0xff, 0xe1], length.as_slice(), exif].concat();
    file.splice(2..2, segment);
    file
}

/// A PNG of one pixel that says it is large.
pub fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let still = encode(&halves(1, 1), ImageFormat::Png);
    let mut head = png_chunks(&still, b"IHDR");
    head[..4].copy_from_slice(&width.to_be_bytes());
    head[4..8].copy_from_slice(&height.to_be_bytes());
    let mut file = still[..8].to_vec();
    push_png_chunk(&mut file, b"IHDR", &head);
    push_png_chunk(&mut file, b"IDAT", &png_chunks(&still, b"IDAT"));
    push_png_chunk(&mut file, b"IEND", &[]);
    file
}

/// A GIF of one pixel that says it is as large as a GIF can be.
pub fn gif_bomb() -> Vec<u8> {
    let mut file = encode_gif(1, 1);
    file[6..10].fill(0xff);
    file
}

fn encode_gif(width: u32, height: u32) -> Vec<u8> {
    encode(&halves(width, height), ImageFormat::Gif)
}

/// The contents of all chunks of a kind.
fn png_chunks(file: &[u8], kind: &[u8; 4]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = &file[8..];
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        if &rest[4..8] == kind {
            found.extend(&rest[8..8 + length]);
        }
        rest = &rest[12 + length..];
    }
    found
}

fn push_png_chunk(file: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    file.extend((content.len() as u32).to_be_bytes());
    let checked = [kind, content].concat();
    file.extend(&checked);
    file.extend(crc32(&checked).to_be_bytes());
}

fn push_riff_chunk(file: &mut Vec<u8>, kind: &[u8; 4], content: &[u8]) {
    file.extend(kind);
    file.extend((content.len() as u32).to_le_bytes());
    file.extend(content);
    if content.len() % 2 == 1 {
        file.push(0);
    }
}

/// PNG specification, annex D.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

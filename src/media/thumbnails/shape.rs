//! Which size a thumbnail has. Pure arithmetic; no pictures here.
//!
//! What clients ask for is rounded up to few sizes, those of the specification among them, so that a picture
//! has few thumbnails. A thumbnail covers what was asked for ("never smaller than requested")
//! and is never larger than the picture.

/// Sizes of `scale`. The first three are those of the specification (Client-Server API, "Thumbnails").
const SCALE_SIZES: [(u32, u32); 4] = [(320, 240), (640, 480), (800, 600), (1600, 1200)];
/// The longer side of `crop`. The specification has 32 and 96, as squares.
const CROP_SIDES: [u32; 11] = [32, 64, 96, 128, 192, 256, 384, 512, 800, 1200, 1600];

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// In pixels, at least 1.
    pub width: u32,
    pub height: u32,
    pub method: Method,
    pub is_animated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// The aspect ratio of the wish.
    Crop,
    /// The aspect ratio of the picture.
    Scale,
}

/// A wish, rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    pub method: Method,
}

/// How a picture becomes a thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The size of the result.
    pub width: u32,
    pub height: u32,
    /// The aspect ratio of the part in the middle that is taken; `None` for all of it.
    pub aspect: Option<(u32, u32)>,
}

impl Shape {
    pub fn of(wish: Wish) -> Self {
        let Wish { width, height, method, .. } = wish;
        let (width, height) = match method {
            Method::Scale => {
                let covers = |&&(w, h): &&(u32, u32)| w >= width && h >= height;
                *SCALE_SIZES.iter().find(covers).unwrap_or(&(u32::MAX, u32::MAX))
            }
            Method::Crop => {
                let longer = width.max(height);
                match CROP_SIDES.iter().find(|&&side| side >= longer) {
                    Some(&side) => (grow(width, side, longer), grow(height, side, longer)),
                    None => (u32::MAX, u32::MAX),
                }
            }
        };
        Self { width, height, method }
    }

    /// How a picture of this size gets the shape; `None` when it is to stay as it is.
    pub fn fit(self, wish: Wish, (width, height): (u32, u32)) -> Option<Cut> {
        if width < wish.width || height < wish.height {
            return None;
        }
        let cut = match self.method {
            Method::Scale => self.cover(width, height)?,
            Method::Crop if self.width == u32::MAX => return None,
            Method::Crop => self.crop(wish, width, height),
        };
        ((cut.width, cut.height) != (width, height)).then_some(cut)
    }

    fn cover(self, width: u32, height: u32) -> Option<Cut> {
        if self.width >= width || self.height >= height {
            return None;
        }
        // The side that must shrink less decides.
        let is_by_width =
            u64::from(self.width) * u64::from(height) >= u64::from(self.height) * u64::from(width);
        let (width, height) = match is_by_width {
            true => (self.width, grow(height, self.width, width)),
            false => (grow(width, self.height, height), self.height),
        };
        Some(Cut { width, height, aspect: None })
    }

    fn crop(self, wish: Wish, width: u32, height: u32) -> Cut {
        let (mut cut_width, mut cut_height) = (self.width, self.height);
        if cut_width > width {
            (cut_width, cut_height) = (width, grow(cut_height, width, cut_width));
        }
        if cut_height > height {
            (cut_width, cut_height) = (grow(cut_width, height, cut_height), height);
        }
        // Rounding must not make it smaller than the wish, which fits into the picture.
        (cut_width, cut_height) = (cut_width.max(wish.width), cut_height.max(wish.height));
        Cut { width: cut_width, height: cut_height, aspect: Some((cut_width, cut_height)) }
    }
}

impl Cut {
    /// The part of a picture that is taken: left, top, width and height.
    pub fn region(self, (width, height): (u32, u32)) -> (u32, u32, u32, u32) {
        let Some((across, down)) = self.aspect else { return (0, 0, width, height) };
        let is_too_wide =
            u64::from(width) * u64::from(down) > u64::from(height) * u64::from(across);
        let (part_width, part_height) = match is_too_wide {
            true => (grow(height, across, down).min(width), height),
            false => (width, grow(width, down, across).min(height)),
        };
        ((width - part_width) / 2, (height - part_height) / 2, part_width, part_height)
    }
}

/// `side × numerator / denominator`, rounded up.
fn grow(side: u32, numerator: u32, denominator: u32) -> u32 {
    let product = u64::from(side) * u64::from(numerator);
    product.div_ceil(u64::from(denominator)).try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, wish: (u32, u32), picture: (u32, u32), expect: Option<(u32, u32)>) {
        let wish = Wish { width: wish.0, height: wish.1, method, is_animated: false };
        let cut = Shape::of(wish).fit(wish, picture);
        assert_eq!(cut.map(|cut| (cut.width, cut.height)), expect, "{wish:?} of {picture:?}");
    }

    #[test]
    fn scaled_pictures_cover_the_wish_and_keep_their_aspect() {
        check(Method::Scale, (320, 240), (1600, 1200), Some((320, 240)));
        check(Method::Scale, (300, 200), (1600, 1200), Some((320, 240)));
        check(Method::Scale, (320, 240), (2000, 1000), Some((480, 240)));
        check(Method::Scale, (320, 240), (1000, 2000), Some((320, 640)));
        check(Method::Scale, (641, 1), (4000, 3000), Some((800, 600)));
    }

    #[test]
    fn cropped_pictures_have_the_aspect_of_the_wish() {
        check(Method::Crop, (96, 96), (1600, 1200), Some((96, 96)));
        check(Method::Crop, (40, 40), (1600, 1200), Some((64, 64)));
        check(Method::Crop, (200, 100), (1600, 1200), Some((256, 128)));
        check(Method::Crop, (90, 90), (94, 1000), Some((94, 94)));
    }

    #[test]
    fn nothing_is_made_larger() {
        check(Method::Scale, (320, 240), (320, 240), None);
        check(Method::Scale, (320, 240), (300, 2000), None);
        check(Method::Scale, (650, 480), (700, 500), None);
        check(Method::Scale, (5000, 5000), (6000, 6000), None);
        check(Method::Crop, (96, 96), (96, 96), None);
        check(Method::Crop, (96, 96), (95, 1000), None);
        check(Method::Crop, (5000, 5000), (6000, 6000), None);
    }

    #[test]
    fn every_thumbnail_covers_its_wish_and_fits_into_its_picture() {
        let sides = [1, 2, 31, 32, 33, 95, 96, 97, 240, 320, 641, 800, 1599, 1601, 65_535];
        let all = |body: &dyn Fn(u32, u32)| {
            sides.iter().for_each(|&one| sides.iter().for_each(|&two| body(one, two)));
        };
        for method in [Method::Crop, Method::Scale] {
            all(&|width, height| {
                let wish = Wish { width, height, method, is_animated: false };
                all(&|wide, high| {
                    let Some(cut) = Shape::of(wish).fit(wish, (wide, high)) else { return };
                    assert!(cut.width >= width && cut.height >= height, "{wish:?} {cut:?}");
                    assert!(cut.width <= wide && cut.height <= high, "{wish:?} {cut:?}");
                    let (left, top, part_width, part_height) = cut.region((wide, high));
                    assert!(left + part_width <= wide && top + part_height <= high);
                    assert!(part_width >= cut.width && part_height >= cut.height);
                });
            });
        }
    }
}

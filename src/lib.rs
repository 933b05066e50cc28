pub mod clock {}

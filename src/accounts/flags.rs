//! What an account may do, as bits of one number in the database.

/// The flags of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountFlags(pub i64);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident, $test:ident, $bit:literal;)*) => {
        impl AccountFlags {
            $(
                $(#[$doc])*
                pub const $name: Self = Self($bit);

                pub fn $test(self) -> bool {
                    self.contains(Self::$name)
                }
            )*
        }
    };
}

flags! {
    /// Administers this server.
    ADMIN, is_admin, 1;
    /// Registered without a name or password (Client-Server API, "Guest Access").
    GUEST, is_guest, 2;
    /// Exists no more; the name stays taken.
    DEACTIVATED, is_deactivated, 4;
    /// Deactivated with the wish that messages disappear (`erase`).
    ERASED, is_erased, 8;
    /// Cannot be used at present (Client-Server API, "Account locking").
    LOCKED, is_locked, 16;
    /// Can only read and leave (Client-Server API, "Account suspension").
    SUSPENDED, is_suspended, 32;
    /// Speaks without being heard, and is not told.
    SHADOW_BANNED, is_shadow_banned, 64;
}

impl AccountFlags {
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn with(self, other: Self, on: bool) -> Self {
        Self(if on { self.0 | other.0 } else { self.0 & !other.0 })
    }
}

//! Identifiers. 128-bit ones are random and print as 32 hex digits; indexes are small and dense.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A string that is not an identifier: not exactly 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("parse identifier: expected 32 hex digits")]
pub struct ParseIdError;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl $name {
            /// The identifier that no random draw may produce; marks absence.
            pub const NIL: Self = Self(0);

            /// Big-endian bytes, so that byte order is numeric order.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The inverse of [`Self::to_bytes`].
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }

            /// Draws a fresh identifier, never [`Self::NIL`].
            pub fn draw(random: &dyn crate::seam::Random) -> Self {
                loop {
                    let id = Self(random.next_u128());
                    if id != Self::NIL {
                        return id;
                    }
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:032x})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let hex_digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                if !hex_digits {
                    return Err(ParseIdError);
                }
                u128::from_str_radix(text, 16).map(Self).map_err(|_| ParseIdError)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id128!(
    /// A cluster, drawn when it is formatted.
    ClusterId
);
id128!(
    /// A drive's identity. A wiped or replaced drive gets a new one.
    DriveId
);
id128!(
    /// One incarnation of a bucket: a bucket deleted and created again has another id.
    BucketId
);
id128!(
    /// One operation of one client: a body, a part, a copy, a delete. Bodies are named by the
    /// operation that wrote them; "same content" always compares these, never ETags.
    OperationId
);
id128!(
    /// One start of one process that writes; the last part of a ballot.
    WriterId
);

macro_rules! index {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// The index as a `usize`, for slices.
            #[must_use]
            pub const fn get(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(
    /// A pool, counted from 0 in the order of the layout document.
    PoolIndex,
    u16
);
index!(
    /// A set, counted from 0 over all pools of the layout document.
    SetIndex,
    u16
);
index!(
    /// A node, counted from 0 in the order of the layout document.
    NodeIndex,
    u16
);
index!(
    /// A shard's place in its stripe: data shards first, then parity; below 16.
    ShardIndex,
    u8
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_everything_else() {
        let id = DriveId(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(DriveId::from_bytes(id.to_bytes()), id);
        for bad in
            ["", "12", "+2345678901234567890123456789012", "zz345678901234567890123456789012"]
        {
            assert_eq!(bad.parse::<DriveId>(), Err(ParseIdError), "{bad}");
        }
    }
}

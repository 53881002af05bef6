//! Whoever takes a part of what there is only so much of. Strangers may be anybody, so known
//! callers always find a part of it.

use std::net::{IpAddr, Ipv6Addr};

/// Whom something is counted against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum QuotaKey {
    /// Somebody who said a name.
    Principal(String),
    /// Somebody who calls where nobody has to.
    Address(Option<IpAddr>),
    /// Somebody who calls without a name where others have one.
    Stranger(Option<IpAddr>),
}

impl QuotaKey {
    /// Whether others come first.
    pub(crate) fn is_stranger(&self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

/// What an address is counted as: whoever has one of IPv6 has its network of 64 bits.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

/// How many of something there may be.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Of one client.
    pub each: usize,
    /// Of all together.
    pub all: usize,
}

impl Quota {
    /// Of all strangers together: four fifths.
    pub fn of_strangers(&self) -> usize {
        (self.all - self.all.div_ceil(5)).max(1)
    }
}

//! What a scratch database is called: `schemad_scratch_<seconds since 1970>_<maker>_<number>`, so
//! that it can be told from any other, when its maker began, and whether that still lives.

use std::{fmt, str::FromStr, time::SystemTime};

/// Every scratch database's name begins so.
pub(super) const PREFIX: &str = "schemad_scratch_";

/// A scratch database's name. It needs no quotes and fits into PostgreSQL's 63 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScratchName {
    /// When its maker began, in seconds since 1970 by the maker's clock.
    seconds: u64,
    /// The maker's number.
    maker: u32,
    /// Which of the maker's.
    number: u32,
}

/// A name of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a scratch database")]
pub struct NotScratchName;

impl ScratchName {
    /// The first name of a maker that begins now.
    pub(super) fn first_of(maker: u32) -> Self {
        Self {
            seconds: now(),
            maker,
            number: 1,
        }
    }

    /// The maker's next name.
    pub(super) fn next(self) -> Self {
        Self {
            number: self.number.wrapping_add(1),
            ..self
        }
    }

    /// Whose it is.
    pub(super) fn maker(&self) -> u32 {
        self.maker
    }

    /// Seconds since its maker began, by this machine's clock; 0 for one that began in the future.
    pub fn age(&self) -> u64 {
        now().saturating_sub(self.seconds)
    }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs())
}

impl fmt::Display for ScratchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{PREFIX}{}_{:08x}_{}",
            self.seconds, self.maker, self.number
        )
    }
}

impl FromStr for ScratchName {
    type Err = NotScratchName;

    fn from_str(text: &str) -> Result<Self, NotScratchName> {
        let mut parts = text.strip_prefix(PREFIX).ok_or(NotScratchName)?.split('_');
        let mut part = || parts.next().ok_or(NotScratchName);
        let seconds = part()?.parse().map_err(|_| NotScratchName)?;
        let maker = u32::from_str_radix(part()?, 16).map_err(|_| NotScratchName)?;
        let number = part()?.parse().map_err(|_| NotScratchName)?;
        let name = Self {
            seconds,
            maker,
            number,
        };
        // Only what is written back alike was written by us.
        if name.to_string() == text {
            Ok(name)
        } else {
            Err(NotScratchName)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_fits_and_needs_no_quotes() {
        let longest = ScratchName {
            seconds: u64::MAX,
            maker: u32::MAX,
            number: u32::MAX,
        };
        for name in [
            longest,
            ScratchName::first_of(7),
            ScratchName::first_of(7).next(),
            ScratchName {
                seconds: 0,
                maker: 0,
                number: 0,
            },
        ] {
            let text = name.to_string();
            assert!(
                text.len() <= 63 && crate::sql::ident(&text) == text,
                "{text}"
            );
            assert_eq!(text.parse(), Ok(name));
        }
        assert!(ScratchName::first_of(7).age() <= 1);
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        for text in [
            "app",
            "schemad_scratch_",
            "schemad_scratch_1_1_1",
            "schemad_scratch_1_0000000A_1",
            "schemad_scratch_01_0000000a_1",
            "schemad_scratch_1_0000000a_+1",
            "schemad_scratch_1_0000000a_1_2",
            "my_schemad_scratch_1_0000000a_1",
        ] {
            assert_eq!(text.parse::<ScratchName>(), Err(NotScratchName), "{text}");
        }
    }
}

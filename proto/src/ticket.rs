//! The invitation into a cluster: which cluster, its secret, where its nodes listen, and until when.
//!
//! `fnode invite` makes one, `fnode start --join` reads it. The text is bech32m (BIP 350) with the prefix
//! `fnode`, so that it survives being read aloud, wrapped by a mail program or typed in capitals, and so that
//! one wrong character is always noticed. Inside is a versioned word. Nothing here asks the clock.

use std::fmt;
use std::str::FromStr;

use bech32::primitives::checksum::Checksum;
use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32m, Hrp};
use serde::{Deserialize, Serialize};

use crate::codec::{self, DecodeError, Word};
use crate::id::ClusterId;

/// What stands before the `1` of every ticket.
const PREFIX: &str = "fnode";
/// Longest text read, in characters without white space: the largest word (4 KiB and its header) in groups of
/// five bits, with prefix and checksum.
const TEXT_MAX: usize = 6_600;

/// A cluster's secret. Whoever holds it passes the handshake of every member (DESIGN §5).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Counts the cluster's secrets; a rotation takes the next number.
    pub number: u32,
    /// 32 random bytes, never a passphrase: a listener's first answer lets a guess be tried offline.
    pub key: [u8; 32],
}

impl Secret {
    /// Whether a member that knows `other` should take this one instead: the higher number, and of two
    /// rotations on two sides of a partition the greater key, so that all members choose alike.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.number, self.key) > (other.number, other.key)
    }
}

/// What a new node needs to join. Text form: `fnode1…`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The cluster that is joined.
    pub cluster: ClusterId,
    /// Its name, for people.
    pub cluster_name: String,
    /// Opens the door.
    pub secret: Secret,
    /// Where members listen: multiaddr text with `/p2p/…`, the likeliest first.
    pub addrs: Vec<String>,
    /// Milliseconds since 1970; from this instant on the ticket is not accepted.
    pub expires_unix_ms: u64,
}

/// Why a text is not a ticket that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Another prefix, other characters, or far too long.
    #[error("this is not a ticket; a ticket begins with fnode1, and `fnode invite` on a member prints one")]
    NotATicket,
    /// The checksum does not fit: a character is missing, doubled or changed.
    #[error(
        "the ticket is torn: its checksum does not fit; copy the whole text again, from fnode1 to its last character"
    )]
    Torn,
    /// A whole ticket with an inside that this version does not know.
    #[error("the ticket was made by a newer version of fnode; upgrade this node, then join")]
    Newer,
    /// The checksum fits, the inside does not decode.
    #[error("the ticket is malformed inside; ask a member for another one (fnode invite)")]
    Malformed,
    /// Too much in it for one text.
    #[error("the ticket would have {bytes} bytes, more than {max}; name fewer addresses")]
    TooLong {
        /// Bytes it would have.
        bytes: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// Its time is over.
    #[error("the ticket expired {} ago; ask a member for another one (fnode invite)", Ago(*.since_ms))]
    Expired {
        /// Milliseconds since it expired.
        since_ms: u64,
    },
}

/// Bech32m without the limit of 1,023 characters. That limit guards the promise to notice any *four* wrong
/// characters; one wrong character is noticed at any length, everything else all but once in 2^30.
enum LongBech32m {}

/// A length of time in the largest unit that does not hide it.
struct Ago(u64);

impl Word for Ticket {
    const KIND: u16 = 2;
    const MAX: usize = 4 << 10;
}

impl Checksum for LongBech32m {
    type MidstateRepr = u32;
    const CODE_LENGTH: usize = TEXT_MAX;
    const CHECKSUM_LENGTH: usize = Bech32m::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = Bech32m::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = Bech32m::TARGET_RESIDUE;
}

impl Ticket {
    /// The text to hand over, in lower case.
    ///
    /// # Errors
    /// [`TicketError::TooLong`] past 4 KiB inside; 16 addresses and a name of 64 characters fit easily.
    pub fn to_text(&self) -> Result<String, TicketError> {
        let bytes = codec::encode_body(self).len();
        let too_long = TicketError::TooLong { bytes, max: Self::MAX };
        if bytes > Self::MAX {
            return Err(too_long);
        }
        bech32::encode_lower::<LongBech32m>(Hrp::parse_unchecked(PREFIX), &codec::encode(self)).map_err(|_| too_long)
    }

    /// Whether the ticket may still be used at `now_unix_ms`.
    ///
    /// # Errors
    /// [`TicketError::Expired`] from the instant of expiry on.
    pub fn check_not_expired(&self, now_unix_ms: u64) -> Result<(), TicketError> {
        match now_unix_ms.checked_sub(self.expires_unix_ms) {
            Some(since_ms) => Err(TicketError::Expired { since_ms }),
            None => Ok(()),
        }
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// White space is ignored wherever it stands: mail programs and terminals wrap long words.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).take(TEXT_MAX + 1).collect();
        let prefix = text.get(..=PREFIX.len()).ok_or(TicketError::NotATicket)?;
        if !prefix.eq_ignore_ascii_case("fnode1") || text.len() > TEXT_MAX {
            return Err(TicketError::NotATicket);
        }
        let checked = CheckedHrpstring::new::<LongBech32m>(&text).map_err(|error| match error {
            CheckedHrpstringError::Parse(_) | CheckedHrpstringError::Checksum(_) => TicketError::Torn,
            _ => TicketError::NotATicket,
        })?;
        // A second `1` would have moved the end of the prefix.
        if !checked.hrp().as_str().eq_ignore_ascii_case(PREFIX) {
            return Err(TicketError::Torn);
        }
        let bytes: Vec<u8> = checked.byte_iter().collect();
        codec::decode(&bytes).map_err(|error| match error {
            DecodeError::Major(_) | DecodeError::Kind { .. } => TicketError::Newer,
            _ => TicketError::Malformed,
        })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.number)
    }
}

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1_000 {
            seconds @ 0..120 => write!(f, "{seconds} s"),
            seconds @ 120..7_200 => write!(f, "{} min", seconds / 60),
            seconds @ 7_200..172_800 => write!(f, "{} h", seconds / 3_600),
            seconds => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = concat!(
        "fnode1vehx7eqpqgqguqqqqqpqyqszqgpqyqszqgpqyqszqgpq2mrpvgkkzq66tfd95kj6tfd95kj6tfd95kj6tfd9",
        "5kj6tfd95kj6tfd95kj6tgq5ctmfwq6z7vfexghrqt3j9cmj7arrwqhngde5xuhhqvns9ucny3pnfdhk74e3xfzrxj",
        "m0datnzvjyxd9k7m6hxyeygv6tdah4wvfjgse5kmm02ucny3pnfdhk74laqpg9cx9rqyqqqya6vr2",
    );

    fn sample() -> Ticket {
        Ticket {
            cluster: ClusterId([2; 16]),
            cluster_name: "lab-a".to_owned(),
            secret: Secret { number: 3, key: [0x5a; 32] },
            addrs: vec![format!("/ip4/192.0.2.7/tcp/4747/p2p/{}", "12D3KooW".repeat(6))],
            expires_unix_ms: 1_800_000_000_000,
        }
    }

    fn text() -> String {
        sample().to_text().expect("short")
    }

    #[test]
    fn the_checksum_code_is_consistent() {
        LongBech32m::sanity_check();
    }

    #[test]
    fn the_text_does_not_change_unnoticed() {
        assert_eq!(text(), GOLDEN);
    }

    #[test]
    fn a_ticket_is_read_as_printed_wrapped_or_in_capitals() {
        let text = text();
        assert_eq!(text.parse(), Ok(sample()));
        assert_eq!(text.to_uppercase().parse(), Ok(sample()));
        let wrapped: Vec<&str> = text.as_bytes().chunks(40).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert_eq!(format!("\n {} \r\n", wrapped.join("\n")).parse(), Ok(sample()));
    }

    #[test]
    fn every_wrong_character_is_noticed() {
        let text = text();
        for at in 0..text.len() {
            for wrong in (b' '..=b'~').map(char::from).filter(|&c| !text[at..].starts_with(c)) {
                let torn = format!("{}{wrong}{}", &text[..at], &text[at + 1..]);
                let error = torn.parse::<Ticket>().expect_err(&torn);
                let wanted = if at <= PREFIX.len() {
                    // Capitals in the prefix alone still look like a ticket.
                    matches!(error, TicketError::NotATicket | TicketError::Torn)
                } else {
                    error == TicketError::Torn
                };
                assert!(wanted, "{torn}: {error:?}");
            }
        }
    }

    #[test]
    fn every_truncation_and_doubled_character_is_noticed() {
        let text = text();
        for at in 0..text.len() {
            assert!(text[..at].parse::<Ticket>().is_err(), "cut at {at}");
            assert!(text[at + 1..].parse::<Ticket>().is_err(), "begun at {at}");
            let missing = format!("{}{}", &text[..at], &text[at + 1..]);
            assert!(missing.parse::<Ticket>().is_err(), "without {at}");
            let doubled = format!("{}{}", &text[..=at], &text[at..]);
            assert!(doubled.parse::<Ticket>().is_err(), "doubled at {at}");
        }
    }

    #[test]
    fn a_text_that_is_no_ticket_says_so() {
        for text in ["", "fnode", "fnodé1", "hello", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", &"f".repeat(9_000)]
        {
            assert_eq!(text.parse::<Ticket>(), Err(TicketError::NotATicket), "{text}");
        }
        assert_eq!(format!("fnode1{}", "q".repeat(9_000)).parse::<Ticket>(), Err(TicketError::NotATicket));
    }

    #[test]
    fn a_ticket_of_a_newer_version_says_so() {
        let written = |at: usize, byte: u8| {
            let mut bytes = codec::encode(&sample());
            bytes[at] = byte;
            bech32::encode_lower::<LongBech32m>(Hrp::parse_unchecked(PREFIX), &bytes).expect("short")
        };
        assert_eq!(written(4, 2).parse::<Ticket>(), Err(TicketError::Newer));
        assert_eq!(written(5, 200).parse::<Ticket>(), Err(TicketError::Newer));
        assert_eq!(written(0, 0).parse::<Ticket>(), Err(TicketError::Malformed));
    }

    #[test]
    fn the_last_instant_of_a_ticket_is_before_its_expiry() {
        let ticket = sample();
        assert_eq!(ticket.check_not_expired(ticket.expires_unix_ms - 1), Ok(()));
        assert_eq!(ticket.check_not_expired(ticket.expires_unix_ms), Err(TicketError::Expired { since_ms: 0 }));
        let error = ticket.check_not_expired(ticket.expires_unix_ms + 7_200_000).expect_err("expired");
        assert_eq!(error.to_string(), "the ticket expired 2 h ago; ask a member for another one (fnode invite)");
    }

    #[test]
    fn the_largest_ticket_fits_and_a_larger_one_is_refused() {
        let mut ticket = sample();
        ticket.addrs = vec!["a".repeat(100); 39];
        assert_eq!(ticket.to_text().expect("fits").parse(), Ok(ticket.clone()));
        ticket.addrs.push("a".repeat(100));
        ticket.addrs.push("a".repeat(100));
        assert!(matches!(ticket.to_text(), Err(TicketError::TooLong { max: 4_096, .. })));
    }

    #[test]
    fn debug_output_does_not_hold_the_key() {
        assert!(!format!("{:?}", sample()).contains("90"));
        assert!(format!("{:?}", sample()).contains("Secret(3)"));
    }
}

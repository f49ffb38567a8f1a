//! Hostile bytes in the place of every word, and hostile texts where users type.

use std::cell::RefCell;
use std::str::FromStr;

use proto::codec::{self, Word};
use proto::entry::SignedEntry;
use proto::event::{Event, Frame};
use proto::job::{IndexRanges, Trigger};
use proto::membership::Membership;
use proto::message::Message;
use proto::record::Record;
use proto::ticket::Ticket;
use proto::time::Timestamp;
use proto::{ByteSize, ClusterId, ContentId, GroupId, JobId, Manifest, NodeId};

use super::golden::{packets, records};
use super::harness::attack::{PLACES_MAX, attack, attack_loosely};
use super::samples;

fn attack_word<W: Word>(name: &str, word: &W) {
    attack(name, &codec::encode(word), |bytes| codec::decode::<W>(bytes).is_ok());
}

#[test]
fn no_bytes_in_the_place_of_a_stored_word_do_harm() {
    attack_word("Entry", &samples::entry());
    attack_word("Ticket", &samples::ticket());
    for (_, record) in records() {
        attack_word::<Record>("Record", &record);
    }
    attack_word("SnapshotHead", &samples::snapshot_head());
    attack_word("SignedSnapshot", &samples::signed_snapshot());
    for part in samples::snapshot_parts() {
        attack_word("SnapshotPart", &part);
    }
    let manifest = Manifest { files: super::golden::manifest_files(), removed: super::golden::removed_files() };
    attack("Manifest", &codec::encode(&manifest), |bytes| {
        // Whoever decodes one checks it before use.
        codec::decode::<Manifest>(bytes).is_ok_and(|manifest| manifest.check().is_ok() || !manifest.files.is_empty())
    });
}

#[test]
fn no_bytes_in_the_place_of_an_entry_are_trusted() {
    let good = samples::chain()[1].clone();
    let bytes = codec::encode(&good);
    attack("SignedEntry", &bytes, |bytes| {
        let Ok(signed) = codec::decode::<SignedEntry>(bytes) else { return false };
        let verified = signed.clone().verify();
        assert!(verified.is_err() || signed == good, "a changed entry passes for its author's");
        // What the own journal holds is not verified again, but read all the same.
        signed.trust().is_ok()
    });
}

#[test]
fn no_bytes_in_the_place_of_a_message_do_harm() {
    for message in samples::messages() {
        attack_word::<Message>("Message", &message);
    }
}

#[test]
fn no_bytes_in_the_place_of_an_event_do_harm() {
    for event in samples::events() {
        let Frame { kind, version, body } = event.to_frame();
        let taken = |body: &[u8]| {
            let event = Event::from_frame(Frame { kind, version, body: body.to_vec() });
            event.is_ok_and(|event| !matches!(event, Event::Unknown(_)))
        };
        if matches!(event, Event::Unknown(_)) {
            continue;
        }
        attack(&format!("Event {kind}"), &body, taken);
    }
}

#[test]
fn no_packet_of_the_membership_protocol_does_harm() {
    let mut one = Membership::new(samples::node(1), 1, 1);
    let packet = packets(one.announce(Timestamp(0), samples::node(2))).remove(0);
    let two = RefCell::new(Membership::new(samples::node(2), 1, 2));
    attack_loosely("Membership", &packet, PLACES_MAX, |bytes| {
        // One node hears all of them, one after the other: what it believes by then must not hurt it either.
        let mut two = two.borrow_mut();
        two.on_packet(Timestamp(1), bytes);
        two.on_tick(Timestamp(2));
        true
    });
}

/// Reads texts made of `good`; one that is taken must be the same when it is printed and read again.
fn attack_parser<T: FromStr + PartialEq>(name: &str, good: &str, print: impl Fn(&T) -> Option<String>) {
    attack_loosely(name, good.as_bytes(), PLACES_MAX, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(value) = T::from_str(&text) else { return false };
        if let Some(printed) = print(&value) {
            let again = T::from_str(&printed).ok();
            assert!(again == Some(value), "{name} {text:?} is printed as {printed:?}, which reads otherwise");
        }
        true
    });
}

#[test]
fn no_text_that_users_type_does_harm() {
    attack_parser::<NodeId>("NodeId", &samples::node(0xab).to_string(), |id| Some(id.to_string()));
    attack_parser::<ClusterId>("ClusterId", &"0f".repeat(16), |id| Some(id.to_string()));
    attack_parser::<ContentId>("ContentId", &samples::content(0xab).to_string(), |id| Some(id.to_string()));
    attack_parser::<GroupId>("GroupId", &samples::group().to_string(), |id| Some(id.to_string()));
    attack_parser::<JobId>("JobId", &samples::job().to_string(), |id| Some(id.to_string()));
    attack_parser::<IndexRanges>("IndexRanges", "1-10,20,30-40", |ranges| Some(ranges.to_string()));
    attack_parser::<Trigger>("Trigger", "all_succeeded", |_| None);
    for size in ["512", "64KiB", "1.5 GiB", "2GB"] {
        // Printed for people, with one decimal.
        attack_parser::<ByteSize>("ByteSize", size, |_| None);
    }
    let ticket = samples::ticket().to_text().expect("short");
    attack_parser::<Ticket>("Ticket", &ticket, |ticket| ticket.to_text().ok());
}

#[test]
fn a_number_of_any_size_in_a_text_is_refused_or_kept() {
    for text in ["99999999999999999999", "0-4294967295", "4294967296", "0x10", "١", "1-2-3", "-1", "1e3"] {
        let ranges = text.parse::<IndexRanges>();
        assert!(ranges.is_err(), "{text:?} is taken for the indices {ranges:?}");
    }
    for text in ["99999999999999999999", "1e400", "1e3", "0x10", "١", "∞", "NaN", "inf", "-1", "1-2", "1.5.5"] {
        let size = text.parse::<ByteSize>();
        assert!(size.is_err(), "{text:?} is taken for the size {size:?}");
    }
    assert_eq!("18446744073709551615".parse::<ByteSize>().ok(), None);
    let nines = "9".repeat(100_000);
    assert!(nines.parse::<ByteSize>().is_err() && nines.parse::<IndexRanges>().is_err());
    assert!(nines.parse::<JobId>().is_err() && nines.parse::<Ticket>().is_err());
}

//! A registration as an entry of a calendar ([RFC 5545](https://www.rfc-editor.org/rfc/rfc5545)),
//! sent as an invitation ([RFC 5546](https://www.rfc-editor.org/rfc/rfc5546)).
//!
//! A `REQUEST` adds or updates the entry, and a `CANCEL` removes it. The calendar recognises the
//! entry by its UID, and its newest state by its sequence.

use domain::clock::Timestamp;
use domain::id::{DriveId, MemberId};
use domain::text;
use icalendar::{Calendar, Component as _, EventLike as _, EventStatus, Property};
use lettre::Address;
use lettre::message::Mailbox;

/// The most octets of a line, without its end (RFC 5545 §3.1).
const MOST: usize = 75;

/// What the calendar does with the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Add it, or change it.
    Request,
    /// Remove it.
    Cancel,
}

impl Method {
    /// The word in calendars and content types.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "REQUEST",
            Self::Cancel => "CANCEL",
        }
    }
}

/// An entry of a member's calendar.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What the calendar does with it.
    pub method: Method,
    /// The drive and the member. All mails about both concern the same entry.
    pub of: (DriveId, MemberId),
    /// The number of the change in the drive's log. A later change has a higher one.
    pub sequence: u64,
    /// When the mail was made.
    pub made_at: Timestamp,
    /// When it begins. `None` only if it is removed.
    pub starts: Option<Timestamp>,
    /// When it ends.
    pub ends: Option<Timestamp>,
    /// The drive's title.
    pub title: String,
    /// Where it is.
    pub venue: String,
}

impl Entry {
    /// The calendar with this entry alone, from `organizer` to `attendee`.
    #[must_use]
    pub fn calendar(&self, organizer: &Mailbox, attendee: &Address) -> String {
        let (drive_id, member_id) = self.of;
        let mut from = Property::new("ORGANIZER", format!("mailto:{}", organizer.email));
        if let Some(name) = organizer.name.as_deref().filter(|name| !text::is_blank(name)) {
            // A parameter cannot contain quotes.
            from.add_parameter("CN", &text::as_line(name).replace('"', "'"));
        }
        let mut to = Property::new("ATTENDEE", format!("mailto:{attendee}"));
        // A registration is an acceptance, so the calendar needs no answer.
        to.add_parameter("PARTSTAT", "ACCEPTED").add_parameter("RSVP", "FALSE");
        let status = match self.method {
            Method::Request => EventStatus::Confirmed,
            Method::Cancel => EventStatus::Cancelled,
        };
        let mut entry = icalendar::Event::new();
        entry
            .uid(&format!("{drive_id}.{member_id}@muster"))
            .sequence(u32::try_from(self.sequence).unwrap_or(u32::MAX))
            .timestamp(self.made_at)
            .summary(&text::as_line(&self.title))
            .location(&text::as_line(&self.venue))
            .status(status)
            .append_property(from)
            .append_multi_property(to);
        if let Some(starts) = self.starts {
            entry.starts(starts);
            if let Some(ends) = self.ends {
                entry.ends(ends);
            }
        }
        let mut calendar = Calendar::new();
        calendar.append_property(("METHOD", self.method.as_str())).push(entry.done());
        refolded(&calendar.to_string())
    }
}

/// The same content in lines of at most [`MOST`] octets, broken between characters. (icalendar 0.17
/// mixes up octets and characters when it breaks lines. It also does not count the space at the
/// beginning of a continuation.)
fn refolded(calendar: &str) -> String {
    let mut folded = String::with_capacity(calendar.len() + calendar.len() / 20);
    for line in calendar.replace("\r\n ", "").split_terminator("\r\n") {
        // A continuation begins with a space.
        let (mut rest, mut most) = (line, MOST);
        while rest.len() > most {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(most));
            folded.push_str(head);
            folded.push_str("\r\n ");
            (rest, most) = (tail, MOST - 1);
        }
        folded.push_str(rest);
        folded.push_str("\r\n");
    }
    folded
}

#[cfg(test)]
mod tests {
    use domain::clock;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn entry(title: &str, venue: &str) -> Entry {
        Entry {
            method: Method::Request,
            of: (DriveId(Uuid::from_u128(1)), MemberId(Uuid::from_u128(2))),
            sequence: 7,
            made_at: clock::from_ms(0),
            starts: Some(clock::from_ms(1_000)),
            ends: Some(clock::from_ms(2_000)),
            title: title.to_owned(),
            venue: venue.to_owned(),
        }
    }

    fn written(entry: &Entry, from: &str) -> String {
        let organizer = Mailbox::new(Some(from.to_owned()), "drives@x.org".parse().unwrap());
        entry.calendar(&organizer, &"ann@x.org".parse().unwrap())
    }

    /// The property with this name, as a reader of RFC 5545 unfolds and unescapes it.
    fn read(calendar: &str, name: &str) -> Option<String> {
        let unfolded = calendar.replace("\r\n ", "");
        let line = unfolded.split("\r\n").find_map(|line| line.strip_prefix(&format!("{name}:")))?;
        let (mut text, mut chars) = (String::new(), line.chars());
        while let Some(c) = chars.next() {
            text.push(if c == '\\' { chars.next().map(|c| if c == 'n' { '\n' } else { c })? } else { c });
        }
        Some(text)
    }

    #[test]
    fn an_invitation_has_what_calendars_need() {
        let found = written(&entry("Blood drive", "Hall"), "\"Drives\", Pune");
        for line in [
            "METHOD:REQUEST",
            "SEQUENCE:7",
            "DTSTART:19700101T000001Z",
            "ORGANIZER;CN=\"'Drives', Pune\":mailto:drives@x.org",
            "ATTENDEE;PARTSTAT=ACCEPTED;RSVP=FALSE:mailto:ann@x.org",
            "STATUS:CONFIRMED",
        ] {
            assert!(found.replace("\r\n ", "").split("\r\n").any(|other| other == line), "{line}: {found}");
        }
        let gone = Entry { method: Method::Cancel, starts: None, ..entry("Blood drive", "Hall") };
        let found = written(&gone, " ");
        assert!(found.contains("METHOD:CANCEL") && found.contains("STATUS:CANCELLED"), "{found}");
        assert!(!found.contains("DTSTART") && !found.contains("CN="), "{found}");
    }

    proptest! {
        /// Texts that were stored before texts were checked may have any character.
        #[test]
        fn lines_are_short_and_read_back(
            title in "[\\x00-\\x{10ffff}]{0,60}|(क|,|;|\\\\|\r|\n| ){0,120}",
            venue in "\\PC{0,200}|[a-z ]{60,90}(é|😀)[a-z ]{0,90}",
            from in "[\\x00-\\x{10ffff}]{0,40}",
        ) {
            let found = written(&entry(&title, &venue), &from);
            prop_assert!(found.ends_with("END:VCALENDAR\r\n"));
            for line in found.split_terminator("\r\n") {
                prop_assert!(line.len() <= MOST, "{} octets: {:?}", line.len(), line);
                prop_assert!(!line.contains(['\r', '\n']), "{:?}", line);
            }
            prop_assert_eq!(read(&found, "SUMMARY").unwrap_or_default(), text::as_line(&title));
            prop_assert_eq!(read(&found, "LOCATION").unwrap_or_default(), text::as_line(&venue));
        }
    }
}

//! Addresses in the form for the mail server.
//!
//! [`EmailAddress`] is the only parser of addresses. lettre's own parser accepts fewer letters (no
//! vowel signs of Indic scripts, for instance). So this module skips lettre's check, and does not
//! read the envelope from the headers.

use domain::address::{AddressFault, EmailAddress, ascii_domain};
use domain::text::with_causes;
use lettre::Address;
use lettre::address::Envelope;
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::Error;

/// An address cannot get mail. The API and the import refuse such addresses. This one was stored
/// before they did.
#[derive(Debug, thiserror::Error)]
#[error("no message can be sent to the address {stored:?}")]
pub struct NoRecipient {
    stored: String,
    source: AddressFault,
}

/// A member's address: the domain is in ASCII.
pub fn address(stored: &str) -> Result<Address, NoRecipient> {
    let address =
        EmailAddress::parse(stored).map_err(|source| NoRecipient { stored: stored.to_owned(), source })?;
    Ok(Address::new_dangerous(address.local(), address.domain()))
}

/// The envelope of a message to one recipient.
#[must_use]
pub fn envelope(from: &Mailbox, to: Address) -> Envelope {
    Envelope::new(Some(from.email.clone()), vec![to]).expect("it has a recipient")
}

/// The sender with its domain in ASCII. Otherwise each message would need a server with SMTPUTF8.
///
/// # Errors
/// Says what is wrong with the domain.
pub fn sender(from: Mailbox) -> Result<Mailbox, AddressFault> {
    let domain = ascii_domain(from.email.domain())?;
    Ok(Mailbox::new(from.name, Address::new_dangerous(from.email.user(), domain)))
}

/// Why the server cannot take a message, if an address has letters that it does not support.
#[must_use]
pub fn needs_smtputf8(message: &Message, error: &Error) -> Option<String> {
    let refused = error.is_client() && with_causes(error).contains("SMTPUTF8");
    let to = refused.then(|| message.envelope().to().first()).flatten()?;
    Some(format!(
        "the address {to} has letters beyond ASCII before the @, and the mail server does not take such addresses: it does \
         not offer SMTPUTF8"
    ))
}

#[cfg(test)]
mod tests {
    use lettre::message::header::To;
    use proptest::prelude::*;

    use super::*;

    /// A message to this address, if `EmailAddress` accepts it.
    fn message(typed: &str) -> Option<Message> {
        let stored = EmailAddress::parse(typed).ok()?.shown();
        let from: Mailbox = "Muster <muster@x.org>".parse().unwrap();
        let to = address(&stored).unwrap_or_else(|why| panic!("{typed:?}: {why}"));
        let envelope = envelope(&from, to.clone());
        let builder = Message::builder().from(from).to(Mailbox::new(Some("Ann".to_owned()), to));
        Some(builder.subject("Hello").envelope(envelope).body("Hello".to_owned()).unwrap())
    }

    /// The parser and the sender agree about this address.
    fn agree(typed: &str) {
        let Some(message) = message(typed) else { return };
        let normal = EmailAddress::parse(typed).unwrap();
        let to = &message.envelope().to()[0];
        assert_eq!(to.to_string(), normal.to_string());
        assert!(to.domain().is_ascii(), "{to}");
        let text = String::from_utf8(message.formatted()).unwrap();
        assert!(text.replace("\r\n ", " ").contains(&format!("To: Ann <{to}>")), "{text}");
        if normal.local().is_ascii() {
            assert!(text.is_ascii(), "{text}");
            assert_eq!(to.to_string().parse::<Address>().as_ref(), Ok(to), "lettre's own parser takes it");
            assert!(message.headers().get::<To>().is_some(), "its headers can be read");
        }
    }

    #[test]
    fn the_door_and_the_sender_agree_about_addresses_of_many_scripts() {
        for typed in [
            "admin@localhost",
            "o'brien+x_y=z/1{2}@mail-1.example.co.uk",
            "a@my_host.example.org",
            "ann@Bücher.de",
            "josé@x.org",
            "क्षितिज@डाटा.भारत",
            "ชาย@x.org",
            "иван@пример.рф",
            "محمد@x.org",
            "用户@例子.广告",
        ] {
            assert!(message(typed).is_some(), "{typed}");
            agree(typed);
        }
    }

    #[test]
    fn what_was_stored_before_addresses_were_checked_says_why_it_fails() {
        for (stored, why) in
            [("an\u{200b}n@x.org", "U+200B"), ("ann(work)@x.org", "character ("), ("ann", "no @")]
        {
            let error = with_causes(&address(stored).unwrap_err());
            assert!(error.contains("no message can be sent") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn the_senders_domain_is_in_ascii() {
        let from = sender("Muster <No-Reply@Bücher.de>".parse().unwrap()).unwrap();
        assert_eq!(from.to_string(), "Muster <No-Reply@xn--bcher-kva.de>");
    }

    proptest! {
        #[test]
        fn the_sender_takes_every_address_that_the_door_takes(
            local in "[!-~]{1,10}|[\\p{L}\\p{M}\\p{N}.+-]{1,10}|\\PC{1,8}",
            domain in "[!-~]{1,10}|[\\p{L}\\p{M}\\p{N}.-]{1,10}|xn--[a-z0-9-]{1,10}|\\PC{1,8}",
        ) {
            agree(&format!("{local}@{domain}"));
            agree(&format!("{local}@example.org"));
            agree(&format!("ann@{domain}"));
        }
    }
}

//! What travels beside a body, as it goes out.

use std::borrow::Cow;

use super::header_interner::{Field, HeaderInterner};
use super::headers::Headers;
use super::table;

/// Class, weight and body size, which precede the properties in a content header.
const HEADER_START: usize = 12;
/// What a message id and its mark may add to properties.
const MESSAGE_ID_ROOM: usize = 80;

/// AMQP property flags and list, as a content header carries them (AMQP 0-9-1, section 4.2.6.1). Encoded once and used by
/// all messages of a connection.
pub struct Properties {
    /// All of it but for the common fields.
    own: Box<[u8]>,
    /// Fields of the header table that others have too, each with the place in `own` where it belongs, in order.
    common: Box<[(u32, Field)]>,
}

impl Properties {
    /// An empty content type is none.
    pub fn new(content_type: &str, headers: &Headers) -> Self {
        Self::tracked_if(false, content_type, headers)
    }

    /// `tracked`: of messages that are persistent and have an id each.
    pub fn tracked_if(tracked: bool, content_type: &str, headers: &Headers) -> Self {
        Self::whole(table::encode_properties(content_type, headers, tracked))
    }

    /// Tracked or not, by what a message was published with.
    pub fn of_message(encoded: &[u8]) -> Self {
        Self::whole(table::without_message_id(encoded))
    }

    fn whole(own: Box<[u8]>) -> Self {
        Properties { own, common: Box::default() }
    }

    /// The same headers beside another content type, sharing what these share.
    pub fn with_content_type(&self, content_type: &str) -> Self {
        let whole = table::with_content_type(&self.encoded(), content_type);
        let known = |bytes: &[u8]| self.common.iter().map(|(_, field)| field).find(|field| field.bytes() == bytes);
        Self::split(&whole, |field| known(field).cloned())
    }

    /// The same, with what others have too kept but once.
    pub fn sharing(self, fields: &HeaderInterner) -> Self {
        Self::split(&self.encoded(), |field| fields.find(field))
    }

    fn split(whole: &[u8], find: impl Fn(&[u8]) -> Option<Field>) -> Self {
        let (mut own, mut common, mut done) = (Vec::new(), Vec::new(), 0);
        for range in table::fields(whole) {
            if let Some(field) = find(&whole[range.clone()]) {
                own.extend_from_slice(&whole[done..range.start]);
                common.push((own.len() as u32, field));
                done = range.end;
            }
        }
        own.extend_from_slice(&whole[done..]);
        Properties { own: own.into(), common: common.into() }
    }

    /// Complete, unless they are tracked.
    pub fn encoded(&self) -> Cow<'_, [u8]> {
        if self.common.is_empty() {
            return (&*self.own).into();
        }
        let mut out = Vec::with_capacity(self.size());
        self.append_to(&mut out);
        out.into()
    }

    /// Bytes of what `encoded` gives.
    pub fn size(&self) -> usize {
        self.own.len() + self.common.iter().map(|(_, field)| field.bytes().len()).sum::<usize>()
    }

    /// Bytes of the content header that carries them, at most. It must fit into one frame (AMQP 0-9-1, section 4.2.6.1).
    pub fn header_size(&self) -> usize {
        HEADER_START + self.size() + if self.is_tracked() { MESSAGE_ID_ROOM } else { 0 }
    }

    /// The content type, and the headers as JSON.
    pub fn decoded(&self) -> (String, String) {
        let encoded = self.encoded();
        let read = table::EncodedProperties::read(&encoded);
        (read.content_type.to_owned(), read.headers_json().0)
    }

    pub fn is_tracked(&self) -> bool {
        table::is_tracked(&self.own)
    }

    /// Appends them as a message has them. `prefix` and `id` make the message id of tracked ones.
    pub fn write(&self, out: &mut Vec<u8>, prefix: &str, id: MessageId) {
        let start = out.len();
        self.append_to(out);
        if self.is_tracked() {
            table::write_message_id(out, start, &id.text(prefix), id.again);
        }
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        let mut done = 0;
        for (place, field) in &self.common {
            let place = *place as usize;
            out.extend_from_slice(&self.own[done..place]);
            out.extend_from_slice(field.bytes());
            done = place;
        }
        out.extend_from_slice(&self.own[done..]);
    }
}

/// Which message of its publisher it is, for messages that are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageId {
    /// In the order of publishing, from 1; 0 is none yet.
    pub number: u64,
    /// It is published again and may have arrived the first time.
    pub again: bool,
}

impl MessageId {
    /// `prefix` is the publisher's own.
    pub fn text(self, prefix: &str) -> String {
        format!("{prefix}-{:x}", self.number)
    }

    /// Whether an id has the form of [`MessageId::text`] with the random prefix that `lib/` gives each publisher: 24
    /// hexadecimal digits. Such an id names one message alone.
    pub fn is_generated(text: &str) -> bool {
        let is_hex =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        text.split_once('-').is_some_and(|(prefix, number)| prefix.len() == 24 && is_hex(prefix) && is_hex(number))
    }

    /// Reads what [`MessageId::text`] has written.
    pub fn parse(text: &str, prefix: &str) -> Option<MessageId> {
        let number = text.strip_prefix(prefix)?.strip_prefix('-')?;
        Some(MessageId { number: u64::from_str_radix(number, 16).ok()?, again: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{JSON, OCTETS};

    #[test]
    fn what_is_shared_goes_out_as_it_was() {
        let fields = HeaderInterner::default();
        let long = |letter: &str| letter.repeat(50);
        let (same, other) = (long("s"), long("o"));
        let headers = |own: &str| {
            let json = format!(
                r#"!{{"first":"{same}","k":"{own}","list":["a","{same}"],"own":"{own}{own}","n":1,"last":"{other}"}}"#
            );
            Headers::from_json(&json).unwrap()
        };
        for (name, tracked, common) in [("a", false, 0), ("b", false, 3), ("c", true, 3), ("d", true, 3)] {
            let make = || Properties::tracked_if(tracked, JSON, &headers(&long(name)));
            let (whole, shared) = (make(), make().sharing(&fields));
            assert_eq!(shared.common.len(), common);
            assert_eq!((shared.size(), shared.encoded()), (whole.encoded().len(), whole.encoded()));
            assert_eq!(shared.is_tracked(), tracked);
            let octets = [&shared, &whole].map(|properties| properties.with_content_type(OCTETS));
            assert_eq!(octets[0].encoded(), octets[1].encoded());
            assert_eq!(octets.map(|properties| properties.common.len()), [common, 0]);
            assert_eq!(shared.decoded(), (JSON.into(), headers(&long(name)).to_json()));
            let written = [&shared, &whole].map(|properties| {
                let mut out = b"before".to_vec();
                properties.write(&mut out, "p", MessageId { number: 7, again: true });
                out
            });
            assert_eq!(written[0], written[1]);
            let size = HEADER_START + written[0].len() - "before".len();
            assert!((size..=size + MESSAGE_ID_ROOM).contains(&shared.header_size()));
        }
    }
}

//! What a batch of deliveries is made into for JavaScript: numbers and bodies in one string, and each text that repeats
//! (header tables, content types, names) once in the life of its dictionary, as far as that has room for it.
//!
//! A string, since a Buffer costs as much as ten of them, now and when it is collected; bodies that are not ASCII come in
//! one all the same.
//!
//! `lib/native/delivery-codec.js` reads what is written here; the two must agree.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::sys;

use crate::message::{Delivery, Headers, JSON, OCTETS, Properties, Route};
use crate::node::{check_status, to_js};

/// Numbers of a delivery: where its body ends and where the message id behind that, the entries of its headers, content
/// type, routing key and exchange, flags, the delivery tag in two halves, and the session.
const WORDS: usize = 10;
/// Characters of a number: seven bits in each, the lowest first.
const DIGITS: usize = 5;

const REDELIVERED: u32 = 1;
const STATUS: u32 = 2;
const UTF8: u32 = 4;
const REPEATED: u32 = 8;

/// A dictionary that has grown to one of these takes nothing more in.
const MAX_ENTRIES: usize = 16 * 1024;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// A full one is looked at after so many questions for each of its entries, and starts anew unless half of them were of use.
const LOOK_AFTER: usize = 4;
/// Names that are kept; there are hardly more than a few.
const MAX_NAMES: usize = 1024;
/// From here on entries are those of one batch alone.
const PASSING: u32 = 1 << 28;

/// A batch as arguments of a function: all five, or the first alone where that says everything.
pub(super) struct BatchArgs {
    /// How many there are, the numbers of all and then their bodies. ASCII.
    text: Vec<u8>,
    /// The bodies alone, where one is not ASCII.
    octets: Option<Vec<u8>>,
    /// The texts that are new.
    fresh: Vec<String>,
    /// The entry of the first of them: 0 when all entries before it are void.
    first: u32,
    /// The header tables that this batch alone refers to.
    passing: Vec<String>,
}

impl JsValuesTupleIntoVec for BatchArgs {
    #[allow(unsafe_code, reason = "Node-API")]
    fn into_vec(self, env: sys::napi_env) -> Result<Vec<sys::napi_value>> {
        let BatchArgs { text, octets, fresh, first, passing } = self;
        let length = isize::try_from(text.len()).unwrap_or(isize::MAX);
        let mut value = std::ptr::null_mut();
        // SAFETY: called on the environment's thread, in a scope of the caller's; `text` has `length` bytes.
        unsafe {
            check_status(sys::napi_create_string_latin1(env, text.as_ptr().cast(), length, &raw mut value))?;
            if octets.is_none() && fresh.is_empty() && passing.is_empty() {
                return Ok(vec![value]);
            }
            let octets = octets.map(Buffer::from);
            Ok(vec![
                value,
                ToNapiValue::to_napi_value(env, octets)?,
                ToNapiValue::to_napi_value(env, fresh)?,
                ToNapiValue::to_napi_value(env, first)?,
                ToNapiValue::to_napi_value(env, passing)?,
            ])
        }
    }
}

/// Texts that have crossed, by their entry.
#[derive(Default)]
pub(super) struct Dictionary {
    entries: Mutex<Entries>,
    /// Headers may come back.
    returning: bool,
    /// Deliveries with a header that cannot be read.
    unreadable: AtomicU64,
}

#[derive(Default)]
struct Entries {
    tables: HashMap<Box<[u8]>, Table>,
    names: HashMap<Box<str>, u32>,
    count: u32,
    bytes: usize,
    /// Those that have still to cross, and those that are not kept.
    fresh: Vec<String>,
    passing: Vec<String>,
    /// By entry: what came goes back as it was.
    headers: HashMap<u32, Returning>,
    /// How often it was asked for headers since it was looked at last, and how many of its entries were of use.
    asked: usize,
    useful: usize,
    looks: u32,
}

struct Table {
    entry: u32,
    /// All headers could be read.
    complete: bool,
    /// The look since which it was of use.
    look: u32,
}

/// Headers that may go back: their JSON, and properties with them for JSON and for octets, once somebody has sent such.
struct Returning {
    json: String,
    properties: [Option<Arc<Properties>>; 2],
}

impl Dictionary {
    /// Of which headers may come back.
    pub(super) fn returning() -> Self {
        Dictionary { returning: true, ..Dictionary::default() }
    }

    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called on JavaScript's thread, in the order in which JavaScript gets the batches.
    pub(super) fn encode(&self, batch: &[Delivery]) -> BatchArgs {
        let mut entries = self.lock();
        entries.look();
        let first = entries.count;
        let ids: Vec<&str> = batch.iter().map(Delivery::message_id).collect();
        let ascii = batch.iter().all(|delivery| delivery.body.is_ascii()) && ids.iter().all(|id| id.is_ascii());
        let size = batch.iter().map(|delivery| delivery.body.len()).sum::<usize>()
            + ids.iter().map(|id| id.len()).sum::<usize>();
        let numbers = (1 + batch.len() * WORDS) * DIGITS;
        let mut text = Vec::with_capacity(if ascii { numbers + size } else { numbers });
        let mut octets = Vec::with_capacity(if ascii { 0 } else { size });
        write_number(&mut text, u32::try_from(batch.len()).unwrap_or(u32::MAX));
        let mut end = if ascii { numbers } else { 0 };
        for (delivery, id) in batch.iter().zip(&ids) {
            let body = end + delivery.body.len();
            end = body + id.len();
            let (table, complete) = entries.table(delivery, self.returning);
            if !complete {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
            }
            let words = [
                u32::try_from(body).unwrap_or(u32::MAX),
                u32::try_from(end).unwrap_or(u32::MAX),
                table,
                entries.name(delivery.content_type()),
                entries.name(delivery.routing_key()),
                entries.name(delivery.exchange()),
                flags(delivery, ascii),
                delivery.tag as u32,
                (delivery.tag >> 32) as u32,
                delivery.session,
            ];
            words.iter().for_each(|word| write_number(&mut text, *word));
        }
        let out = if ascii { &mut text } else { &mut octets };
        for (delivery, id) in batch.iter().zip(&ids) {
            out.extend_from_slice(&delivery.body);
            out.extend_from_slice(id.as_bytes());
        }
        let (fresh, passing) = (std::mem::take(&mut entries.fresh), std::mem::take(&mut entries.passing));
        BatchArgs { text, octets: (!ascii).then_some(octets), fresh, first, passing }
    }

    /// What goes back with the headers of an entry.
    pub(super) fn properties(&self, entry: u32, octets: bool, tracked: bool) -> Result<Arc<Properties>> {
        let mut entries = self.lock();
        let Some(Returning { json, properties }) = entries.headers.get_mut(&entry) else {
            return Err(Error::from_reason("ERR_INVALID_ARG_VALUE||headers that are not known any more"));
        };
        let slot = &mut properties[usize::from(octets)];
        if let Some(known) = slot {
            return Ok(known.clone());
        }
        let headers = Headers::from_json(json).map_err(to_js)?;
        Ok(slot.insert(Arc::new(outgoing_properties(&headers, octets, tracked))).clone())
    }
}

impl Entries {
    fn is_full(&self) -> bool {
        self.count as usize >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }

    /// A full one is kept as long as it is of use: of more headers than it can hold it knows a part, where one that made
    /// room for each would have lost them all when they come again. Those of connections that are gone are of no use.
    fn look(&mut self) {
        if self.names.len() > MAX_NAMES {
            *self = Entries::default();
        } else if self.asked >= LOOK_AFTER * self.tables.len() {
            if self.is_full() && self.useful < self.tables.len() / 2 {
                *self = Entries::default();
            }
            (self.asked, self.useful) = (0, 0);
            self.looks = self.looks.wrapping_add(1);
        }
    }

    /// The entry of the delivery's headers, and whether all of them could be read.
    fn table(&mut self, delivery: &Delivery, returning: bool) -> (u32, bool) {
        let encoded = delivery.header_table();
        self.asked += 1;
        if let Some(Table { entry, complete, look }) = self.tables.get_mut(encoded) {
            if std::mem::replace(look, self.looks) != self.looks {
                self.useful += 1;
            }
            return (*entry, *complete);
        }
        let (json, complete) = delivery.headers_json();
        if self.is_full() {
            self.passing.push(json);
            return (PASSING + self.passing.len() as u32 - 1, complete);
        }
        // The bytes, and their JSON as text and as an object; for those that may go back also here, and the properties.
        self.bytes += encoded.len() * if returning { 5 } else { 3 };
        let entry = self.count;
        if returning {
            self.headers.insert(entry, Returning { json: json.clone(), properties: [None, None] });
        }
        self.tables.insert(encoded.into(), Table { entry, complete, look: self.looks });
        self.useful += 1;
        (self.add(json), complete)
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(entry) = self.names.get(name) {
            return *entry;
        }
        self.bytes += name.len() * 2;
        self.names.insert(name.into(), self.count);
        self.add(name.to_owned())
    }

    fn add(&mut self, text: String) -> u32 {
        self.fresh.push(text);
        self.count += 1;
        self.count - 1
    }
}

fn write_number(out: &mut Vec<u8>, number: u32) {
    out.extend((0..DIGITS).map(|digit| (number >> (7 * digit)) as u8 & 0x7f));
}

/// Properties of what JavaScript sends.
pub(super) fn outgoing_properties(headers: &Headers, octets: bool, tracked: bool) -> Properties {
    Properties::tracked_if(tracked, if octets { OCTETS } else { JSON }, headers)
}

fn flags(delivery: &Delivery, ascii: bool) -> u32 {
    let text = if ascii || std::str::from_utf8(&delivery.body).is_ok() { UTF8 } else { 0 };
    let redelivered = if delivery.redelivered { REDELIVERED } else { 0 };
    let status = if delivery.route == Route::Status { STATUS } else { 0 };
    let repeated = if delivery.repeated { REPEATED } else { 0 };
    text | redelivered | status | repeated
}

//! Header fields that many connections have in common: a browser's name, its languages, its origin. They are kept once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Bytes of a field from which on sharing saves something: what refers to it takes half of that.
const WORTHWHILE: usize = 32;
/// Fields that are remembered as seen, so that those of which there is one alone are kept where they are.
const SEEN: usize = 4096;
/// So many may be known before it is asked whether anybody still has them.
const FEW: usize = 64;

/// A field of a header table as it is encoded: name, type, and value.
#[derive(Clone)]
pub(crate) struct Field(Arc<Box<[u8]>>);

impl Field {
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The fields that somebody has in common with somebody else. They go with the last who has them.
pub struct HeaderInterner(Mutex<Fields>);

struct Fields {
    /// By their hash.
    common: HashMap<u64, Weak<Box<[u8]>>>,
    /// What was seen last, by its hash.
    seen: Box<[u32]>,
    hasher: RandomState,
    /// What is known of those that have gone is let go of when there are so many.
    tidy_at: usize,
}

impl Default for HeaderInterner {
    fn default() -> Self {
        HeaderInterner(Mutex::new(Fields {
            common: HashMap::new(),
            seen: vec![0; SEEN].into(),
            hasher: RandomState::new(),
            tidy_at: FEW,
        }))
    }
}

impl HeaderInterner {
    /// What stands for this field; None where it takes little room, or was not seen lately.
    pub(crate) fn find(&self, field: &[u8]) -> Option<Field> {
        if field.len() < WORTHWHILE {
            return None;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).find(field)
    }
}

impl Fields {
    fn find(&mut self, field: &[u8]) -> Option<Field> {
        let hash = self.hasher.hash_one(field);
        if let Some(known) = self.common.get(&hash).and_then(Weak::upgrade) {
            // Another with the same hash has to do without.
            return (**known == *field).then_some(Field(known));
        }
        // 0 is what was never written.
        let (place, mark) = (hash as usize % SEEN, (hash >> 32) as u32 | 1);
        if std::mem::replace(&mut self.seen[place], mark) != mark {
            return None;
        }
        if self.common.len() >= self.tidy_at {
            self.common.retain(|_, field| field.strong_count() > 0);
            self.tidy_at = FEW.max(self.common.len() * 2);
        }
        let field = Arc::<Box<[u8]>>::new(field.into());
        self.common.insert(hash, Arc::downgrade(&field));
        Some(Field(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_kept_once_from_the_second_time_on() {
        let fields = HeaderInterner::default();
        let agent = b"\x0auser-agentS\0\0\0\x20a browser with a name of some length";
        assert!(fields.find(agent).is_none());
        let (second, third) = (fields.find(agent).unwrap(), fields.find(agent).unwrap());
        assert!(Arc::ptr_eq(&second.0, &third.0));
        assert_eq!(second.bytes(), agent);
        assert!(fields.find(b"\x04hostS\0\0\0\x01h").is_none() && fields.find(b"\x04hostS\0\0\0\x01h").is_none());
    }

    #[test]
    fn what_nobody_has_any_more_is_let_go_of() {
        let fields = HeaderInterner::default();
        let kept = [fields.find(&[0; WORTHWHILE]), fields.find(&[0; WORTHWHILE])];
        for number in 1..100_000_u32 {
            let field = number.to_be_bytes().repeat(WORTHWHILE);
            assert!(fields.find(&field).is_none() && fields.find(&field).is_some());
        }
        assert!(fields.0.lock().unwrap().common.len() <= FEW);
        assert!(Arc::ptr_eq(&fields.find(&[0; WORTHWHILE]).unwrap().0, &kept[1].as_ref().unwrap().0));
    }
}

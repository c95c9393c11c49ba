//! What has become of the deliveries of one channel, and the fewest frames that tell the broker.

use std::collections::BTreeMap;

use super::frame_reader::{ack_frame, nack_frame};
use crate::broker::Settlement;

/// Tags count from 1 on each channel.
#[derive(Debug, Default)]
pub struct AckTracker {
    /// Everything up to here is settled, and the broker knows.
    told: u64,
    /// Everything up to here is done.
    done: u64,
    /// Settled one by one, above `done`, and not yet told.
    single: BTreeMap<u64, Settlement>,
    /// Told one by one, above `told`.
    told_single: Runs,
}

/// Numbers as runs without a gap, since one delivery that is never settled keeps all those behind it here.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Where the run that holds `number` ends.
    fn end_of(&self, number: u64) -> Option<u64> {
        self.0.range(..=number).next_back().map(|(_, end)| *end).filter(|end| *end >= number)
    }

    fn insert(&mut self, number: u64) {
        if self.end_of(number).is_some() {
            return;
        }
        let end = self.0.remove(&(number + 1)).unwrap_or(number);
        match self.0.range_mut(..number).next_back() {
            Some((_, before)) if *before + 1 == number => *before = end,
            _ => {
                self.0.insert(number, end);
            }
        }
    }

    /// Takes out what begins before `number`, and the run that holds it; answers where that one ends.
    fn remove(&mut self, number: u64) -> Option<u64> {
        let end = self.end_of(number);
        self.0 = self.0.split_off(&(number + 1));
        end
    }
}

impl AckTracker {
    /// Every delivery up to and including `tag` is done.
    pub fn ack(&mut self, tag: u64) {
        self.done = self.done.max(tag);
    }

    pub fn settle(&mut self, tag: u64, settlement: Settlement) {
        if tag > self.told && self.told_single.end_of(tag).is_none() {
            self.single.insert(tag, settlement);
        }
    }

    /// Deliveries that are settled and not told.
    pub fn pending(&self) -> u64 {
        self.done.saturating_sub(self.told) + self.single.len() as u64
    }

    /// Appends the frames for all that has not been told.
    pub fn write(&mut self, channel: u16, out: &mut Vec<u8>) {
        // First what an acknowledgement of many would sweep along.
        let (told_single, told) = (&mut self.told_single, self.told.max(self.done));
        self.single.retain(|tag, settlement| {
            if *settlement != Settlement::Done {
                out.extend_from_slice(&nack_frame(channel, *tag, *settlement == Settlement::Again));
                told_single.insert(*tag);
            }
            *settlement == Settlement::Done && *tag > told
        });
        let mut last = (self.done > self.told).then_some(self.done);
        self.told = self.told.max(self.done);
        loop {
            let next = self.told + 1;
            if self.single.remove(&next).is_some() {
                last = Some(next);
                self.told = next;
            } else if let Some(end) = self.told_single.remove(next) {
                self.told = end;
            } else {
                break;
            }
        }
        if let Some(last) = last {
            out.extend_from_slice(&ack_frame(channel, last, true));
        }
        for (tag, _) in std::mem::take(&mut self.single) {
            out.extend_from_slice(&ack_frame(channel, tag, false));
            self.told_single.insert(tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tag and what is said of it: `<=` many, `=` one, `+` again, `-` dropped.
    fn told(settling: &mut AckTracker) -> Vec<(u64, char)> {
        let mut out = Vec::new();
        settling.write(1, &mut out);
        let frames = out.chunks(21).map(|frame| {
            let tag = u64::from_be_bytes(frame[11..19].try_into().unwrap());
            let what = match (frame[10], frame[19]) {
                (80, 1) => '<',
                (80, _) => '=',
                (_, 2) => '+',
                _ => '-',
            };
            (tag, what)
        });
        frames.collect()
    }

    #[test]
    fn a_run_is_told_at_once_and_what_comes_early_one_by_one() {
        let mut settling = AckTracker::default();
        for tag in [1, 2, 3, 5, 7] {
            settling.settle(tag, Settlement::Done);
        }
        assert_eq!(settling.pending(), 5);
        assert_eq!(told(&mut settling), [(3, '<'), (5, '='), (7, '=')]);
        assert_eq!(settling.pending(), 0);
        settling.settle(4, Settlement::Done);
        // 5 is known to the broker already, so 4 is the last of the run that it waits for.
        assert_eq!(told(&mut settling), [(4, '<')]);
        settling.settle(6, Settlement::Done);
        settling.settle(8, Settlement::Done);
        assert_eq!(told(&mut settling), [(8, '<')]);
        assert!(told(&mut settling).is_empty());
    }

    #[test]
    fn one_that_is_never_settled_costs_nothing_for_those_behind_it() {
        let mut settling = AckTracker::default();
        for tag in (2..1000).chain((1001..2000).rev()) {
            settling.settle(tag, Settlement::Done);
            assert_eq!(told(&mut settling), [(tag, '=')]);
            settling.settle(tag, Settlement::Done);
            assert_eq!(settling.pending(), 0);
        }
        assert_eq!(settling.told_single.0, BTreeMap::from([(2, 999), (1001, 1999)]));
        settling.settle(1000, Settlement::Again);
        assert_eq!(told(&mut settling), [(1000, '+')]);
        settling.settle(1, Settlement::Done);
        assert_eq!(told(&mut settling), [(1, '<')]);
        assert_eq!((settling.told, settling.told_single.0.len()), (1999, 0));
    }

    #[test]
    fn what_is_refused_is_told_before_a_run_sweeps_over_it() {
        let mut settling = AckTracker::default();
        settling.settle(1, Settlement::Done);
        settling.settle(2, Settlement::Again);
        settling.settle(3, Settlement::Drop);
        settling.settle(4, Settlement::Done);
        assert_eq!(told(&mut settling), [(2, '+'), (3, '-'), (4, '<')]);
    }

    #[test]
    fn all_up_to_a_tag_is_one_frame() {
        let mut settling = AckTracker::default();
        settling.ack(10);
        settling.ack(64);
        assert_eq!(settling.pending(), 64);
        assert_eq!(told(&mut settling), [(64, '<')]);
        // Said twice, or late: nothing new.
        settling.ack(64);
        settling.settle(3, Settlement::Done);
        assert!(told(&mut settling).is_empty());
    }
}

//! The rules of a lease, without clock or store.
//!
//! A keeper is told what was read and what became of its writes, and says what
//! to do next. Two clocks are used: the wall clock stands in the document, where
//! others read it; how long *we* are sure is measured from before our write was
//! sent, by a clock that never jumps. A lease of somebody else is over when its
//! moment has passed on our wall clock and either we saw nobody renew it for a
//! whole `ttl`, or that moment is a whole `ttl` ago: clocks that differ by less
//! than `ttl` cannot give two owners.

use std::time::Duration;

use jiff::Timestamp;

use super::{Condition, Lease, LeaseOptions, Stored};
use crate::{Error, ErrorKind, Result};

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// As people and documents have it; may jump.
    pub(super) wall: Timestamp,
    /// Since some start; never jumps.
    pub(super) steady: Duration,
}

/// What to do next to get or keep the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: the lease is ours, and renewed at the latest at this steady time.
    Rest { renew_at: Duration },
    /// Read the document.
    Read,
    /// Write this document under this condition.
    Write { lease: Lease, condition: Condition },
    /// Somebody else has it; look again at this steady time.
    Wait { lease: Lease, look_at: Duration },
}

/// Follows one lease.
#[derive(Debug)]
pub(super) struct Keeper {
    options: LeaseOptions,
    state: State,
    /// A write whose answer may be lost: found in the store, it is ours.
    unsettled: Option<(Lease, Moment)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Absent,
    /// First seen unchanged at `since`, last looked at `looked`.
    Foreign {
        lease: Lease,
        etag: String,
        since: Duration,
        looked: Duration,
    },
    Ours {
        lease: Lease,
        etag: String,
        valid_until: Duration,
        renew_at: Duration,
    },
}

impl Keeper {
    pub(super) fn new(options: LeaseOptions) -> Self {
        Self { options, state: State::Unknown, unsettled: None }
    }

    /// What to do at this moment.
    pub(super) fn next(&self, now: Moment) -> Step {
        match &self.state {
            State::Unknown => Step::Read,
            State::Absent => self.write(1, Condition::Absent, now),
            State::Foreign { lease, etag, since, looked } => {
                if self.is_over(lease, *since, now) {
                    return self.write(lease.generation.saturating_add(1), Condition::Unchanged(etag.clone()), now);
                }
                let look_at = *looked + self.options.ttl / LOOKS;
                if now.steady >= look_at { Step::Read } else { Step::Wait { lease: lease.clone(), look_at } }
            }
            // A renewal whose answer was lost may have changed the tag.
            State::Ours { renew_at, .. } if now.steady >= *renew_at && self.unsettled.is_some() => Step::Read,
            State::Ours { lease, etag, renew_at, .. } if now.steady >= *renew_at => {
                self.write(lease.generation, Condition::Unchanged(etag.clone()), now)
            }
            State::Ours { renew_at, .. } => Step::Rest { renew_at: *renew_at },
        }
    }

    /// Until when, on the steady clock, we may write; `None` when the lease is not
    /// ours.
    pub(super) fn valid_until(&self) -> Option<Duration> {
        match &self.state {
            State::Ours { valid_until, .. } => Some(*valid_until),
            _ => None,
        }
    }

    /// Our lease and its entity tag.
    pub(super) fn ours(&self) -> Option<(&Lease, &str)> {
        match &self.state {
            State::Ours { lease, etag, .. } => Some((lease, etag)),
            _ => None,
        }
    }

    /// The document was read.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) when it is no lease: nobody knows whether
    /// its owner lives.
    pub(super) fn read(&mut self, stored: Option<Stored>, now: Moment) -> Result<()> {
        let unsettled = self.unsettled.take();
        let Some(Stored { body, etag }) = stored else {
            self.state = State::Absent;
            return Ok(());
        };
        let lease = match Lease::parse(&body) {
            Ok(lease) => lease,
            Err(error) => {
                self.state = State::Unknown;
                return Err(error);
            }
        };
        if let Some((_, sent)) = unsettled.filter(|(ours, _)| *ours == lease) {
            self.own(lease, etag, sent);
            return Ok(());
        }
        if matches!(&self.state, State::Ours { etag: ours, .. } if *ours == etag) {
            return Ok(());
        }
        let since = match &self.state {
            State::Foreign { etag: seen, since, .. } if *seen == etag => *since,
            _ => now.steady,
        };
        self.state = State::Foreign { lease, etag, since, looked: now.steady };
        Ok(())
    }

    /// A write was sent at `sent`: its answer is a new entity tag, or that the
    /// condition did not hold.
    pub(super) fn wrote(&mut self, lease: Lease, etag: Option<String>, sent: Moment) {
        match etag {
            Some(etag) => self.own(lease, etag, sent),
            None => {
                self.state = State::Unknown;
                self.unsettled = Some((lease, sent));
            }
        }
    }

    /// A write was sent at `sent` and nobody knows what became of it.
    pub(super) fn lost_answer(&mut self, lease: Lease, sent: Moment) {
        // A lease we have stays ours up to its own end.
        if self.ours().is_none() {
            self.state = State::Unknown;
        }
        self.unsettled = Some((lease, sent));
    }

    /// Forgets the lease: given up, or taken.
    pub(super) fn forget(&mut self) {
        self.state = State::Unknown;
        self.unsettled = None;
    }

    fn own(&mut self, lease: Lease, etag: String, sent: Moment) {
        self.unsettled = None;
        self.state = State::Ours {
            lease,
            etag,
            valid_until: sent.steady + self.options.ttl - self.options.ttl / MARGIN,
            renew_at: sent.steady + self.options.ttl / LOOKS,
        };
    }

    fn write(&self, generation: u64, condition: Condition, now: Moment) -> Step {
        let expires_at = now.wall.checked_add(self.options.ttl).unwrap_or(Timestamp::MAX);
        Step::Write { lease: Lease { generation, expires_at, owner: self.options.owner.clone() }, condition }
    }

    fn is_over(&self, lease: &Lease, since: Duration, now: Moment) -> bool {
        let ttl = self.options.ttl;
        let long_over = lease.expires_at.checked_add(ttl).is_ok_and(|moment| moment < now.wall);
        let unrenewed = now.steady.saturating_sub(since) >= ttl;
        long_over || (lease.expires_at < now.wall && unrenewed)
    }
}

/// The refusal that names the holder.
pub(super) fn held_by(location: &str, lease: &Lease) -> Error {
    let until = lease.expires_at;
    Error::new(ErrorKind::Leased, format!("{location}: lease already held by {} until {until}", lease.holder()))
}

/// How often per `ttl` a lease is renewed, or looked at.
const LOOKS: u32 = 3;
/// The part of `ttl` in which a request under way may still arrive.
const MARGIN: u32 = 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const TTL: u64 = 30;

    fn at(seconds: i64) -> Moment {
        skewed(seconds, 0)
    }

    /// A moment on a machine whose wall clock is ahead.
    fn skewed(seconds: i64, ahead: i64) -> Moment {
        let wall = Timestamp::from_second(1_800_000_000 + seconds + ahead).unwrap();
        Moment { wall, steady: Duration::from_secs(u64::try_from(seconds).unwrap()) }
    }

    fn keeper(owner: &str) -> Keeper {
        Keeper::new(LeaseOptions { owner: owner.to_owned(), ttl: Duration::from_secs(TTL) })
    }

    /// A store with conditions that always answers.
    #[derive(Default)]
    struct Object {
        stored: Option<Stored>,
        version: u32,
    }

    impl Object {
        fn put(&mut self, body: Bytes, condition: &Condition) -> Option<String> {
            let holds = match condition {
                Condition::Absent => self.stored.is_none(),
                Condition::Unchanged(etag) => self.stored.as_ref().is_some_and(|stored| stored.etag == *etag),
            };
            holds.then(|| {
                self.version += 1;
                let etag = format!("\"{}\"", self.version);
                self.stored = Some(Stored { body, etag: etag.clone() });
                etag
            })
        }
    }

    /// Carries out steps until there is nothing to do, as the client does.
    fn settle(keeper: &mut Keeper, object: &mut Object, now: Moment) -> Step {
        for _ in 0..8 {
            match keeper.next(now) {
                Step::Read => keeper.read(object.stored.clone(), now).unwrap(),
                Step::Write { lease, condition } => {
                    let etag = object.put(lease.to_json(), &condition);
                    keeper.wrote(lease, etag, now);
                }
                end => return end,
            }
        }
        panic!("never settles");
    }

    fn holds(keeper: &Keeper, now: Moment) -> bool {
        keeper.valid_until().is_some_and(|until| now.steady < until)
    }

    #[test]
    fn first_comer_gets_the_lease_and_the_second_waits() {
        let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
        assert!(matches!(settle(&mut a, &mut object, at(0)), Step::Rest { .. }));
        let Step::Wait { lease, .. } = settle(&mut b, &mut object, at(1)) else { panic!() };
        assert_eq!((lease.owner.as_str(), lease.generation), ("a", 1));
        assert!(holds(&a, at(1)) && !holds(&b, at(1)));
    }

    #[test]
    fn renewed_lease_is_never_taken() {
        let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
        for second in 0..200 {
            settle(&mut a, &mut object, at(second));
            settle(&mut b, &mut object, at(second));
            assert!(holds(&a, at(second)), "{second}");
            assert!(!holds(&b, at(second)), "{second}");
        }
        assert_eq!(a.ours().unwrap().0.generation, 1);
    }

    #[test]
    fn dead_owner_is_followed_by_the_next_generation() {
        let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
        settle(&mut a, &mut object, at(0));
        let taken = (1..100).find(|&second| {
            settle(&mut b, &mut object, at(second));
            holds(&b, at(second))
        });
        assert_eq!(taken, Some(31), "after a whole ttl without a renewal, and not before");
        assert_eq!(b.ours().unwrap().0.generation, 2);
        assert!(!holds(&a, at(31)));
    }

    #[test]
    fn lease_that_is_long_over_is_taken_at_once() {
        let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
        settle(&mut a, &mut object, at(0));
        settle(&mut b, &mut object, at(61));
        assert!(holds(&b, at(61)));
    }

    #[test]
    fn clocks_less_than_a_ttl_apart_never_give_two_owners() {
        for ahead in -29..=29 {
            let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
            // `a` stops renewing at 50 and comes back at 70.
            for second in 0..150 {
                if !(50..70).contains(&second) {
                    settle(&mut a, &mut object, at(second));
                }
                settle(&mut b, &mut object, skewed(second, ahead));
                let both = holds(&a, at(second)) && holds(&b, at(second));
                assert!(!both, "clock ahead by {ahead}, second {second}");
            }
        }
    }

    #[test]
    fn lost_answer_is_settled_by_reading() {
        let (mut object, mut a) = (Object::default(), keeper("a"));
        a.read(None, at(0)).unwrap();
        let Step::Write { lease, condition } = a.next(at(0)) else { panic!() };
        object.put(lease.to_json(), &condition).unwrap();
        // The repeated request met the object of the first.
        a.wrote(lease, None, at(0));
        settle(&mut a, &mut object, at(1));
        assert!(holds(&a, at(1)));
        assert_eq!(a.valid_until(), Some(Duration::from_secs(27)), "counted from when the write was sent");
    }

    #[test]
    fn lost_renewal_leaves_the_lease_valid_to_its_end_only() {
        let (mut object, mut a) = (Object::default(), keeper("a"));
        settle(&mut a, &mut object, at(0));
        let Step::Write { lease, .. } = a.next(at(10)) else { panic!() };
        a.lost_answer(lease, at(10));
        assert!(holds(&a, at(26)) && !holds(&a, at(27)));
        assert!(matches!(settle(&mut a, &mut object, at(40)), Step::Rest { .. }), "nobody took it meanwhile");
        assert_eq!(a.ours().unwrap().0.generation, 1);
    }

    #[test]
    fn renewal_that_succeeded_without_an_answer_is_recognised() {
        let (mut object, mut a) = (Object::default(), keeper("a"));
        settle(&mut a, &mut object, at(0));
        let Step::Write { lease, condition } = a.next(at(10)) else { panic!() };
        object.put(lease.to_json(), &condition).unwrap();
        a.lost_answer(lease, at(10));
        assert!(matches!(settle(&mut a, &mut object, at(15)), Step::Rest { .. }));
        assert_eq!(a.valid_until(), Some(Duration::from_secs(37)), "counted from when the renewal was sent");
    }

    #[test]
    fn taken_lease_is_noticed_at_the_next_renewal() {
        let (mut object, mut a, mut b) = (Object::default(), keeper("a"), keeper("b"));
        settle(&mut a, &mut object, at(0));
        settle(&mut b, &mut object, at(100));
        let Step::Wait { lease, .. } = settle(&mut a, &mut object, at(101)) else { panic!() };
        assert_eq!(lease.owner, "b");
        assert!(!holds(&a, at(101)));
    }

    #[test]
    fn released_lease_is_taken_at_the_next_look() {
        let (mut object, mut b) = (Object::default(), keeper("b"));
        settle(&mut keeper("a"), &mut object, at(0));
        settle(&mut b, &mut object, at(1));
        object.stored = None;
        assert!(matches!(settle(&mut b, &mut object, at(2)), Step::Wait { .. }), "it does not look all the time");
        assert!(matches!(settle(&mut b, &mut object, at(11)), Step::Rest { .. }));
    }

    #[test]
    fn unreadable_document_is_nobodys_to_take() {
        let stored = Stored { body: Bytes::from_static(b"{"), etag: "\"1\"".to_owned() };
        let mut a = keeper("a");
        assert_eq!(a.read(Some(stored), at(0)).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(a.next(at(1000)), Step::Read);
    }
}

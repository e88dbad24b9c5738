//! One block on its way to the bucket: which step comes next. Knows no disk, bucket or clock.
//!
//! ## Order
//! ```text
//! Probe --there--------------------------------------------> CheckAll(0..n) -> Record -> done
//!   | not there        (too old: Assign first)                   |
//!   `-> Put(0) -> Check(0) -> ... -> Put(n) -> Check(n)          | one is missing or differs:
//!          ^                             `-> Publish             | Put it again
//!          |                                    `-> CheckPublished -> CheckAll(0..n)
//!          `---------------------------------------------------------'
//! ```
//! `Publish` (`meta.json`) comes after every other object was stored *and* seen; the block counts
//! as shipped after all of them were seen once more. Thanos' readers take a block with `meta.json`
//! for complete, so this order is what keeps half a block out of every query.
//!
//! ## Crash
//! After any step the next run begins at `Probe` and ends with one visible copy.

use thiserror::Error;

use crate::bucket::Stored;
use crate::rt::step;

/// Objects put again within one attempt before the bucket is left alone for a while.
const REPAIRS_MAX: u32 = 3;

/// What is done next. The closed list of points between which an upload can be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Look for the copy's `meta.json`.
    Probe,
    /// Take a new ULID for the copy and note it in the state file.
    Assign,
    /// Upload a file.
    Put(usize),
    /// See that it is there with its size and tag.
    Check(usize),
    /// Upload `meta.json`.
    Publish,
    /// Read `meta.json` back and compare.
    CheckPublished,
    /// See once more that a file is there.
    CheckAll(usize),
    /// Note in the state file that the block is shipped.
    Record,
    /// Nothing: the block is in the bucket.
    Done,
}

impl Step {
    /// Says that it is done, by its name in the list of all steps.
    pub(super) fn done(self) {
        step::done(match self {
            Self::Probe => step::Step::ShipProbed,
            Self::Assign => step::Step::ShipAssigned,
            Self::Put(_) => step::Step::ShipPut,
            Self::Check(_) => step::Step::ShipChecked,
            Self::Publish => step::Step::ShipPublished,
            Self::CheckPublished => step::Step::ShipPublishedChecked,
            Self::CheckAll(_) => step::Step::ShipCheckedAgain,
            Self::Record => step::Step::ShipRecorded,
            Self::Done => return,
        });
    }
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was done.
    Done,
    /// There is no such object, or it is broken.
    Absent,
    /// There is none, and its ULID is too old to begin an upload under it.
    AbsentAndOld,
    /// It is there and ours.
    Present,
    /// It is there like this.
    Stored(Stored),
}

/// The bucket does not keep what it confirms.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("object {file} of the block was stored {repairs} times and was not there as stored")]
pub struct Unfaithful {
    /// Its place in the list of files.
    pub file: usize,
    /// How often it was stored.
    pub repairs: u32,
}

/// The upload of one block, over several attempts.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    /// Sizes of the files, in order.
    sizes: Vec<u64>,
    /// What the bucket confirmed for each, in this process's life.
    stored: Vec<Option<Stored>>,
    step: Step,
    repairs: u32,
}

impl Upload {
    pub(super) fn new(sizes: Vec<u64>) -> Self {
        let stored = vec![None; sizes.len()];
        Self { sizes, stored, step: Step::Probe, repairs: 0 }
    }

    /// Begins another attempt. What the bucket confirmed is checked, not sent again.
    pub(super) fn again(&mut self) {
        self.step = Step::Probe;
        self.repairs = 0;
    }

    /// What to do now.
    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// Takes the result of [`Upload::step`] and goes on.
    pub(super) fn answer(&mut self, answer: Answer) -> Result<(), Unfaithful> {
        self.step = match (self.step, answer) {
            (Step::Probe | Step::CheckPublished, Answer::Present) => self.check_all(0),
            (Step::Probe, Answer::AbsentAndOld) => Step::Assign,
            (Step::Probe, _) => self.put(0),
            (Step::Assign, _) => {
                self.stored.fill(None);
                self.put(0)
            }
            (Step::Put(i), Answer::Stored(stored)) => {
                self.keep(i, Some(stored));
                Step::Check(i)
            }
            (Step::Check(i), Answer::Stored(stored)) if self.is_as_expected(i, &stored) => {
                self.put(i + 1)
            }
            (Step::CheckAll(i), Answer::Stored(stored)) if self.is_as_expected(i, &stored) => {
                self.check_all(i + 1)
            }
            (Step::Put(i) | Step::Check(i) | Step::CheckAll(i), _) => {
                self.keep(i, None);
                self.repair(i)?;
                Step::Put(i)
            }
            (Step::Publish, _) => Step::CheckPublished,
            (Step::CheckPublished, _) => {
                self.repair(self.sizes.len())?;
                Step::Publish
            }
            (Step::Record | Step::Done, _) => Step::Done,
        };
        Ok(())
    }

    /// The step for file `i`: put it, or check it if the bucket confirmed it before.
    fn put(&self, i: usize) -> Step {
        match self.stored.get(i) {
            None => Step::Publish,
            Some(None) => Step::Put(i),
            Some(Some(_)) => Step::Check(i),
        }
    }

    fn check_all(&self, i: usize) -> Step {
        if i < self.sizes.len() { Step::CheckAll(i) } else { Step::Record }
    }

    fn keep(&mut self, i: usize, stored: Option<Stored>) {
        if let Some(kept) = self.stored.get_mut(i) {
            *kept = stored;
        }
    }

    /// By its size on the local disk and, if this process stored it, by the tag it got.
    fn is_as_expected(&self, i: usize, seen: &Stored) -> bool {
        let confirmed = self.stored.get(i).and_then(Option::as_ref);
        let right_size = self.sizes.get(i) == Some(&seen.size_bytes);
        right_size && confirmed.is_none_or(|c| c.agrees(seen))
    }

    fn repair(&mut self, file: usize) -> Result<(), Unfaithful> {
        self.repairs += 1;
        if self.repairs > REPAIRS_MAX {
            return Err(Unfaithful { file, repairs: self.repairs });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bucket that tells the truth about three files of 10, 11 and 12 bytes, and forgets or
    /// spoils an object when told to.
    #[derive(Default)]
    struct Twin {
        objects: [Option<Stored>; 3],
        published: bool,
        puts: u32,
    }

    impl Twin {
        fn answer(&mut self, step: Step) -> Answer {
            match step {
                Step::Probe | Step::CheckPublished if self.published => Answer::Present,
                Step::Probe | Step::CheckPublished => Answer::Absent,
                Step::Put(i) => {
                    self.puts += 1;
                    let tag = Some(format!("tag-{}", self.puts));
                    let stored = Stored { size_bytes: 10 + i as u64, tag };
                    self.objects[i] = Some(stored.clone());
                    Answer::Stored(stored)
                }
                Step::Check(i) | Step::CheckAll(i) => match &self.objects[i] {
                    None => Answer::Absent,
                    Some(stored) => Answer::Stored(stored.clone()),
                },
                Step::Publish => {
                    self.published = true;
                    Answer::Done
                }
                Step::Assign | Step::Record | Step::Done => Answer::Done,
            }
        }

        fn is_whole(&self) -> bool {
            let right = |(i, o): (usize, &Option<Stored>)| {
                o.as_ref().is_some_and(|s| s.size_bytes == 10 + i as u64)
            };
            self.objects.iter().enumerate().all(right)
        }
    }

    fn upload() -> Upload {
        Upload::new(vec![10, 11, 12])
    }

    #[test]
    fn the_steps_of_a_calm_day() {
        use Step::{Check, CheckAll, CheckPublished, Probe, Publish, Put, Record};
        let (mut upload, mut twin, mut steps) = (upload(), Twin::default(), Vec::new());
        while upload.step() != Step::Done {
            steps.push(upload.step());
            let answer = twin.answer(upload.step());
            upload.answer(answer).expect("a faithful bucket");
        }
        let want = [
            [Probe, Put(0), Check(0), Put(1), Check(1), Put(2), Check(2)].as_slice(),
            &[Publish, CheckPublished, CheckAll(0), CheckAll(1), CheckAll(2), Record],
        ];
        assert_eq!(steps, want.concat());
    }

    #[test]
    fn a_new_ulid_sends_everything_again() {
        let (mut upload, mut twin) = (upload(), Twin::default());
        while upload.step() != Step::Publish {
            let answer = twin.answer(upload.step());
            upload.answer(answer).expect("a faithful bucket");
        }
        upload.again();
        upload.answer(Answer::AbsentAndOld).expect("an answer");
        assert_eq!(upload.step(), Step::Assign);
        upload.answer(Answer::Done).expect("an answer");
        assert_eq!(upload.step(), Step::Put(0));
    }

    #[test]
    fn a_bucket_that_forgets_is_left_alone() {
        let mut upload = upload();
        upload.answer(Answer::Absent).expect("an answer");
        let mut result = Ok(());
        for _ in 0..=REPAIRS_MAX {
            let stored = Stored { size_bytes: 10, tag: None };
            upload.answer(Answer::Stored(stored)).expect("stored");
            result = upload.answer(Answer::Absent);
        }
        assert_eq!(result, Err(Unfaithful { file: 0, repairs: 4 }));
    }

    proptest! {
        /// Whatever is lost or spoilt before the last look, and wherever the process dies: the
        /// upload ends, and then the copy is visible and whole.
        #[test]
        fn any_cut_and_any_loss_ends_whole(
            events in proptest::collection::vec((0usize..40, 0usize..5), 0..12),
        ) {
            let (mut upload, mut twin) = (upload(), Twin::default());
            for at in 0..500 {
                let step = upload.step();
                let last_look = matches!(step, Step::CheckAll(_) | Step::Record | Step::Done);
                for (_, what) in events.iter().filter(|(when, _)| *when == at) {
                    match *what {
                        4 => upload = Upload::new(vec![10, 11, 12]),
                        _ if last_look => {}
                        3 => twin.objects[1] =
                            Some(Stored { size_bytes: 1, tag: Some("other".into()) }),
                        i => twin.objects[i] = None,
                    }
                }
                let step = upload.step();
                if step == Step::Done {
                    break;
                }
                let answer = twin.answer(step);
                if upload.answer(answer).is_err() {
                    upload.again();
                }
            }
            prop_assert_eq!(upload.step(), Step::Done);
            prop_assert!(twin.published && twin.is_whole(), "{:?}", twin.objects);
        }
    }
}

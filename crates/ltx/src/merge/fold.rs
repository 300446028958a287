//! More inputs than may be open at once.
//!
//! Neighbouring inputs are merged into a temporary file, which then stands for
//! them. Its pages are verified once more when it is read back; those of its
//! inputs are verified before it counts. The result is the same to the byte as that
//! of one big merge: a part leaves out only what the final size leaves out.

use std::io::{Read, SeekFrom};

use super::input::{Input, Slot};
use super::{Merge, MergeLimits, MergeOptions, merged_header};
use crate::decoder::Role;
use crate::error::{Error, Result};
use crate::page_order::PageOrder;
use crate::spill::SpillFile;
use crate::{Encoder, FileName, Warning};

/// Opens all inputs, merging some of them first where there are too many.
pub(super) fn open<R: Read>(
    mut slots: Vec<Slot<R>>,
    options: MergeOptions<'_>,
) -> Result<(Vec<Input<R>>, Vec<Warning>)> {
    let mut warnings = Vec::new();
    let too_many = options.limits.filter(|limits| slots.len() > fan_in(limits));
    // Its header says which pages survive, so the last file comes before the parts.
    let mut last = None;
    if let Some(limits) = too_many
        && let Some(slot) = slots.pop()
    {
        let input = slot.open(Role::Input, options.names)?;
        let folder = Folder { limits, names: options.names, commit: input.header().commit };
        slots = folder.fold(slots, &mut warnings)?;
        last = Some(input);
    }
    let count = slots.len();
    let mut inputs = Vec::with_capacity(count + 1);
    for (position, slot) in slots.into_iter().enumerate() {
        let role = if last.is_none() && position + 1 == count { Role::Input } else { Role::EarlierInput };
        inputs.push(slot.open(role, options.names)?);
    }
    inputs.extend(last);
    Ok((inputs, warnings))
}

struct Folder<'a> {
    limits: &'a MergeLimits,
    names: &'a [FileName],
    /// Of the last input of all.
    commit: u32,
}

impl Folder<'_> {
    /// Brings `slots` down to one less than the fan-in; the last input is open
    /// beside them.
    ///
    /// The newest are taken first, and no more than needed: a burst of small files
    /// is cheap to write twice, a base image before it is not.
    fn fold<R: Read>(&self, mut slots: Vec<Slot<R>>, warnings: &mut Vec<Warning>) -> Result<Vec<Slot<R>>> {
        let most = fan_in(self.limits) - 1;
        let mut end = slots.len();
        while slots.len() > most {
            // At the left end: parts merge with parts from here on.
            if end < 2 {
                end = slots.len();
            }
            let count = most.min(slots.len() - most + 1).min(end);
            let start = end - count;
            let group: Vec<Slot<R>> = slots.drain(start..end).collect();
            slots.insert(start, Slot::folded(self.merge_part(group, warnings)?));
            end = start;
        }
        Ok(slots)
    }

    /// Merges a group into a temporary file.
    fn merge_part<R: Read>(&self, group: Vec<Slot<R>>, warnings: &mut Vec<Warning>) -> Result<Box<dyn SpillFile>> {
        let opened = group.into_iter().map(|slot| slot.open(Role::EarlierInput, self.names));
        let inputs = opened.collect::<Result<Vec<_>>>()?;
        let mut header = merged_header(&inputs)?;
        header.commit = self.commit;
        let order = PageOrder::allowing_holes(&header);
        let merge = Merge { spill: Some(self.limits.spill.clone()), ..Merge::of_opened(inputs, header.clone(), order) };
        let file = self.limits.spill.create()?;
        let encoder = Encoder::new(file, header)?.allow_holes();
        let (mut file, summary) = merge.start()?.copy_to(encoder).map_err(|err| match err {
            Error::Write(err) => Error::Spill(err),
            err => err,
        })?;
        warnings.extend(summary.warnings);
        file.seek(SeekFrom::Start(0)).map_err(Error::Spill)?;
        Ok(file)
    }
}

/// A part needs two inputs, beside the last that is open all the time.
fn fan_in(limits: &MergeLimits) -> usize {
    limits.fan_in.max(3)
}

//! The final label set of a series: what a Querier sees and sorts by.

use crate::model::Labels;

/// Puts into `out` (cleared first) the labels `own` with `external` laid over them and the names in
/// `without` removed. `own` must be sorted with unique names; so is the result.
///
/// Where a name is in both, the external label wins: it says where the data lives, and a sender
/// must not forge it. `without` comes last, so it also removes external labels.
pub fn final_labels<'a>(
    own: impl Iterator<Item = (&'a str, &'a str)>,
    external: &'a Labels,
    without: &[String],
    out: &mut Vec<(&'a str, &'a str)>,
) {
    out.clear();
    let mut over = external.iter().peekable();
    for pair in own {
        while let Some(before) = over.next_if(|(name, _)| *name < pair.0) {
            out.push(before);
        }
        out.push(over.next_if(|(name, _)| *name == pair.0).unwrap_or(pair));
    }
    out.extend(over);
    if !without.is_empty() {
        out.retain(|(name, _)| !without.iter().any(|w| w == name));
    }
    debug_assert!(out.windows(2).all(|p| p[0].0 < p[1].0), "sorted, unique: {out:?}");
}

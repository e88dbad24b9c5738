//! How many entries the lists of a request have, before a message is built of them.
//!
//! A matcher of two bytes becomes one of 56, and a number of one byte one of four, so a message
//! within [`REQUEST_BYTES_MAX`](crate::store_api::REQUEST_BYTES_MAX) could take gigabytes, and
//! seconds. So its bytes are gone through first, in one walk that ends at the first list that is
//! too long, or after [`FIELDS_MAX`] fields of whatever kind. What passes is built in less than a
//! millisecond, but for the copy of its texts.
//!
//! Only the fields that can multiply stand in the tables; what is unknown is stepped over.

use prost::Message;
use tidegate_proto::thanos;
use tonic::Status;

use crate::decode::protobuf::{Cursor, RECORD};
use crate::query::MATCHERS_MAX;

/// Most fields of a request, those of inner messages included. All lists of the tables together
/// have fewer.
const FIELDS_MAX: usize = 16_384;
/// Most names to remove: they are looked through for every label of every series. A Querier sends
/// its `--query.replica-label` flags, a few.
const WITHOUT_MAX: usize = 128;
/// Most names in a list of those of one `by` or `without` of a query. `shard_info.labels` are
/// looked through for every series; the lists of `query_hints` are not read.
const GROUPING_MAX: usize = 1000;
/// Most entries of `aggregates`: there are six kinds.
const AGGREGATES_MAX: usize = 128;

/// A request whose size is known before it is built.
pub(super) trait Bounded: Message + Default + 'static {
    /// Its name, for errors.
    const NAME: &'static str;
    /// Its fields that hold several entries or a message.
    const FIELDS: &'static [Field];
}

/// A field that holds several entries or a message.
#[derive(Debug)]
pub(super) struct Field {
    number: u32,
    name: &'static str,
    /// Most entries.
    max: usize,
    entry: Entry,
}

/// What an entry is.
#[derive(Debug)]
enum Entry {
    Text,
    /// Several may be packed in one record, each of a byte or more.
    Number,
    Message(&'static [Field]),
}

const fn texts(number: u32, name: &'static str, max: usize) -> Field {
    Field { number, name, max, entry: Entry::Text }
}

/// A message that is there once.
const fn one(number: u32, name: &'static str, fields: &'static [Field]) -> Field {
    Field { number, name, max: 1, entry: Entry::Message(fields) }
}

const fn matchers(number: u32) -> Field {
    Field { number, name: "matchers", max: MATCHERS_MAX, entry: Entry::Message(&[]) }
}

const fn without(number: u32) -> Field {
    texts(number, "without_replica_labels", WITHOUT_MAX)
}

impl Bounded for thanos::SeriesRequest {
    const NAME: &'static str = "SeriesRequest";
    const FIELDS: &'static [Field] = &[
        matchers(3),
        Field { number: 5, name: "aggregates", max: AGGREGATES_MAX, entry: Entry::Number },
        one(9, "hints", &[]),
        one(
            12,
            "query_hints",
            &[
                one(2, "query_hints.func", &[]),
                one(
                    4,
                    "query_hints.grouping",
                    &[texts(3, "query_hints.grouping.labels", GROUPING_MAX)],
                ),
                one(5, "query_hints.range", &[]),
                texts(6, "query_hints.projection_labels", GROUPING_MAX),
            ],
        ),
        one(13, "shard_info", &[texts(4, "shard_info.labels", GROUPING_MAX)]),
        without(14),
    ];
}

impl Bounded for thanos::LabelNamesRequest {
    const NAME: &'static str = "LabelNamesRequest";
    const FIELDS: &'static [Field] = &[one(5, "hints", &[]), matchers(6), without(7)];
}

impl Bounded for thanos::LabelValuesRequest {
    const NAME: &'static str = "LabelValuesRequest";
    const FIELDS: &'static [Field] = &[one(6, "hints", &[]), matchers(7), without(8)];
}

/// Refuses a request whose lists are too long, and one that is no message.
pub(super) fn check<M: Bounded>(bytes: &[u8]) -> Result<(), Status> {
    walk(Cursor::new(bytes), M::FIELDS, &mut 0)
        .map_err(|refusal| Status::invalid_argument(refusal.in_words(M::NAME)))
}

/// Why a request is refused.
#[derive(Debug)]
enum Refusal {
    List(&'static Field),
    Fields,
    Damaged(crate::decode::Error),
}

impl Refusal {
    fn in_words(&self, message: &str) -> String {
        match self {
            Self::List(Field { name, max, .. }) => {
                format!("{name} has more than {max} entries; at most {max} are taken")
            }
            Self::Fields => {
                format!(
                    "{message} has more than {FIELDS_MAX} fields; at most {FIELDS_MAX} are taken"
                )
            }
            Self::Damaged(error) => format!("{message}: {error}"),
        }
    }
}

impl From<crate::decode::Error> for Refusal {
    fn from(error: crate::decode::Error) -> Self {
        Self::Damaged(error)
    }
}

/// Counts what is in one message. Goes no deeper than the tables.
fn walk(mut cursor: Cursor<'_>, fields: &'static [Field], seen: &mut usize) -> Result<(), Refusal> {
    let mut counts = vec![0; fields.len()];
    while !cursor.is_at_end() {
        *seen += 1;
        if *seen > FIELDS_MAX {
            return Err(Refusal::Fields);
        }
        let key = cursor.key()?;
        let known = fields.iter().zip(&mut counts).find(|(field, _)| field.number == key >> 3);
        let Some((field, count)) = known else {
            cursor.skip(key, &[])?;
            continue;
        };
        if key & 7 == RECORD {
            let record = cursor.record()?;
            match field.entry {
                Entry::Text => *count += 1,
                Entry::Number => *count += record.len(),
                Entry::Message(inner) => {
                    *count += 1;
                    walk(cursor.within(record), inner, seen)?;
                }
            }
        } else {
            cursor.skip(key, &[])?;
            *count += 1;
        }
        if *count > field.max {
            return Err(Refusal::List(field));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidegate_proto::thanos::{LabelMatcher, QueryHints, SeriesRequest, ShardInfo};
    use tonic::Code;

    use super::*;

    fn refused<M: Bounded>(bytes: &[u8]) -> String {
        let status = check::<M>(bytes).expect_err("too many");
        assert_eq!(status.code(), Code::InvalidArgument);
        status.message().to_owned()
    }

    fn names(count: usize) -> Vec<String> {
        vec!["n".to_string(); count]
    }

    fn a_lot(count: usize) -> Vec<LabelMatcher> {
        let (name, value) = ("a".to_string(), "x".to_string());
        vec![LabelMatcher { name, value, r#type: 3 }; count]
    }

    #[test]
    fn lists_without_end_are_refused_by_name() {
        let sharded = |count| {
            let info = ShardInfo { total_shards: 2, labels: names(count), ..<_>::default() };
            SeriesRequest { shard_info: Some(info), ..<_>::default() }
        };
        let without = |n| SeriesRequest { without_replica_labels: names(n), ..<_>::default() };
        let matching = |n| SeriesRequest { matchers: a_lot(n), ..<_>::default() };
        let hinted = |n| {
            let grouping = Some(thanos::Grouping { by: true, labels: names(n) });
            SeriesRequest {
                query_hints: Some(QueryHints { grouping, ..<_>::default() }),
                ..<_>::default()
            }
        };
        let projected = |n| {
            let hints = QueryHints { projection_labels: names(n), ..<_>::default() };
            SeriesRequest { query_hints: Some(hints), ..<_>::default() }
        };
        let summed = |n| SeriesRequest { aggregates: vec![1; n], ..<_>::default() };
        for (make, max, name) in [
            (&without as &dyn Fn(usize) -> SeriesRequest, 128, "without_replica_labels"),
            (&sharded, 1000, "shard_info.labels"),
            (&matching, 1000, "matchers"),
            (&hinted, 1000, "query_hints.grouping.labels"),
            (&projected, 1000, "query_hints.projection_labels"),
            (&summed, 128, "aggregates"),
        ] {
            check::<SeriesRequest>(&make(max).encode_to_vec()).expect("not too many");
            let why = format!("{name} has more than {max} entries; at most {max} are taken");
            assert_eq!(refused::<SeriesRequest>(&make(max + 1).encode_to_vec()), why);
        }
    }

    #[test]
    fn the_lists_of_labels_are_bounded_as_well() {
        let of = |matchers, without| thanos::LabelNamesRequest {
            matchers: a_lot(matchers),
            without_replica_labels: names(without),
            ..<_>::default()
        };
        let values = |matchers, without| thanos::LabelValuesRequest {
            matchers: a_lot(matchers),
            without_replica_labels: names(without),
            ..<_>::default()
        };
        check::<thanos::LabelNamesRequest>(&of(1000, 128).encode_to_vec()).expect("not too many");
        check::<thanos::LabelValuesRequest>(&values(1000, 128).encode_to_vec()).expect("as here");
        for (matchers, without, name) in [(1001, 0, "matchers"), (0, 129, "without_replica_labels")]
        {
            let many = of(matchers, without).encode_to_vec();
            assert!(refused::<thanos::LabelNamesRequest>(&many).starts_with(name));
            let many = values(matchers, without).encode_to_vec();
            assert!(refused::<thanos::LabelValuesRequest>(&many).starts_with(name));
        }
    }

    #[test]
    fn what_is_no_list_may_not_repeat_for_ever_either() {
        let fields = "SeriesRequest has more than 16384 fields; at most 16384 are taken";
        let record = |number: u8, inner: &[u8]| {
            let mut out = vec![number << 3 | 2];
            prost::encoding::encode_varint(inner.len() as u64, &mut out);
            out.extend_from_slice(inner);
            out
        };
        let many = [0x08, 0].repeat(FIELDS_MAX + 1);
        assert_eq!(refused::<SeriesRequest>(&many), fields, "min_time");
        for number in [3, 9, 12, 13] {
            let inside = record(number, &many);
            assert_eq!(refused::<SeriesRequest>(&inside), fields, "field {number}");
        }
        assert_eq!(refused::<SeriesRequest>(&[0x78, 0].repeat(FIELDS_MAX + 1)), fields, "limit");
        let twice = record(13, &[]).repeat(2);
        let why = "shard_info has more than 1 entries; at most 1 are taken";
        assert_eq!(refused::<SeriesRequest>(&twice), why);
        // Numbers one by one, as proto2 writes them.
        assert!(refused::<SeriesRequest>(&[0x28, 1].repeat(129)).starts_with("aggregates has"));
    }

    #[test]
    fn damage_is_named() {
        let why = refused::<SeriesRequest>(&[0x1a, 9, 0]);
        assert!(why.starts_with("SeriesRequest: byte 2: "), "{why}");
    }
}

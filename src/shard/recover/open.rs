//! Opens what a shard has read to be written on.

use std::io;
use std::rc::Rc;

use crate::rt::storage::Storage;
use crate::shard::Settings;
use crate::shard::recover::discover::Dir;
use crate::shard::recover::replay::Found;
use crate::shard::wal::series_file::{self, SeriesFile};
use crate::shard::wal::spare::Spares;
use crate::shard::wal::writer::{Identity, Log, LogOptions};

/// Log, series file and spare segments, ready for the next block.
pub(super) type Opened<S> = (Log<S>, SeriesFile<S>, Rc<Spares<S>>);

/// Opens the shard's own directory, whose series file has `told` records of series.
pub(super) async fn open<S: Storage>(
    storage: &S,
    own: Dir,
    settings: &Settings,
    told: u64,
) -> io::Result<Opened<S>> {
    let Dir { log, series, .. } = own;
    let current = settings.current()?;
    let (shard, generation) = (settings.shard, current.number);
    let identity = Identity { shard, generation, node: settings.node };
    let (size, wanted) = (settings.segment_bytes, settings.spare_segments);
    let spares = Rc::new(Spares::open(storage.clone(), &log.path, size, wanted).await?);
    let last = log.segments.last().copied();
    let options = LogOptions {
        segment_bytes: settings.segment_bytes,
        epochs: settings.epochs,
        append_to_last: last.is_some_and(|last| last.generation == current.number),
        next_number: last.map_or(1, |last| last.number + 1),
    };
    let now = log.found.into_iter().filter(|f| f.generation == current.number);
    let found = now.map(Found::into_closed).collect();
    let place = (storage.clone(), &*log.path);
    let log = Log::open(place, identity.clone(), options, spares.clone(), &log.at, found).await?;
    let options = LogOptions {
        segment_bytes: series_file::segment_bytes(settings.segment_bytes),
        epochs: settings.epochs,
        append_to_last: true,
        next_number: series.segments.last().map_or(1, |last| last.number + 1),
    };
    let found = series.found.into_iter().map(Found::into_closed).collect();
    let place = (storage.clone(), &*series.path);
    let series = SeriesFile::open(place, identity, options, &series.at, found, told).await?;
    Ok((log, series, spares))
}

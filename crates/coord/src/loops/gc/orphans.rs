//! Objects nobody knows: what interrupted writes, failed compactions, older index versions and lost
//! answers leave behind.
//!
//! The store is asked for its time, then for its objects, which gives their ages; only after a read
//! barrier behind the listing is the metadata asked: whoever was to make an object known has had the
//! whole tolerance.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use quorate_meta::plan::gc::{Known, Object, known};
use quorate_meta::{CollectionId, SegmentId, State, Ts};

use super::name::{FOLDERS, Name};
use super::{Done, Gc, SLICE, ms, store_failed};
use crate::error::Result;

/// Objects judged behind one barrier.
const PAGE: usize = 1000;
/// Orphans named in an answer.
const NAMED_MAX: usize = 10_000;

/// What a look over the whole object store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Objects nobody knows, beyond their tolerance; the first ten thousand.
    pub orphans: Vec<String>,
    /// Objects nobody knows that are too young.
    pub young: u64,
    /// Objects with names nobody understands.
    pub unreadable: u64,
}

struct Candidate {
    object: crate::outbound::objects::Object,
    name: Name,
    is_old: bool,
}

/// Deletes orphans.
pub(super) async fn collect(gc: &Gc<'_>, done: &mut Done) -> Result<()> {
    let mut scan = Scan::default();
    let now_ms = gc.objects.now_ms().await.map_err(store_failed)?;
    for folder in FOLDERS {
        each_page(gc, (folder, now_ms), false, &mut scan, Some(done)).await?;
    }
    if scan.unreadable > 0 {
        tracing::info!(
            count = scan.unreadable,
            "objects with names nobody understands are kept"
        );
    }
    Ok(())
}

/// Looks for orphans, those too young included, and deletes none.
pub(super) async fn look(gc: &Gc<'_>) -> Result<Scan> {
    let mut scan = Scan::default();
    let now_ms = gc.objects.now_ms().await.map_err(store_failed)?;
    for folder in FOLDERS {
        each_page(gc, (folder, now_ms), true, &mut scan, None).await?;
    }
    Ok(scan)
}

/// Goes over a folder, with ages as of a time of the store's own clock: this machine's may be ahead,
/// and all that is young would be taken for old (found by the simulation). Deletes when there is
/// somewhere to count it.
async fn each_page(
    gc: &Gc<'_>,
    (folder, now_ms): (&str, u64),
    young_too: bool,
    scan: &mut Scan,
    mut done: Option<&mut Done>,
) -> Result<()> {
    let tolerance_ms = ms(gc.coordinator.config().policy.gc.missing_tolerance);
    let mut list = gc.objects.list(folder);
    loop {
        let mut page = Vec::new();
        let mut ended = false;
        while page.len() < PAGE && !ended {
            let Some(object) = list.next().await else {
                ended = true;
                continue;
            };
            let object = object.map_err(store_failed)?;
            let is_old = now_ms.saturating_sub(object.modified_ms) > tolerance_ms;
            match Name::of(&object.path) {
                Name::Unreadable => scan.unreadable += 1,
                name if is_old || young_too => page.push(Candidate {
                    object,
                    name,
                    is_old,
                }),
                _ => {}
            }
        }
        let unknown = judge(gc, page).await?;
        let (old, young): (Vec<Candidate>, Vec<Candidate>) =
            unknown.into_iter().partition(|object| object.is_old);
        scan.young += young.len() as u64;
        match &mut done {
            Some(done) => {
                for slice in old.chunks(SLICE) {
                    let paths = unchanged(gc, slice).await?;
                    gc.delete(&paths, &mut done.orphans).await?;
                }
            }
            None => {
                let room = NAMED_MAX.saturating_sub(scan.orphans.len());
                let paths = old.into_iter().map(|candidate| candidate.object.path);
                scan.orphans.extend(paths.take(room));
            }
        }
        if ended {
            return Ok(());
        }
    }
}

/// Those that were not written again since they were listed: a writer that was held up for longer
/// than the tolerance may do so before it makes them known.
async fn unchanged(gc: &Gc<'_>, slice: &[Candidate]) -> Result<Vec<String>> {
    let looking: Vec<_> = slice
        .iter()
        .map(|candidate| {
            let (objects, object) = (gc.objects.clone(), candidate.object.clone());
            async move { (objects.modified_ms(&object.path).await, object) }
        })
        .collect();
    let concurrency = gc.coordinator.config().policy.gc.concurrency;
    let mut looked_at = futures::stream::iter(looking).buffer_unordered(concurrency);
    let mut paths = Vec::with_capacity(slice.len());
    // S3 lists milliseconds, but answers whole seconds for one object. What was written again was
    // so a tolerance later.
    let seconds = |ms: u64| ms / 1000;
    while let Some((modified, object)) = looked_at.next().await {
        if modified.map_err(store_failed)?.map(seconds) == Some(seconds(object.modified_ms)) {
            paths.push(object.path);
        }
    }
    Ok(paths)
}

/// Those of listed objects nobody knows, by the metadata as it is behind a barrier.
async fn judge(gc: &Gc<'_>, page: Vec<Candidate>) -> Result<Vec<Candidate>> {
    if page.is_empty() {
        return Ok(page);
    }
    let now = gc.confirm().await?;
    let mut unknown = Vec::new();
    let mut to_compare: BTreeMap<SegmentId, Vec<Candidate>> = BTreeMap::new();
    {
        let state = gc.coordinator.state();
        for candidate in page {
            match candidate.name {
                Name::HalfWritten => unknown.push(candidate),
                Name::Unreadable => {}
                Name::Known { segment, .. } if is_paused(&state, &candidate.name, segment, now) => {
                }
                Name::Known {
                    object, segment, ..
                } => match known(&state, &object) {
                    Known::Yes => {}
                    Known::SegmentUnknown => unknown.push(candidate),
                    Known::AskSegment => to_compare.entry(segment).or_default().push(candidate),
                },
            }
        }
    }
    for (segment, candidates) in to_compare {
        // The lock is held while the disk is read: a log file that moves to another segment is in
        // one of the two.
        let state = gc.coordinator.state();
        let files: BTreeSet<i64> = match state.segment(segment) {
            Some(_) => {
                let cold = gc.coordinator.cold(segment)?;
                cold.files.iter().map(|file| file.log_id).collect()
            }
            None => BTreeSet::new(),
        };
        unknown.extend(candidates.into_iter().filter(|candidate| {
            let Name::Known { object, .. } = &candidate.name else {
                return false;
            };
            match (known(&state, object), object) {
                (Known::Yes, _) => false,
                (Known::SegmentUnknown, _) => true,
                (Known::AskSegment, Object::Log { log_id, .. }) => !files.contains(log_id),
                (Known::AskSegment, Object::Index { .. }) => false,
            }
        }));
    }
    Ok(unknown)
}

/// Whether collection is paused for the collection an object belongs to.
fn is_paused(state: &State, name: &Name, segment: SegmentId, now: Ts) -> bool {
    let told = match name {
        Name::Known { collection, .. } => *collection,
        _ => None,
    };
    let collection = told
        .map(CollectionId)
        .or_else(|| state.segment(segment).map(|segment| segment.collection));
    collection.is_some_and(|collection| state.gc_pause(collection, now).is_some())
}

//! A reader as a query node is one: it asks what to load, asks for the files, and reads the objects.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_coord::CoordError;
use quorate_meta::Reason;
use quorate_rpc::proto::milvus::data::{
    FieldBinlog, GetRecoveryInfoRequestV2, GetSegmentInfoRequest, SegmentInfo, SegmentLevel,
};
use tokio::time::Instant;

use super::check::view::Seen;
use super::client::{Outcome, Repeat, Session};
use super::compactor::without;
use super::node_work::FIELDS;
use super::objects::{Content, Piece, Store, rows};

/// A reader that is done so soon never misses an object.
const GUARANTEED: Duration = Duration::from_millis(2500);
const PATIENCE: Duration = Duration::from_secs(2);
/// Objects read in one go.
const READ_AHEAD: usize = 64;

/// One reader at work.
struct Reading<'a> {
    session: &'a Session,
    store: &'a Store,
    began: Instant,
    reads: usize,
}

/// Reads a collection as it is now, by channel; `None`: nobody answered in time.
pub(super) async fn read(session: &Session, collection: i64) -> Option<Vec<Seen>> {
    let store = session.cluster.store.clone();
    let mut reading = Reading {
        session,
        store: &store,
        began: Instant::now(),
        reads: 0,
    };
    reading.all(collection).await
}

impl Reading<'_> {
    /// Something is missing: wrong, unless the reader was too slow.
    fn misses(&self, what: &str) {
        let took = self.began.elapsed();
        let world = &self.session.cluster.world;
        if took < GUARANTEED {
            world.violation(format!("a reader misses {what}, {took:?} after it began"));
        } else {
            world.note(format_args!("a slow reader misses {what}"));
        }
    }

    async fn all(&mut self, collection: i64) -> Option<Vec<Seen>> {
        let world = self.session.cluster.world.clone();
        let asked_at = world.now_ns();
        let request = GetRecoveryInfoRequestV2 {
            collection_id: collection,
            ..GetRecoveryInfoRequestV2::default()
        };
        let answer = self
            .session
            .ask("recovery", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get_recovery_info_v2(request).await }
            })
            .await;
        let channels = answer.ok()?.value.channels;
        let mut seen = Vec::new();
        let all: Vec<i64> = channels
            .iter()
            .flat_map(|channel| {
                let flushed = channel.flushed_segment_ids.iter();
                flushed
                    .chain(&channel.unflushed_segment_ids)
                    .chain(&channel.level_zero_segment_ids)
            })
            .copied()
            .collect();
        let infos = self.infos(all).await?;
        for channel in channels {
            let of = |ids: &[i64]| -> Vec<&SegmentInfo> {
                ids.iter().filter_map(|id| infos.get(id)).collect()
            };
            let mut data = of(&channel.flushed_segment_ids);
            data.extend(of(&channel.unflushed_segment_ids));
            let deletes = of(&channel.level_zero_segment_ids);
            seen.push(Seen {
                channel: channel.channel_name.clone(),
                asked_at,
                answered_at: 0,
                ordinals: self.channel(&data, &deletes).await?,
            });
        }
        let answered_at = world.now_ns();
        for channel in &mut seen {
            channel.answered_at = answered_at;
        }
        Some(seen)
    }

    async fn infos(&self, ids: Vec<i64>) -> Option<BTreeMap<i64, SegmentInfo>> {
        if ids.is_empty() {
            return Some(BTreeMap::new());
        }
        let request = GetSegmentInfoRequest {
            segment_i_ds: ids,
            include_un_healthy: true,
            ..GetSegmentInfoRequest::default()
        };
        let answer = self
            .session
            .ask("segment info", PATIENCE, Repeat::Always, |c| {
                let request = request.clone();
                async move { c.get_segment_info(request).await }
            })
            .await;
        match answer {
            Outcome::Ok(served) => {
                let infos = served.value.infos.into_iter();
                Some(infos.map(|info| (info.id, info)).collect())
            }
            Outcome::Refused(CoordError::Rejected(Reason::SegmentNotFound, detail))
            | Outcome::RefusedLate(CoordError::Rejected(Reason::SegmentNotFound, detail)) => {
                self.misses(&detail);
                None
            }
            _ => None,
        }
    }

    async fn channel(
        &mut self,
        data: &[&SegmentInfo],
        level_zero: &[&SegmentInfo],
    ) -> Option<Vec<u64>> {
        let mut everywhere: BTreeMap<i64, BTreeMap<u64, u64>> = BTreeMap::new();
        for segment in level_zero {
            let deletes = self.deletes(&segment.deltalogs).await?;
            let known = everywhere.entry(segment.partition_id).or_default();
            join(known, &deletes);
        }
        let mut ordinals = Vec::new();
        for segment in data {
            let mut deletes = self.deletes(&segment.deltalogs).await?;
            for partition in [segment.partition_id, -1] {
                if let Some(more) = everywhere.get(&partition) {
                    join(&mut deletes, more);
                }
            }
            let pieces = self.rows(segment).await?;
            for piece in without(&pieces, &deletes) {
                ordinals.extend(piece.from..piece.to);
            }
        }
        Some(ordinals)
    }

    async fn rows(&mut self, segment: &SegmentInfo) -> Option<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        let world = self.session.cluster.world.clone();
        for field in FIELDS {
            let mut found = Vec::new();
            let logs = segment.binlogs.iter().filter(|logs| logs.field_id == field);
            for log in logs.flat_map(|logs| &logs.binlogs) {
                match self.object(&log.log_path).await? {
                    Content::Rows(rows) => found.extend(rows.iter().cloned()),
                    other => world.violation(format!("{} is {other:?}", log.log_path)),
                }
            }
            if field != FIELDS[0] && found != pieces {
                world.violation(format!("the fields of segment {} differ", segment.id));
            }
            pieces = found;
        }
        if i64::try_from(rows(&pieces)) != Ok(segment.num_of_rows)
            && segment.level != i32::from(SegmentLevel::L0)
        {
            world.violation(format!(
                "segment {} counts {} rows, its objects hold {}",
                segment.id,
                segment.num_of_rows,
                rows(&pieces)
            ));
        }
        Some(pieces)
    }

    async fn deletes(&mut self, fields: &[FieldBinlog]) -> Option<BTreeMap<u64, u64>> {
        let mut deletes = BTreeMap::new();
        for log in fields.iter().flat_map(|logs| &logs.binlogs) {
            match self.object(&log.log_path).await? {
                Content::Deletes(found) => join(&mut deletes, &found.iter().copied().collect()),
                other => {
                    let world = &self.session.cluster.world;
                    world.violation(format!("{} is {other:?}", log.log_path));
                }
            }
        }
        Some(deletes)
    }

    async fn object(&mut self, path: &str) -> Option<Content> {
        self.reads += 1;
        if self.reads.is_multiple_of(READ_AHEAD) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let content = self.store.peek(path);
        if content.is_none() {
            self.misses(path);
        }
        content
    }
}

fn join(into: &mut BTreeMap<u64, u64>, more: &BTreeMap<u64, u64>) {
    for (ordinal, ts) in more {
        let highest = into.entry(*ordinal).or_insert(0);
        *highest = (*ts).max(*highest);
    }
}

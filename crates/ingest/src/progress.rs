//! How far an ingest is: counted by its workers, shown by a bar or by lines.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::time::Instant;

/// How far an ingest is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestProgress {
    /// Rows of the file; 0 until it has been read once.
    pub rows_total: u64,
    /// Rows that data nodes have taken from this run, each counted once.
    pub rows_accepted: u64,
    /// Rows known to be stored, by this run or an earlier one.
    pub rows_durable: u64,
    /// Rows that were stored before this run.
    pub rows_already_stored: u64,
    /// Rows that were accepted once more, because whoever took them first lost them.
    pub rows_sent_again: u64,
    /// Bytes of all inserts sent, the repeated ones too.
    pub bytes_sent: u64,
    /// Longest time that passed on any one channel without an accepted batch while the channel had
    /// rows waiting; waiting for the rate limit does not count.
    pub longest_gap: Duration,
    /// How often the coordinator's leader was seen to change.
    pub leader_changes: u64,
    /// How often a channel was seen to get another owner.
    pub owner_changes: u64,
}

impl IngestProgress {
    /// Rows that need not be sent any more.
    pub fn rows_done(&self) -> u64 {
        self.rows_already_stored + self.rows_accepted
    }
}

/// Collects what the workers see.
#[derive(Debug)]
pub(crate) struct Tracker {
    sender: watch::Sender<IngestProgress>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Stored rows of each channel.
    durable: Vec<u64>,
    leader: Option<String>,
}

impl Tracker {
    pub(crate) fn new(sender: watch::Sender<IngestProgress>) -> Tracker {
        Tracker {
            sender,
            seen: Mutex::default(),
        }
    }

    pub(crate) fn begin(&self, rows_total: u64, channels: usize) {
        self.seen().durable = vec![0; channels];
        self.sender.send_modify(|p| p.rows_total = rows_total);
    }

    pub(crate) fn already_stored(&self, rows: u64) {
        self.sender.send_modify(|p| p.rows_already_stored += rows);
    }

    pub(crate) fn accepted(&self, rows_first: u64, rows_again: u64) {
        self.sender.send_modify(|p| {
            p.rows_accepted += rows_first;
            p.rows_sent_again += rows_again;
        });
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.sender.send_modify(|p| p.bytes_sent += bytes);
    }

    /// A channel has so many rows stored; fewer than known before means an older answer.
    pub(crate) fn durable(&self, channel: usize, rows: u64) {
        let mut seen = self.seen();
        let known = &mut seen.durable[channel];
        if *known < rows {
            *known = rows;
            let sum = seen.durable.iter().sum();
            self.sender.send_modify(|p| p.rows_durable = sum);
        }
    }

    pub(crate) fn gap(&self, gap: Duration) {
        self.sender.send_if_modified(|p| {
            let longer = gap > p.longest_gap;
            p.longest_gap = p.longest_gap.max(gap);
            longer
        });
    }

    pub(crate) fn owner_changed(&self) {
        self.sender.send_modify(|p| p.owner_changes += 1);
    }

    pub(crate) fn leader(&self, leader: Option<String>) {
        let Some(leader) = leader else { return };
        let mut seen = self.seen();
        let changed = seen.leader.as_ref().is_some_and(|known| *known != leader);
        seen.leader = Some(leader);
        if changed {
            self.sender.send_modify(|p| p.leader_changes += 1);
        }
    }

    pub(crate) fn snapshot(&self) -> IngestProgress {
        self.sender.borrow().clone()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a line is written when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows the progress on stderr until the ingest ends: a bar with rows, rows/s and the time left,
/// or plain lines when stderr is no terminal.
pub async fn bar(mut progress: watch::Receiver<IngestProgress>) {
    if std::io::stderr().is_terminal() {
        draw(&mut progress).await;
    } else {
        lines(&mut progress).await;
    }
}

async fn draw(progress: &mut watch::Receiver<IngestProgress>) {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{spinner} {bar:30} {human_pos}/{human_len} rows  {per_sec}  {eta} left  {msg}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut known_before = false;
    loop {
        let now = progress.borrow_and_update().clone();
        bar.set_length(now.rows_total);
        // What was there before must not count into the rate.
        if !known_before && now.rows_already_stored > 0 {
            known_before = true;
            bar.set_position(now.rows_already_stored);
            bar.reset_eta();
        }
        bar.set_position(now.rows_done());
        bar.set_message(match now.rows_total {
            0 => "reading the file".to_owned(),
            _ => format!("{} stored", now.rows_durable),
        });
        if progress.changed().await.is_err() {
            break;
        }
    }
    bar.finish();
}

async fn lines(progress: &mut watch::Receiver<IngestProgress>) {
    let started = Instant::now();
    let mut next = started + LINE_EVERY;
    loop {
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(next) => {
                next += LINE_EVERY;
                eprintln!("{}", line(&progress.borrow_and_update(), started.elapsed()));
            }
        }
    }
    eprintln!("{}", line(&progress.borrow(), started.elapsed()));
}

/// One line about the progress after some time.
fn line(now: &IngestProgress, elapsed: Duration) -> String {
    if now.rows_total == 0 {
        return format!("reading the file, {:.0} s", elapsed.as_secs_f64());
    }
    let rate = now.rows_accepted as f64 / elapsed.as_secs_f64().max(0.001);
    let left = now.rows_total.saturating_sub(now.rows_done()) as f64;
    let eta = match rate > 0.0 {
        true => format!("{:.0} s left", left / rate),
        false => "time left unknown".to_owned(),
    };
    format!(
        "{}/{} rows, {} stored, {rate:.0} rows/s, {eta}",
        now.rows_done(),
        now.rows_total,
        now.rows_durable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let mut now = IngestProgress::default();
        assert_eq!(line(&now, Duration::from_secs(3)), "reading the file, 3 s");
        now.rows_total = 1000;
        now.rows_already_stored = 500;
        assert!(line(&now, Duration::from_secs(3)).contains("time left unknown"));
        now.rows_accepted = 250;
        now.rows_durable = 600;
        assert_eq!(
            line(&now, Duration::from_secs(5)),
            "750/1000 rows, 600 stored, 50 rows/s, 5 s left"
        );
    }

    #[test]
    fn stored_rows_never_go_back_and_a_leader_change_is_counted_once() {
        let tracker = Tracker::new(watch::Sender::new(IngestProgress::default()));
        tracker.begin(10, 2);
        tracker.durable(0, 5);
        tracker.durable(1, 2);
        tracker.durable(0, 3);
        for leader in [None, Some("a"), Some("a"), None, Some("b"), Some("b")] {
            tracker.leader(leader.map(str::to_owned));
        }
        let now = tracker.snapshot();
        assert_eq!((now.rows_durable, now.leader_changes), (7, 1));
    }
}

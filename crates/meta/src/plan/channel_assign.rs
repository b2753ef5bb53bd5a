//! Which data node gets which channel (`semantics.md` §5).

/// A channel in the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub channel: String,
    /// The node that had it last; 0 = none.
    pub last_node: i64,
}

/// A live data node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its id.
    pub node: i64,
    /// Channels it has.
    pub channels: usize,
}

/// Gives each waiting channel to the node with the fewest channels, never to the one that just had
/// it unless it is the only one; ties go to the smaller id. Nothing when there are no nodes.
pub fn assign(waiting: &[Waiting], workers: &[Worker]) -> Vec<(String, i64)> {
    let mut workers = workers.to_vec();
    let mut decisions = Vec::new();
    for channel in waiting {
        let only = workers.len() == 1;
        let chosen = workers
            .iter_mut()
            .filter(|worker| only || worker.node != channel.last_node)
            .min_by_key(|worker| (worker.channels, worker.node));
        if let Some(worker) = chosen {
            worker.channels += 1;
            decisions.push((channel.channel.clone(), worker.node));
        }
    }
    decisions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(name: &str, last_node: i64) -> Waiting {
        Waiting {
            channel: name.into(),
            last_node,
        }
    }

    #[test]
    fn channels_spread_fewest_first() {
        let workers = [
            Worker {
                node: 1,
                channels: 2,
            },
            Worker {
                node: 2,
                channels: 0,
            },
        ];
        let names: Vec<_> = ["a", "b", "c", "d"].iter().map(|n| waiting(n, 0)).collect();
        let nodes: Vec<_> = assign(&names, &workers)
            .into_iter()
            .map(|(_, n)| n)
            .collect();
        assert_eq!(nodes, [2, 2, 1, 2]);
    }

    #[test]
    fn the_node_that_just_had_it_gets_it_only_when_alone() {
        let two = [
            Worker {
                node: 1,
                channels: 0,
            },
            Worker {
                node: 2,
                channels: 9,
            },
        ];
        assert_eq!(assign(&[waiting("a", 1)], &two), [("a".to_string(), 2)]);
        assert_eq!(
            assign(&[waiting("a", 1)], &two[..1]),
            [("a".to_string(), 1)]
        );
        assert_eq!(assign(&[waiting("a", 1)], &[]), []);
    }
}

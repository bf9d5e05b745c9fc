//! Every query that a list may make, and how it is to be planned: each database checks that it is.

use super::{Lead, Query, candidates, few, few_of_newest, page};
use crate::{
    job::{JobId, OperationName, State, Timestamp},
    ledger::{Cursor, JobFilter},
};

/// A query that [`list`] may make, the index that is to lead it, whether all of that index is its range,
/// whether it reads nothing else before the filter is met, and how often something is sorted.
pub(in crate::ledger) struct Planned {
    pub(in crate::ledger) query: Query,
    pub(in crate::ledger) index: &'static str,
    pub(in crate::ledger) all: bool,
    pub(in crate::ledger) covers: bool,
    pub(in crate::ledger) sorts: usize,
}

/// Every query there is: each combination of filters with each lead that it allows.
pub(in crate::ledger) fn every_query(columns: &str) -> Vec<Planned> {
    let time = Timestamp::from_micros(1);
    let mut planned = Vec::new();
    for bits in 0..512_u32 {
        let set = |bit: u32| bits & (1 << bit) != 0;
        let text = |bit: u32| set(bit).then(|| "x".to_owned());
        let operation = OperationName::PutObject;
        let filter = JobFilter {
            state: set(0).then_some(State::Completed),
            lane: set(1).then_some(operation.lane()),
            operation: set(2).then_some(operation),
            bucket: text(3),
            key_prefix: text(4),
            code: text(5),
            since: set(6).then_some(time),
            until: set(7).then_some(time),
            limit: 50,
            after: set(8).then(|| Cursor {
                enqueued_at: time,
                id: JobId::parse("x").unwrap(),
            }),
        };
        let candidates = candidates(&filter);
        let alone = candidates.is_empty();
        let with_time = candidates.into_iter().chain([vec![Lead::Time]]);
        for (position, lead) in with_time
            .enumerate()
            .flat_map(|(position, leads)| leads.into_iter().map(move |lead| (position, lead)))
        {
            let (index, sorts) = match &lead {
                Lead::Time => ("jobs_by_time", 0),
                Lead::State(_) => ("jobs_by_state", 0),
                Lead::Operation(_) => ("jobs_by_operation", 0),
                Lead::Bucket(_) => ("jobs_by_bucket", 0),
                Lead::Code(_) => ("jobs_by_code", 0),
                Lead::KeyPrefix(_) => ("jobs_by_key", 1),
            };
            let bounded =
                filter.since.is_some() || filter.until.is_some() || filter.after.is_some();
            planned.push(Planned {
                query: page(&filter, &lead, columns),
                index,
                all: lead == Lead::Time && !bounded,
                covers: position == 0 && (lead != Lead::Time || alone),
                // The page itself, of a few rows, and the keys of a prefix.
                sorts: 1 + sorts,
            });
            let walks = matches!(lead, Lead::Time | Lead::Bucket(_) | Lead::Operation(_));
            if filter.key_prefix.is_some() && walks {
                planned.push(Planned {
                    query: few_of_newest(&filter, &lead),
                    index,
                    all: lead == Lead::Time && !bounded,
                    covers: false,
                    sorts: 0,
                });
            }
            if lead != Lead::Time {
                planned.push(Planned {
                    query: few(&filter, &lead),
                    index,
                    all: false,
                    covers: true,
                    sorts: 0,
                });
            }
        }
    }
    planned
}

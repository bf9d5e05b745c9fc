//! What a schedule is about: faults that matter only together are seldom drawn together.

use super::{
    chance::Chance,
    fault::{Fault, QueueOf, Weather},
    plan::Knobs,
};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Theme {
    /// Anything.
    Free,
    /// Many jobs in hand, and few run at a time, slowly.
    Backlog,
    /// Copies are needed while a queue takes none.
    Copies,
    /// A circuit that opens and closes, with calls that end long after.
    HalfOpen,
    /// Workers die while the ledger is unwell.
    Ledger,
}

impl Theme {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let free = Self::Free;
        chance.pick(&[
            free,
            free,
            free,
            free,
            Self::Backlog,
            Self::Copies,
            Self::HalfOpen,
            Self::Ledger,
        ])
    }

    pub(super) fn tune(self, knobs: &mut Knobs, chance: &mut Chance) {
        match self {
            Self::Free | Self::Copies | Self::Ledger => {}
            Self::Backlog => {
                (knobs.concurrency, knobs.batch_keys) = (chance.between(1, 2), 1);
                (knobs.prefetch, knobs.job_deadline) = (32, 60_000);
            }
            Self::HalfOpen => {
                knobs.failure_threshold = chance.between(1, 2);
                (knobs.open_base, knobs.open_max) = (1_000, 10_000);
                knobs.half_open_permits = chance.between(1, 2);
                (knobs.concurrency, knobs.prefetch) = (chance.pick(&[4, 8]), 32);
            }
        }
    }

    /// Faults of its own, within the first seconds.
    pub(super) fn faults(self, knobs: &Knobs, chance: &mut Chance) -> Vec<Fault> {
        let lane = chance.pick(&knobs.lanes);
        let store = |weather, permille, lasts| Fault::Store {
            weather,
            lane: Some(lane),
            permille,
            lasts,
        };
        let lasts = chance.between(20_000, 240_000);
        match self {
            Self::Free => Vec::new(),
            Self::Backlog => {
                let weather = chance.pick(&[Weather::IsSlow, Weather::IsSlow, Weather::IsSilent]);
                let mut faults = vec![store(weather, 1000, lasts)];
                if chance.permille(500) {
                    faults.push(Fault::WorkerDrains { worker: 0 });
                }
                faults
            }
            Self::Copies => {
                let weather = [Weather::Denies, Weather::Fails, Weather::Conflicts];
                let queue = chance.pick(&[QueueOf::FirstRetry, QueueOf::Dead]);
                let stuck = match chance.between(0, 2) {
                    0 => Fault::Alarm { lasts },
                    1 => Fault::FullQueue { lane, queue, lasts },
                    _ => Fault::MissingQueue { lane, queue, lasts },
                };
                vec![store(chance.pick(&weather), 1000, lasts), stuck]
            }
            Self::HalfOpen => {
                let ill = [Weather::Fails, Weather::Throttles, Weather::Resets];
                vec![
                    store(Weather::IsSilent, 400, lasts / 2),
                    store(chance.pick(&ill), 700, lasts),
                ]
            }
            Self::Ledger => {
                let worker = chance.between(0, 2) as usize;
                let unwell = match chance.between(0, 3) {
                    0 => Fault::LedgerDown { lasts },
                    1 => Fault::CommitsDown { lasts },
                    2 => Fault::LedgerSilent { lasts: lasts / 4 },
                    _ => Fault::LedgerAnswersLost { count: 4 },
                };
                vec![unwell, Fault::WorkerKilled { worker }, Fault::WorkerStarts]
            }
        }
    }
}

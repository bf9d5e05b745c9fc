//! A metric with labels: one child per label set.
//!
//! The library's own vectors find a child by a hash over the label values, put end to end: `delete_object` +
//! `sales` and `delete_objects` + `ales` would be one series. Here the values themselves are the key.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, PoisonError, RwLock},
};

use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntGauge, Opts,
    core::{Collector, Desc, Describer, Metric},
    proto::{MetricFamily, MetricType},
};

/// A kind of metric that a family can hold.
pub trait Child: Metric + Clone + 'static {
    /// Its `# TYPE`.
    const TYPE: MetricType;

    /// One child. `opts` has the labels; `buckets` are upper bounds, empty for what has none.
    fn build(opts: Opts, buckets: &[f64]) -> Result<Self, Error>;
}

impl Child for IntCounter {
    const TYPE: MetricType = MetricType::COUNTER;

    fn build(opts: Opts, _buckets: &[f64]) -> Result<Self, Error> {
        Self::with_opts(opts)
    }
}

impl Child for IntGauge {
    const TYPE: MetricType = MetricType::GAUGE;

    fn build(opts: Opts, _buckets: &[f64]) -> Result<Self, Error> {
        Self::with_opts(opts)
    }
}

impl Child for Histogram {
    const TYPE: MetricType = MetricType::HISTOGRAM;

    fn build(opts: Opts, buckets: &[f64]) -> Result<Self, Error> {
        Self::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))
    }
}

/// All children of one name, by the values of its `N` labels. Clones share the children.
pub struct Family<M, const N: usize>(Arc<Shared<M, N>>);

struct Shared<M, const N: usize> {
    /// Name and help, without labels.
    opts: Opts,
    desc: Desc,
    labels: [&'static str; N],
    buckets: &'static [f64],
    /// Nothing awaits under it.
    children: RwLock<Children<M, N>>,
}

/// By the hash of the values. The list is there for values whose hashes collide.
type Children<M, const N: usize> = HashMap<u64, Vec<Labelled<M, N>>, BuildHasherDefault<Prehashed>>;

struct Labelled<M, const N: usize> {
    values: [Box<str>; N],
    metric: M,
}

impl<M: Child, const N: usize> Family<M, N> {
    /// An empty family. Fails when a name is none that Prometheus takes.
    pub(super) fn try_new(
        opts: Opts,
        labels: [&'static str; N],
        buckets: &'static [f64],
    ) -> Result<Self, Error> {
        let names = labels.map(str::to_owned).to_vec();
        let desc = opts.clone().variable_labels(names).describe()?;
        // So that no later child can fail.
        M::build(with_labels(&opts, &labels, &labels), buckets)?;
        Ok(Self(Arc::new(Shared {
            opts,
            desc,
            labels,
            buckets,
            children: RwLock::default(),
        })))
    }

    /// The child with these values, in the order of the labels; made at 0 when there is none yet.
    pub fn with_label_values<V: AsRef<str>>(&self, values: &[V; N]) -> M {
        let values = values.each_ref().map(AsRef::as_ref);
        let shared = &*self.0;
        let hash = hash(&values);
        let children = shared.children.read();
        let children = children.unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = find(&children, hash, &values) {
            return metric.clone();
        }
        drop(children);
        let children = shared.children.write();
        let mut children = children.unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been quicker.
        if let Some(metric) = find(&children, hash, &values) {
            return metric.clone();
        }
        let opts = with_labels(&shared.opts, &shared.labels, &values);
        let metric = M::build(opts, shared.buckets).expect("names were checked in try_new");
        children.entry(hash).or_default().push(Labelled {
            values: values.map(Box::from),
            metric: metric.clone(),
        });
        metric
    }
}

/// A quick hash, eight bytes at a time; lengths keep the values apart. It need not withstand anybody: what it finds is
/// compared, and label sets are few.
fn hash<const N: usize>(values: &[&str; N]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = 0u64;
    let mut mix = |word: u64| hash = (hash.rotate_left(26) ^ word).wrapping_mul(ODD);
    for value in values {
        let (words, rest) = value.as_bytes().as_chunks::<8>();
        for word in words {
            mix(u64::from_le_bytes(*word));
        }
        let rest = rest
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        mix(rest ^ (value.len() as u64) << 56);
    }
    hash ^ hash >> 32
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

fn find<'a, M, const N: usize>(
    children: &'a Children<M, N>,
    hash: u64,
    values: &[&str; N],
) -> Option<&'a M> {
    let same = |child: &&Labelled<M, N>| child.values.iter().zip(values).all(|(a, b)| **a == **b);
    let child = children.get(&hash)?.iter().find(same)?;
    Some(&child.metric)
}

fn with_labels<const N: usize>(opts: &Opts, names: &[&str; N], values: &[&str; N]) -> Opts {
    names
        .iter()
        .zip(values)
        .fold(opts.clone(), |opts, (name, value)| {
            opts.const_label(*name, *value)
        })
}

impl<M: Child, const N: usize> Collector for Family<M, N> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let children = self.0.children.read();
        let children = children.unwrap_or_else(PoisonError::into_inner);
        let mut family = MetricFamily::default();
        family.set_name(self.0.desc.fq_name.clone());
        family.set_help(self.0.desc.help.clone());
        family.set_field_type(M::TYPE);
        let metrics = children.values().flatten();
        family.set_metric(metrics.map(|child| child.metric.metric()).collect());
        vec![family]
    }
}

impl<M, const N: usize> Clone for Family<M, N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M, const N: usize> fmt::Debug for Family<M, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Family").field(&self.0.desc.fq_name).finish()
    }
}

//! What happens to a population in real fleets: hosts are replaced, Prometheus runs in pairs, tenants share a server.
//!
//! [`Fleet`] is a [`Population`] with any of these. Like the population it is a pure function of series and scrape.

use crate::population::{Population, SERIES_PER_HOST, Workload, mix};
use anyhow::ensure;

/// What is asked of a fleet; the default is a plain population.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Series of one replica.
    pub series: usize,
    /// Pairs added to every series.
    pub labels: Vec<(String, String)>,
    /// Share of the series that is replaced by new ones in each scrape, 0 to 1.
    pub churn: f64,
    /// Senders that scrape the same targets; their series differ in the label `replica`.
    pub replicas: usize,
    /// Tenants that share the series.
    pub tenants: usize,
    /// Milliseconds between scrapes; replicas scrape at different moments of it.
    pub step: i64,
}

impl Shape {
    /// A plain population.
    pub fn plain(series: usize, step: i64) -> Self {
        Self {
            series,
            labels: Vec::new(),
            churn: 0.0,
            replicas: 1,
            tenants: 1,
            step,
        }
    }
}

/// A population that lives.
pub struct Fleet {
    population: Population,
    shape: Shape,
    /// Scrapes after which a host is replaced; 0 for never.
    life: u64,
}

impl Fleet {
    /// A fleet of that shape.
    ///
    /// # Errors
    /// Says which number makes no sense.
    pub fn new(shape: Shape) -> anyhow::Result<Self> {
        ensure!(
            (0.0..=1.0).contains(&shape.churn),
            "churn is a share of the series, from 0 to 100 %"
        );
        ensure!(shape.replicas >= 1, "there is at least one replica");
        ensure!(
            (1..=shape.series.max(1)).contains(&shape.tenants),
            "{} tenants cannot share {} series",
            shape.tenants,
            shape.series
        );
        let life = if shape.churn > 0.0 {
            (1.0 / shape.churn).round() as u64
        } else {
            0
        };
        Ok(Self {
            population: Population::new(shape.series, shape.labels.clone()),
            shape,
            life,
        })
    }

    /// Series that exist at some time within so many scrapes.
    pub fn series_ever(&self, scrapes: u64) -> u64 {
        let last = scrapes.saturating_sub(1);
        (0..self.series())
            .map(|series| 1 + self.generation(series, last) - self.generation(series, 0))
            .sum()
    }

    /// Tenants that share the series.
    pub fn tenants(&self) -> usize {
        self.shape.tenants
    }

    fn replica(&self, series: usize) -> usize {
        series / self.shape.series.max(1)
    }

    fn base(&self, series: usize) -> usize {
        series % self.shape.series.max(1)
    }
}

impl Workload for Fleet {
    fn series(&self) -> usize {
        self.shape.series * self.shape.replicas
    }

    fn labels(&self, series: usize, generation: u64) -> Vec<(String, String)> {
        let mut labels = self.population.labels(self.base(series), generation);
        if generation > 0 {
            // A replaced host is the same service at another address.
            for (name, value) in &mut labels {
                if name == "instance" {
                    *value = format!("g{generation}-{value}");
                }
            }
        }
        if self.shape.replicas > 1 {
            labels.retain(|(name, _)| name != "replica");
            labels.push(("replica".to_owned(), format!("prometheus-{}", self.replica(series))));
            labels.sort();
        }
        labels
    }

    #[inline]
    fn value(&self, series: usize, scrape: u64, timestamp: i64) -> f64 {
        self.population.value(self.base(series), scrape, timestamp)
    }

    /// All series of a host are replaced together, and hosts one after the other.
    #[inline]
    fn generation(&self, series: usize, scrape: u64) -> u64 {
        if self.life == 0 {
            return 0;
        }
        let host = (self.base(series) / SERIES_PER_HOST) as u64;
        (scrape + mix(host) % self.life) / self.life
    }

    #[inline]
    fn delay(&self, series: usize) -> i64 {
        self.replica(series) as i64 * self.shape.step / self.shape.replicas as i64
    }

    #[inline]
    fn tenant(&self, series: usize) -> Option<usize> {
        let per_tenant = self.shape.series.div_ceil(self.shape.tenants);
        (self.shape.tenants > 1).then(|| self.base(series) / per_tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn shape() -> Shape {
        Shape::plain(5_000, 15_000)
    }

    #[test]
    fn churn_replaces_the_share_that_was_asked_for() {
        let fleet = Fleet::new(Shape {
            series: 50_000,
            churn: 0.1,
            ..shape()
        })
        .unwrap();
        for scrape in 1..30 {
            let replaced = (0..50_000)
                .filter(|&series| fleet.generation(series, scrape) != fleet.generation(series, scrape - 1))
                .count();
            assert!((2_000..9_000).contains(&replaced), "{replaced} in scrape {scrape}");
        }
        let ever = fleet.series_ever(31);
        assert_eq!(ever, 50_000 + 3 * 50_000);
    }

    #[test]
    fn every_generation_replica_and_tenant_has_series_of_its_own() {
        let fleet = Fleet::new(Shape {
            churn: 0.5,
            replicas: 2,
            ..shape()
        })
        .unwrap();
        let mut seen = HashSet::new();
        for series in 0..fleet.series() {
            for generation in 0..3 {
                let labels = fleet.labels(series, generation);
                assert!(labels.windows(2).all(|pair| pair[0].0 < pair[1].0), "{labels:?}");
                assert!(seen.insert(labels), "series {series}, generation {generation}");
            }
        }
        assert_eq!((fleet.delay(0), fleet.delay(5_000)), (0, 7_500));
    }

    #[test]
    fn tenants_share_the_series_evenly() {
        let fleet = Fleet::new(Shape { tenants: 7, ..shape() }).unwrap();
        let mut counts = [0; 7];
        for series in 0..fleet.series() {
            counts[fleet.tenant(series).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (700..=715).contains(count)), "{counts:?}");
        assert_eq!(Fleet::new(shape()).unwrap().tenant(3), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            Shape { churn: 1.5, ..shape() },
            Shape { churn: -0.1, ..shape() },
            Shape {
                churn: f64::NAN,
                ..shape()
            },
            Shape { replicas: 0, ..shape() },
            Shape { tenants: 0, ..shape() },
            Shape {
                tenants: 5_001,
                ..shape()
            },
        ] {
            assert!(Fleet::new(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
